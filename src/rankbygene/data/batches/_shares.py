"""Batches over several processes: each reads its own share of every batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from rankbygene.data.batches._orders import Passes
from rankbygene.errors import InputValueError

__all__ = ["Shares"]


class Shares(Sampler[Any]):
    """One process's share of every batch: a contiguous part, the parts of all nearly equal.

    Joined in the order of the processes, shares are the batch that one process would read.

    Parameters
    ----------
    batches
        Batches of the whole, the same in every process. Each is an array or a list.
    rank, n_processes
        Which share, of how many.
    """

    def __init__(self, batches: Sampler[Any], rank: int, n_processes: int) -> None:
        self._batches = batches
        self._rank, self._n_processes = rank, n_processes

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Tell the batches which epoch begins."""
        if isinstance(self._batches, Passes):
            self._batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        return map(self._share, self._batches)

    def check(self) -> None:
        """Refuse now, not in the middle of a fit, batches that are the same at every pass."""
        for batch in self._batches:
            self._share(batch)

    def _share(self, batch: Any) -> Any:
        start, stop = (
            len(batch) * rank // self._n_processes for rank in (self._rank, self._rank + 1)
        )
        # All processes must refuse, also those that would get something: they wait for each other.
        if len(batch) < self._n_processes:
            what = "groups of spots" if isinstance(batch, list) else "spots"
            msg = (
                f"a batch of {len(batch)} {what} cannot be shared by {self._n_processes} devices; pass "
                "a larger batch_size (or a smaller group_size), hold out more spots, or use fewer devices"
            )
            raise InputValueError(msg)
        return batch[start:stop]
