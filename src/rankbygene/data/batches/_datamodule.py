"""Batches of tiles and expression for Lightning."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rankbygene._arguments import checked
from rankbygene.data.batches._kept import ContextBatches, KeptContext
from rankbygene.data.batches._orders import (
    FixedBatches,
    Passes,
    ShuffledBatches,
    SlideBatches,
    in_storage_order,
)
from rankbygene.data.batches._resumable import ResumableBatches, sample_of
from rankbygene.data.batches._shares import Shares
from rankbygene.errors import InputKeyError, InputValueError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rankbygene.data.expression._expression import ExpressionBank
    from rankbygene.data.splits._split import Label, SpotSplit

__all__ = ["SpatialDataModule", "TileDataModule"]

T = TypeVar("T")
_END: Any = object()
_PARTS: tuple[Label, ...] = ("train", "validation", "test")

Batch = dict[str, torch.Tensor]

# Batches that are read ahead of the step.
_AHEAD = 2


class Tiles(Protocol):
    """Anything that holds one uint8 image per row, such as a TileBank or an array; or features."""

    def __len__(self) -> int: ...

    def __getitem__(
        self, rows: NDArray[np.intp], /
    ) -> NDArray[np.uint8] | dict[str, torch.Tensor]: ...


class SpatialDataModule(ResumableBatches):
    """Batches over the rows of a tile bank and an expression bank.

    A batch is a dict of tensors: ``image`` uint8 ``[B, 3, px, px]``, ``expression`` float32
    ``[B, n_genes]``, ``measured`` bool ``[B, n_genes]`` (False where the slide lacks the gene),
    ``slide`` int64 ``[B]`` and ``spot`` int64 ``[B]``, the row in the banks. With ``centers`` also
    ``position`` float32 ``[B, 2]``, and with ``context`` what :meth:`KeptContext.of` gives.

    Training rows are shuffled anew in every epoch. Validation rows are shuffled once, because
    neighbours in one batch would be harder to tell apart than in training, and cut into batches
    of nearly equal size; test rows keep their order. Neither the random state of torch nor that
    of numpy is used or changed.

    The next batches are read in a thread while the last one is worked on. In a fit on many devices
    each process reads its share of every batch of training and validation.

    Parameters
    ----------
    bank
        Tiles; ``bank[rows]`` gives uint8 ``[len(rows), 3, px, px]``. Or a :class:`FeatureBank`, whose
        tensors then stand in a batch instead of ``image``.
    expression
        Expression of the same spots, row by row.
    split
        What each spot is used for, or rows under ``"train"``, ``"validation"`` and ``"test"``.
    batch_size
        Number of spots in a batch, over all devices; the losses compare the spots of one batch.
    seed
        Seed of the order.
    drop_last
        Whether spots of an incomplete last batch sit out an epoch of training.
    centers
        Per slide the spot centres ``[n_obs, 2]``, in the order of the banks.
    context
        Kept features of rows that spots look at. Where they look at the whole slide, every batch is of one
        slide: its spots are cut into batches of nearly equal size, none is left out, and the
        batches of all slides are mixed.
    shuffle_window
        For tiles on a disk that memory cannot hold: rows that are shuffled together. Short runs of
        rows that lie side by side in storage are drawn at random from all slides until a window is
        full, and its rows are shuffled, so that not more than two windows are read at a time. None
        shuffles all rows.

    Raises
    ------
    InputValueError
        If the banks differ in length, if rows repeat or do not exist, or if there are fewer
        training rows than one batch holds.
    InputKeyError
        If the explicit rows have no ``"train"`` or an unknown name.
    """

    @checked
    def __init__(
        self,
        bank: Tiles,
        expression: ExpressionBank,
        split: SpotSplit | Mapping[str, ArrayLike],
        *,
        batch_size: int = 64,
        seed: int = 0,
        drop_last: bool = True,
        centers: Sequence[NDArray[np.float64]] | None = None,
        context: KeptContext | None = None,
        shuffle_window: int | None = None,
    ) -> None:
        super().__init__()
        n_rows = len(expression.values)
        if len(bank) != n_rows:
            msg = f"there are {len(bank)} tiles but {n_rows} rows of expression; both need one per spot"
            raise InputValueError(msg)
        if batch_size < 1:
            msg = f"batch_size is {batch_size}; at least 1 is needed"
            raise InputValueError(msg)
        rows = _rows_of_parts(split)
        _check_rows(rows, n_rows)
        if len(rows["train"]) < batch_size:
            msg = (
                f"there are {len(rows['train'])} training spots but a batch holds {batch_size}; "
                "pass a smaller batch_size or hold out fewer spots"
            )
            raise InputValueError(msg)
        if shuffle_window is not None and shuffle_window < batch_size:
            msg = f"shuffle_window is {shuffle_window}; at least batch_size={batch_size} is needed"
            raise InputValueError(msg)
        self.train_idx, self.val_idx, self.test_idx = (rows[part] for part in _PARTS)
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self._bank, self._expression, self._window = bank, expression, shuffle_window
        self._position = None if centers is None else _positions(centers, n_rows)
        self._context = context
        self._batches = self._with_context(RowBatches(bank, expression, self._position))
        self._train_sampler: Any = self._order_of_rows()

    @property
    def n_train(self) -> int:
        """Number of training spots."""
        return len(self.train_idx)

    @property
    def n_val(self) -> int:
        """Number of validation spots."""
        return len(self.val_idx)

    @property
    def smallest_batch(self) -> tuple[int, str | None]:
        """Training spots of the smallest batch, and the slide that it is of where each is of one."""
        if not self._one_slide:
            return self.batch_size, None
        sizes = {
            self._expression.slides[self._expression.slide_of_row[rows[0]]]: _smallest(
                len(rows), self.batch_size
            )
            for rows in self._slides_of(self.train_idx)
        }
        slide = min(sizes, key=sizes.__getitem__)
        return sizes[slide], slide

    def train_dataloader(self) -> DataLoader[Batch]:
        """Give the shuffled training batches."""
        return self._loader(shared(self._train_sampler, self.trainer))

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Give all validation spots, always in the same batches; none without a validation split."""
        if not self.n_val:
            return []
        rng = np.random.default_rng(self.seed)
        slides = self._slides_of(self.val_idx) if self._one_slide else [self.val_idx]
        batches = [batch for rows in slides for batch in self._cut_rows(rows, rng)]
        return self._loader(shared(FixedBatches(batches), self.trainer))

    def test_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Give all test spots in order; none without test spots."""
        if not len(self.test_idx):
            return []
        return self._loader(FixedBatches(self._in_order(self.test_idx)))

    @property
    def _one_slide(self) -> bool:
        """Whether every batch is of one slide."""
        return self._context is not None and self._context.whole

    def _order_of_rows(self) -> Passes:
        if self._one_slide:
            slides = self._slides_of(self.train_idx)
            n_batches = sum(-(-len(rows) // self.batch_size) for rows in slides)
            return SlideBatches(slides, n_batches, self._cut_rows, self.seed)
        train = self.train_idx
        if self._window is not None:
            train = in_storage_order(self._bank, train)
        ahead = getattr(self._bank, "read_ahead", None)
        return ShuffledBatches(
            train, self.batch_size, self.seed, self.drop_last, self._window, ahead
        )

    def _cut_rows(self, rows: NDArray[np.intp], rng: np.random.Generator) -> list[NDArray[np.intp]]:
        """Cut rows, shuffled, into batches of nearly equal size."""
        return np.array_split(rng.permutation(rows), -(-len(rows) // self.batch_size))

    def _in_order(self, rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        slides = self._slides_of(rows) if self._one_slide else [rows]
        return [
            batch
            for own in slides
            for batch in np.split(own, np.arange(self.batch_size, len(own), self.batch_size))
        ]

    def _slides_of(self, rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        slide = self._expression.slide_of_row[rows]
        return [rows[slide == number] for number in np.unique(slide)]

    def _with_context(self, batches: Dataset[Batch]) -> Dataset[Batch]:
        return batches if self._context is None else ContextBatches(batches, self._context)

    def _loader(self, batches: Sampler[NDArray[np.intp]]) -> DataLoader[Batch]:
        return _loader(self._batches, batches, self.seed)

    def _train_order(self) -> Passes:
        order: Passes = self._train_sampler
        return order

    def _content(self) -> Iterator[Any]:
        yield from (self.seed, self.batch_size, self.drop_last, self._window)
        yield from (self.train_idx, self.val_idx)
        yield from (self._expression.values, self._expression.measured)
        inputs = self._bank[sample_of(self.train_idx)]
        if not isinstance(inputs, dict):
            yield inputs
        if self._context is not None:
            yield from self._context.content()

    def sample(self) -> dict[str, torch.Tensor]:
        """Give the kept features of a few spots, if there are any, in one orientation."""
        inputs = self._bank[sample_of(self.train_idx)]
        found = {} if self._context is None else self._context.sample()
        if isinstance(inputs, dict):
            found |= {name: rows[:, 0].float() for name, rows in inputs.items()}
        return found


class TileDataModule(ResumableBatches):
    """Batches over all rows of a tile bank, without expression.

    A batch is a dict with ``image``, uint8 ``[B, 3, px, px]``. Rows are shuffled anew in every
    epoch, and those of an incomplete last batch sit it out.

    Parameters
    ----------
    bank
        Tiles; ``bank[rows]`` gives uint8 ``[len(rows), 3, px, px]``.
    batch_size
        Number of tiles in a batch, over all devices; the losses compare the tiles of one batch.
    seed
        Seed of the order.

    Raises
    ------
    InputValueError
        If there are fewer tiles than one batch holds.
    """

    @checked
    def __init__(self, bank: Tiles, *, batch_size: int = 256, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= batch_size <= len(bank):
            msg = (
                f"batch_size is {batch_size} and there are {len(bank)} tiles; pass a batch_size "
                "between 1 and that, or cut more tiles (a smaller step_um)"
            )
            raise InputValueError(msg)
        self.batch_size, self.seed = batch_size, seed
        self._bank = bank
        self._sampler = ShuffledBatches(np.arange(len(bank)), batch_size, seed, drop_last=True)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Give the shuffled batches."""
        return _loader(_TileBatches(self._bank), shared(self._sampler, self.trainer), self.seed)

    def _train_order(self) -> Passes:
        return self._sampler

    def _content(self) -> Iterator[Any]:
        yield from (self.seed, self.batch_size, len(self._bank))
        yield self._bank[sample_of(np.arange(len(self._bank)))]


