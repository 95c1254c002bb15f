"""Training of networks that see each tile by itself: from a random view of its pixels, or of what was kept."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from rankbygene.base.spots._module import split_widths
from rankbygene.base.spots._plan import SpotPlan
from rankbygene.train._batch_plan import Batch, WholeBatch
from rankbygene.train._grad_cache import Tiles
from rankbygene.train._views import random_kept_view, strong_view, weak_view

__all__ = ["SingleTilePlan"]


class SingleTilePlan(SpotPlan):
    """Training of a :class:`~rankbygene.base.TileModule` by a weighted sum of losses.

    Every step shows each tile in one of its eight orientations, or a view that varies in colour as well. Subclasses say what the losses make of
    the encoder's features. Parameters are those of :class:`~rankbygene.base.SpotPlan`.
    """

    # A TileModule; one with a term `expression` has `predict_from_features`, too.
    module: Any
    # Whether views vary in colour, and not in orientation alone.
    color: bool = False

    @abstractmethod
    def terms(self, features: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Compute every term that has a weight, unweighted.

        Parameters
        ----------
        features
            Of the tiles of the whole batch, float32 ``[B, n_features]``.
        batch
            What else is known of their spots: ``expression`` and ``measured`` ``[B, n_genes]``.
        """

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute every term that has a weight, unweighted, for one batch."""
        whole = self.whole(batch)
        features = self._features(whole, generator)
        # Similarities and exponentials lose too much in half precision.
        with torch.autocast(self.device.type, enabled=False):
            return self.terms(features, whole.targets)

    def judge(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give predictions of the images as they are beside the truth."""
        if "features" in batch:
            features = batch["features"][:, 0].float()
        else:
            features = self.module.averaged_features(batch["image"], tta=1)
        predicted = self.module.predict_from_features(features)
        return batch["expression"], predicted, batch["measured"], batch["slide"]

    def _features(self, whole: WholeBatch, generator: torch.Generator) -> torch.Tensor:
        if whole.tiles is None:
            (kept,) = random_kept_view([whole.targets["features"]], generator)
            return kept.float()
        (features,) = self.encode(self._encoded, whole, generator)
        return features

    def _encoded(self, tiles: Tiles, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        n_widths = tiles.images.shape[1] // 3
        view = strong_view if self.color else weak_view
        seen = view(
            split_widths(tiles.images),
            generator,
            groups=tiles.places.repeat_interleave(n_widths),
            n_draws=tiles.n * n_widths,
        )
        return (self.module.image_features(seen.view(tiles.images.shape)).float(),)
