"""Features of tiles in the place of tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from rankbygene._arguments import checked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FeatureBank"]


class FeatureBank:
    """What an encoder that does not change says of every tile, in several orientations.

    It stands where a :class:`TileBank` stands: a batch then holds these tensors and no ``image``.

    Parameters
    ----------
    tensors
        By name, each ``[n, V, ...]`` for ``n`` tiles in ``V`` orientations.
    """

    @checked
    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: NDArray[np.intp]) -> dict[str, torch.Tensor]:
        """Return a copy of some rows of every tensor."""
        index = torch.from_numpy(rows)
        return {name: tensor[index] for name, tensor in self.tensors.items()}
