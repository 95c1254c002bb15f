"""What batches need so that an interrupted fit goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data.batches._orders import Passes

__all__ = ["ResumableBatches"]

# Rows whose pixels or features are looked at to tell data apart.
_LOOKED_AT = 16


class ResumableBatches(pl.LightningDataModule):
    """Batches in an order that depends on the seed, the epoch and the place in it alone."""

    @property
    def n_val(self) -> int:
        """Number of what is validated on."""
        return 0

    @abstractmethod
    def _train_order(self) -> Passes:
        """Give the sampler of training."""

    @abstractmethod
    def _content(self) -> Iterator[Any]:
        """Give arrays and plain values that are the same only for the same batches."""

    def start_at(self, epoch: int, batch: int) -> None:
        """Leave out the batches of an epoch that come before this one."""
        self._train_order().start_at(epoch, batch)

    def fingerprint(self) -> str:
        """Tell these batches from others: by rows, expression or outcomes, and a sample of inputs."""
        digest = hashlib.sha256()
        for item in self._content():
            digest.update(_as_bytes(item))
        return digest.hexdigest()

    def sample(self) -> dict[str, torch.Tensor]:
        """Give a few of the inputs that were computed, and so may differ by rounding."""
        return {}


def sample_of(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Choose rows from all over."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _LOOKED_AT)).astype(np.intp))
    chosen: NDArray[np.intp] = rows[places]
    return chosen


def _as_bytes(item: Any) -> bytes:
    if isinstance(item, dict):
        return b"".join(name.encode() + _as_bytes(value) for name, value in item.items())
    if isinstance(item, np.ndarray) and item.dtype != object:
        return repr((item.shape, item.dtype.str)).encode() + np.ascontiguousarray(item).tobytes()
    return repr(item).encode()
