"""Batches of neighbourhoods, in which a tile that several spots share appears once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rankbygene._arguments import checked
from rankbygene._renamed import renamed
from rankbygene.data.batches._datamodule import (
    Batch,
    RowBatches,
    SpatialDataModule,
    Tiles,
    shared,
)
from rankbygene.data.batches._orders import FixedBatches, Passes, SlideBatches
from rankbygene.data.expression._neighbors import local_places, nearest_spots
from rankbygene.data.slides._groups import halve, tilted
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rankbygene.data.batches._kept import KeptContext
    from rankbygene.data.expression._expression import ExpressionBank
    from rankbygene.data.splits._split import SpotSplit

    # Rows of a slide, and their centres.
    Slide = tuple[NDArray[np.intp], NDArray[np.float64]]

__all__ = ["NeighbourhoodDataModule"]


class NeighbourhoodDataModule(SpatialDataModule):
    """Batches of spots together with the spots around them.

    A batch consists of a few compact groups of spots, drawn from all slides. Within a group the
    neighbourhoods overlap, so that the different tiles of a group are its spots and a margin of one
    spot's width: reading and encoding them costs less than twice the spots alone, where single spots
    would cost ``n`` times as much.

    A batch has the keys of :class:`SpatialDataModule`, over its ``U`` different tiles, and two more:
    ``neighbours`` int64 ``[B, n]``, for each of its ``B`` spots the places of its neighbourhood
    among the ``U``, itself first and -1 for a missing one; and ``group`` int64 ``[U]``, the group
    that a tile was read for. What ``context`` gives is of the ``B`` spots.

    Neighbours on the other side of a split are missing: neither their image nor their expression
    enters. Groups are cut anew in every epoch, along other lines, and put together until a batch
    has as many spots as asked; where none fits in the rest of a batch, one is cut in two.

    Parameters
    ----------
    bank, expression, split, seed, context
        As for :class:`SpatialDataModule`.
    centers
        Per slide the spot centres ``[n_obs, 2]``, in the order of the banks.
    n
        Spots of a neighbourhood, the spot itself included, see :func:`nearest_spots`.
    batch_size
        Spots in a batch, over all devices, not counting the margins.
    group_size
        Spots in a group at most. Larger ones share more tiles; smaller ones make the spots of a batch less
        alike. Devices share a batch by whole groups.
    drop_last
        Whether spots of an incomplete last batch sit out an epoch of training, others in each. By
        default every training spot is seen once in an epoch, and the last batch may be smaller.

    Raises
    ------
    InputValueError
        As for :class:`SpatialDataModule`, or the centres are not one per spot, or ``group_size`` is
        not between 1 and ``batch_size``.
    """

    @checked
    @renamed(patch_size="group_size")
    def __init__(
        self,
        bank: Tiles,
        expression: ExpressionBank,
        split: SpotSplit | Mapping[str, ArrayLike],
        centers: Sequence[NDArray[np.float64]],
        *,
        n: int = 9,
        batch_size: int = 64,
        group_size: int = 32,
        seed: int = 0,
        drop_last: bool = False,
        context: KeptContext | None = None,
    ) -> None:
        self._centers, self.group_size = centers, group_size
        super().__init__(
            bank,
            expression,
            split,
            batch_size=batch_size,
            seed=seed,
            drop_last=drop_last,
            centers=centers,
            context=context,
        )
        if not 1 <= group_size <= batch_size:
            msg = f"group_size is {group_size}; between 1 and batch_size={batch_size} is needed"
            raise InputValueError(msg)
        parts = (self.train_idx, self.val_idx, self.test_idx)
        neighbours = _within_parts(_neighbours_of_all(centers, n), parts)
        rows = RowBatches(bank, expression, self._position)
        self._batches = self._with_context(_HoodBatches(rows, neighbours))
        slides = self._by_slide(self.train_idx)
        self._train_sampler = (
            SlideBatches(slides, len(self._train_sampler), self._cut_groups, seed)
            if self._one_slide
            else _GroupBatches(slides, group_size, batch_size, seed, drop_last)
        )

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Give all validation spots, always in the same batches; none without a validation split."""
        if not self.n_val:
            return []
        rng = np.random.default_rng(self.seed)
        slides = self._by_slide(self.val_idx)
        # Of all slides together, or of each.
        sets = [[slide] for slide in slides] if self._one_slide else [slides]
        batches = [
            batch for own in sets for batch in self._fill(_cut(own, self.group_size), own, rng)
        ]
        return self._loader(shared(FixedBatches(batches), self.trainer))

    def test_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Give all test spots in order; none without test spots."""
        if not len(self.test_idx):
            return []
        return self._loader(FixedBatches([[rows] for rows in self._in_order(self.test_idx)]))

    def _cut_groups(self, slide: Slide, rng: np.random.Generator) -> list[list[NDArray[np.intp]]]:
        """Cut one slide into batches of nearly equal size, each of compact groups."""
        return self._fill(_cut([slide], self.group_size, rng), [slide], rng)

    def _fill(
        self,
        groups: Sequence[NDArray[np.intp]],
        slides: Sequence[Slide],
        rng: np.random.Generator,
    ) -> list[list[NDArray[np.intp]]]:
        n_spots = sum(len(rows) for rows, _ in slides)
        parts = np.array_split(np.arange(n_spots), -(-n_spots // self.batch_size))
        return list(_filled(groups, rng, [len(part) for part in parts]))

    def _content(self) -> Iterator[Any]:
        yield from super()._content()
        yield self.group_size
        yield from self._centers

    def _by_slide(self, rows: NDArray[np.intp]) -> list[Slide]:
        """Rows and their centres, slide by slide."""
        stops = list(accumulate(map(len, self._centers)))
        slide = np.searchsorted(stops, rows, side="right")
        joined = np.concatenate(list(self._centers))
        return [(rows[slide == i], joined[rows[slide == i]]) for i in np.unique(slide)]


@checked
class _HoodBatches(Dataset[Batch]):
    """The banks, indexed by the groups of a batch."""

    def __init__(self, rows: RowBatches, neighbours: NDArray[np.intp]) -> None:
        self._rows = rows
        self._neighbours = neighbours

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, groups: Sequence[NDArray[np.intp]]) -> Batch:
        rows, places = [], []
        n_tiles = 0
        for group in groups:
            own, place = local_places(self._neighbours[group])
            rows.append(own)
            places.append(np.where(place >= 0, place + n_tiles, -1))
            n_tiles += len(own)
        group_of_tile = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        return {
            **self._rows[np.concatenate(rows)],
            "neighbours": torch.from_numpy(np.concatenate(places).astype(np.int64)),
            "group": torch.from_numpy(group_of_tile.astype(np.int64)),
        }


class _GroupBatches(Passes, Sampler["list[NDArray[np.intp]]"]):
    """Batches of groups, cut and ordered anew at every pass by the seed and the pass alone."""

    def __init__(
        self,
        slides: list[Slide],
        group_size: int,
        batch_size: int,
        seed: int,
        drop_last: bool,
    ) -> None:
        super().__init__()
        self._slides = slides
        self._group_size, self._seed = group_size, seed
        n_full, rest = divmod(sum(len(rows) for rows, _ in slides), batch_size)
        self._sizes = [batch_size] * n_full + ([rest] if rest and not drop_last else [])

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[list[NDArray[np.intp]]]:
        epoch, first = self.begin()
        rng = np.random.default_rng([self._seed, epoch])
        groups = _cut(self._slides, self._group_size, rng)
        yield from islice(_filled(groups, rng, self._sizes), first, None)


def _cut(
    slides: Sequence[Slide],
    size: int,
    rng: np.random.Generator | None = None,
) -> list[NDArray[np.intp]]:
    """Cut slides into groups of ``size`` and a smaller one each, as ``compact_groups`` does.

    Rows of a group that follow each other lie side by side, so that a part of it is compact too.
    """
    groups: list[NDArray[np.intp]] = []
    for rows, centers in slides:
        # Turned about, so that the smaller one is at another corner each time.
        points = centers if rng is None else tilted(centers, rng) * rng.choice((-1, 1), 2)
        own = halve(np.arange(len(rows)), points, -(-len(rows) // size), size)
        groups.extend(rows[places] for places in own)
    return groups


def _filled(
    groups: Sequence[NDArray[np.intp]], rng: np.random.Generator, sizes: Sequence[int]
) -> Iterator[list[NDArray[np.intp]]]:
    """Fill batches of so many spots with groups in random order, cutting as few as possible."""
    waiting = [groups[i] for i in rng.permutation(len(groups))]
    for missing in sizes:
        batch: list[NDArray[np.intp]] = []
        while missing:
            fits = next((i for i, group in enumerate(waiting) if len(group) <= missing), None)
            group = waiting.pop(0 if fits is None else fits)
            if fits is None:  # what is left of it waits for a gap of its size
                waiting.append(group[missing:])
                group = group[:missing]
            batch.append(group)
            missing -= len(group)
        yield batch


def _neighbours_of_all(centers: Sequence[NDArray[np.float64]], n: int) -> NDArray[np.intp]:
    """Nearest spots on each slide, as rows counted through all slides."""
    starts = [0, *accumulate(map(len, centers))]
    own = [nearest_spots(points, n) for points in centers]
    return np.concatenate(
        [np.where(index >= 0, index + start, -1) for index, start in zip(own, starts, strict=False)]
    )


def _within_parts(
    neighbours: NDArray[np.intp], parts: Sequence[NDArray[np.intp]]
) -> NDArray[np.intp]:
    """Drop neighbours that the split puts elsewhere."""
    part = np.full(len(neighbours), -1)
    for number, rows in enumerate(parts):
        part[rows] = number
    same = (neighbours >= 0) & (part[neighbours] == part[:, None])
    return np.where(same, neighbours, -1)
