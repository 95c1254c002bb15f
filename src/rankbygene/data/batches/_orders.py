"""Orders in which rows are put into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")

# Rows that stay together when rows are shuffled in windows.
_BLOCK = 16


class Passes:
    """Which pass over the rows comes next, and where in it a resumed fit goes on.

    Lightning says which epoch begins; by itself every pass is the one after the last.
    """

    def __init__(self) -> None:
        self._epoch = 0
        self._start = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Make ``epoch`` the next pass."""
        self._epoch = epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Leave out the batches of a pass that come before this one, when it begins next."""
        self._start = (epoch, batch)

    def begin(self) -> tuple[int, int]:
        """Give the pass that begins and its first batch."""
        epoch, (known, batch) = self._epoch, self._start
        self._epoch, self._start = epoch + 1, (0, 0)
        return epoch, batch if epoch == known else 0


class ShuffledBatches(Passes, Sampler["NDArray[np.intp]"]):
    """Rows in a new order at every pass; the order depends on the seed and the pass alone."""

    def __init__(
        self,
        rows: NDArray[np.intp],
        batch_size: int,
        seed: int,
        drop_last: bool,
        window: int | None = None,
        read_ahead: Callable[[NDArray[np.intp]], None] | None = None,
    ) -> None:
        super().__init__()
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self._window, self._read_ahead = window, read_ahead
        self._n_used = len(rows) - len(rows) % batch_size if drop_last else len(rows)

    def __len__(self) -> int:
        return -(-self._n_used // self._batch_size)

    def __iter__(self) -> Iterator[NDArray[np.intp]]:
        epoch, first = self.begin()
        rng = np.random.default_rng([self._seed, epoch])
        if self._window is None:
            order = rng.permutation(self._rows)
        else:
            order = shuffled_in_windows(self._rows, self._window, rng)
        begin = first * self._batch_size
        announced = begin - begin % self._window if self._window else 0
        for start in range(begin, self._n_used, self._batch_size):
            if self._window and self._read_ahead:
                # This window, and the next one once this one has begun.
                while announced < min(start + self._window, len(order)):
                    self._read_ahead(order[announced : announced + self._window])
                    announced += self._window
            yield order[start : min(start + self._batch_size, self._n_used)]


def shuffled_in_windows(
    rows: NDArray[np.intp], window: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Shuffle short runs of rows, and then the rows within windows of many runs.

    Parameters
    ----------
    rows
        Rows in the order of storage, ``[n]``.
    window
        Rows that are shuffled together.
    rng
        Decides the order.

    Returns
    -------
    The same rows in another order.
    """
    # Runs begin at another row each time, so that the same rows do not always stay together.
    first = int(rng.integers(_BLOCK))
    blocks = np.split(rows, np.arange(first, len(rows), _BLOCK))
    order = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
    for start in range(0, len(order), window):
        rng.shuffle(order[start : start + window])
    return order


def in_storage_order(bank: object, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Sort rows by where the bank keeps them."""
    places = getattr(bank, "places", None)
    return np.sort(rows) if places is None else rows[np.argsort(places[rows])]


class SlideBatches(Passes, Sampler[Any]):
    """Batches of one slide each, cut and mixed anew at every pass by the seed and the pass alone.

    Parameters
    ----------
    slides
        What is cut, slide by slide.
    n_batches
        How many batches all slides give.
    cut
        Cuts one slide.
    seed
        Seed of the order.
    """

    def __init__(
        self,
        slides: Sequence[T],
        n_batches: int,
        cut: Callable[[T, np.random.Generator], Sequence[Any]],
        seed: int,
    ) -> None:
        super().__init__()
        self._slides, self._n_batches, self._cut, self._seed = slides, n_batches, cut, seed

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[Any]:
        epoch, first = self.begin()
        rng = np.random.default_rng([self._seed, epoch])
        batches = [batch for slide in self._slides for batch in self._cut(slide, rng)]
        yield from (batches[i] for i in rng.permutation(len(batches))[first:])


class FixedBatches(Sampler[Any]):
    """The same batches at every pass."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)
