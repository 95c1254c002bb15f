"""The profiles that BLEEP retrieves from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["ReferenceBank", "Retrieved", "Weighting"]

Weighting = Literal["mean", "softmax"]

# Images that are compared with the whole bank at a time.
_AT_ONCE = 256


@dataclass(frozen=True)
class Retrieved:
    """What was found for images.

    Attributes
    ----------
    expression
        ``[n, n_genes]`` on the training scale.
    rows
        int64 ``[n, k]``: the profiles of the bank, the nearest first.
    spread
        ``[n, n_genes]``: standard deviation over those profiles.
    """

    expression: torch.Tensor
    rows: torch.Tensor
    spread: torch.Tensor


@dataclass(frozen=True)
class ReferenceBank:
    """Embedded profiles of the training spots.

    Attributes
    ----------
    keys
        Embeddings ``[n, n_latent]``.
    expression
        ``[n, n_genes]`` on the training scale, NaN where a gene was not measured.
    spots
        Slide and name of each profile.
    """

    keys: torch.Tensor
    expression: torch.Tensor
    spots: list[tuple[str, str]]

    def retrieve(self, queries: torch.Tensor, k: int, weighting: Weighting) -> Retrieved:
        """Average the ``k`` profiles that are nearest to each image by cosine similarity.

        Parameters
        ----------
        queries
            Embeddings of images ``[n, n_latent]``.
        k
            How many; all, where the bank has fewer.
        weighting
            ``"mean"``, or ``"softmax"`` of minus the squared distances of the embeddings.
        """
        bank = self.to(queries.device)
        parts = [bank._of_block(block, k, weighting) for block in torch.split(queries, _AT_ONCE)]
        return Retrieved(*(torch.cat(rows) for rows in zip(*parts, strict=True)))

    def to(self, device: torch.device) -> ReferenceBank:
        """Give the bank on a device."""
        return ReferenceBank(self.keys.to(device), self.expression.to(device), self.spots)

    def _of_block(
        self, queries: torch.Tensor, k: int, weighting: Weighting
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        cosine = F.normalize(queries, dim=1) @ F.normalize(self.keys, dim=1).T
        rows = cosine.topk(min(k, len(self.keys)), dim=1).indices
        found = self.expression[rows]
        known = ~found.isnan()
        weights = known.to(found.dtype)
        if weighting == "softmax":
            distance = (queries[:, None] - self.keys[rows]).square().sum(2)
            weights = weights * F.softmax(-distance, dim=1)[..., None]
        total = weights.sum(1)
        mean = (found.nan_to_num() * weights).sum(1) / total
        # A gene that none of them was measured for is the mean of those that were.
        mean = torch.where(total > 0, mean, self.expression.nanmean(dim=0))
        error = torch.where(known, found - mean[:, None], 0.0)
        spread = (error.square().sum(1) / known.sum(1).clamp(min=1)).sqrt()
        return mean, rows, spread

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Give what is saved with a model."""
        text = np.frombuffer(json.dumps(self.spots).encode(), np.uint8).copy()
        return {
            "keys": self.keys.cpu(),
            "expression": self.expression.cpu(),
            "spots": torch.from_numpy(text),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> ReferenceBank:
        """Read what :meth:`to_tensors` gave."""
        spots: Any = json.loads(tensors["spots"].numpy().tobytes())
        return cls(tensors["keys"], tensors["expression"], [tuple(spot) for spot in spots])