def shared(batches: Sampler[Any], trainer: pl.Trainer | None) -> Sampler[Any]:
    """Keep this process's share of every batch, where a fit has several processes."""
    if trainer is None or trainer.world_size == 1:
        return batches
    shares = Shares(batches, trainer.global_rank, trainer.world_size)
    if isinstance(batches, FixedBatches):
        shares.check()
    return shares


def _loader(
    dataset: Dataset[Batch], batches: Sampler[NDArray[np.intp]], seed: int
) -> DataLoader[Batch]:
    # One index of the dataset is a whole batch: a single gather per bank instead of one per
    # spot. Without a generator of its own the loader would draw from torch's global state.
    return _Prefetching(
        dataset,
        sampler=batches,
        batch_size=None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),
    )


class _Prefetching(DataLoader[Batch]):
    """Reads the next batches in a thread, in the order and with the numbers of a plain loader."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return prefetched(super().__iter__(), _AHEAD)


def prefetched(items: Iterator[T], ahead: int) -> Iterator[T]:
    """Draw items in a thread, so many ahead of the one that is worked on.

    What drawing an item raises is raised where the item would have come. The thread ends with the
    iterator, also when that is given up early.
    """
    thread = ThreadPoolExecutor(1, "rankbygene-prefetch")  # one, so that items keep their order
    waiting = deque(thread.submit(next, items, _END) for _ in range(ahead))
    try:
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(thread.submit(next, items, _END))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


class RowBatches(Dataset[Batch]):
    """The banks, indexed by the rows of a whole batch."""

    def __init__(
        self,
        bank: Tiles,
        expression: ExpressionBank,
        position: NDArray[np.float32] | None = None,
    ) -> None:
        self._bank = bank
        self._expression = expression
        self._position = position

    def __len__(self) -> int:
        return len(self._bank)

    def __getitem__(self, rows: NDArray[np.intp]) -> Batch:
        slides = self._expression.slide_of_row[rows]
        where = {} if self._position is None else {"position": self._position[rows]}
        return {
            **_inputs(self._bank, rows),
            "expression": torch.from_numpy(self._expression.values[rows]),
            "measured": torch.from_numpy(self._expression.measured[slides]),
            "slide": torch.from_numpy(slides),
            "spot": torch.from_numpy(rows.astype(np.int64)),
            **{name: torch.from_numpy(values) for name, values in where.items()},
        }


class _TileBatches(Dataset[Batch]):
    """A bank of tiles, indexed by the rows of a whole batch."""

    def __init__(self, bank: Tiles) -> None:
        self._bank = bank

    def __len__(self) -> int:
        return len(self._bank)

    def __getitem__(self, rows: NDArray[np.intp]) -> Batch:
        return _inputs(self._bank, rows)


def _inputs(bank: Tiles, rows: NDArray[np.intp]) -> Batch:
    """Give images, or the features that are kept in their place."""
    found = bank[rows]
    if isinstance(found, dict):
        return found
    return {"image": torch.from_numpy(np.ascontiguousarray(found))}


def _positions(centers: Sequence[NDArray[np.float64]], n_rows: int) -> NDArray[np.float32]:
    n_centers = sum(map(len, centers))
    if n_centers != n_rows:
        msg = f"there are {n_centers} centres but {n_rows} tiles; both need one per spot"
        raise InputValueError(msg)
    return np.concatenate(list(centers)).astype(np.float32)


def _smallest(n_rows: int, batch_size: int) -> int:
    """Rows of the smallest of as few batches as hold so many rows, all of nearly equal size."""
    return n_rows // -(-n_rows // batch_size)


def _rows_of_parts(split: SpotSplit | Mapping[str, ArrayLike]) -> dict[str, NDArray[np.intp]]:
    if not isinstance(split, Mapping):
        return {part: split.rows(part) for part in _PARTS}
    unknown = sorted(set(split) - set(_PARTS))
    if unknown or "train" not in split:
        msg = (
            f"explicit rows need 'train' and may have 'validation' and 'test'; got {sorted(split)}"
        )
        raise InputKeyError(msg)
    return {part: np.asarray(split.get(part, ()), dtype=np.intp) for part in _PARTS}


def _check_rows(rows: Mapping[str, NDArray[np.intp]], n_rows: int) -> None:
    joined = np.concatenate(list(rows.values()))
    outside = joined[(joined < 0) | (joined >= n_rows)]
    if outside.size:
        msg = f"{outside.size} rows are not among the {n_rows} spots (first: {outside[0]})"
        raise InputValueError(msg)
    names, counts = np.unique(joined, return_counts=True)
    repeated = names[counts > 1]
    if repeated.size:
        msg = f"{repeated.size} rows are used more than once (first: {repeated[0]})"
        raise InputValueError(msg)
