"""How an image encoder is trained on tiles alone."""

from __future__ import annotations

from typing import Any

import torch

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.methods.simclr._module import SimCLRModule
from rankbygene.nn.losses import nt_xent
from rankbygene.train._batch_plan import Batch, BatchPlan
from rankbygene.train._grad_cache import Tiles
from rankbygene.train._optimizer import adamw, with_warmup
from rankbygene.train._views import strong_view

__all__ = ["SimCLRPlan"]


class SimCLRPlan(BatchPlan):
    """Training of :class:`~rankbygene.module.SimCLRModule`: two views of a tile, told from others.

    Parameters
    ----------
    module
        The network.
    temperature
        See :func:`~rankbygene.nn.losses.nt_xent`.
    crop
        Share of a tile's area that a view shows, see :func:`~rankbygene.train.strong_view`.
    lr, weight_decay
        Of AdamW.
    warmup
        Share of the steps over which the learning rate rises before it falls along a cosine.
    chunk_size
        Tiles that a process encodes at a time, so that large batches fit in little memory. None: its
        whole share of a batch.
    seed
        Of the views.

    Raises
    ------
    InputValueError
        A setting is out of range.

    References
    ----------
    :cite:p:`chen2020simclr`
    """

    @checked
    def __init__(
        self,
        module: SimCLRModule,
        *,
        temperature: float = 0.1,
        crop: tuple[float, float] = (0.3, 1.0),
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float = 0.1,
        chunk_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(module, chunk_size=chunk_size, seed=seed)
        if not (temperature > 0 and lr > 0):
            msg = f"temperature and lr must be positive, found {temperature} and {lr}"
            raise InputValueError(msg)
        if not 0 < crop[0] <= crop[1] <= 1:
            msg = f"crop is {crop}; pass two shares of the area, (smallest, largest), above 0 and up to 1"
            raise InputValueError(msg)
        self.module: SimCLRModule
        self.temperature, self.crop = temperature, crop
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute how well each view is told by the other one: ``contrast``."""
        features = self.encode(self._both_views, self.whole(batch), generator)
        # Similarities and exponentials lose too much in half precision.
        with torch.autocast(self.device.type, enabled=False):
            first, second = self.module.project(torch.cat(features)).chunk(2)
            return {"contrast": nt_xent(first, second, self.temperature)}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return the loss."""
        loss = self.losses(batch, self.generator)["contrast"]
        self.add_to_epoch({"train_loss": loss}, len(batch["image"]))
        return {"loss": loss}

    def _both_views(self, tiles: Tiles, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        images = tiles.images.to(self.module.pixel_mean.dtype) / 255
        views = [
            strong_view(images, generator, crop=self.crop, groups=tiles.places, n_draws=tiles.n)
            for _ in range(2)
        ]
        # Both views in one pass, so that batch statistics cannot tell one from the other.
        return self.module.image_features(torch.cat(views)).float().chunk(2)

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate rises, then falls along a cosine."""
        optimizer = adamw(
            self, self.module.parameters(), lr=self.lr, weight_decay=self.weight_decay
        )
        return with_warmup(optimizer, self.warmup, int(self.trainer.estimated_stepping_batches))
