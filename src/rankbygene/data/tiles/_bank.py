"""The tiles of all slides, in memory or in memory-mapped files."""

from __future__ import annotations

import math
import mmap
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from rankbygene._arguments import checked
from rankbygene._atomic import scratch
from rankbygene.data.slides._geometry import TilePlan
from rankbygene.data.tiles._cache import cached_tiles
from rankbygene.data.tiles._tiles import TileReader, tile_widths
from rankbygene.errors import Problems

if TYPE_CHECKING:
    from rankbygene.data.slides._frame import SpotFrame

# Bytes of tiles that are held in memory.
MEMORY_LIMIT = 8 * 2**30
# Bytes that the files of a cache may take.
CACHE_LIMIT = 200 * 2**30


class TileBank:
    """The tiles of several slides, cut once, in the order of the slides and of their spots.

    Made by :meth:`build`.

    Parameters
    ----------
    parts
        Tiles of each slide, uint8 ``[n, 3, tile_px, tile_px]``, with several widths ``3 * n_widths``
        channels; arrays, or memory maps.
    places
        For each spot the row of its tile in the part, if that is not the spot's own.
    plans
        Where the tiles were cut.

    Attributes
    ----------
    slices
        ``{slide: rows}``.
    plans
        ``{slide: plan}``.
    places
        Rank of each row in storage, ``[n]``; None where the tiles are in memory. Rows of near rank
        lie side by side on the disk, and mostly in the tissue.
    """

    @checked
    def __init__(
        self,
        parts: Mapping[str, NDArray[np.uint8]],
        plans: Mapping[str, TilePlan],
        places: Mapping[str, NDArray[np.intp]] | None = None,
    ) -> None:
        self._parts = list(parts.values())
        self._stops = np.cumsum([len(part) for part in self._parts])
        starts = (self._stops - [len(part) for part in self._parts]).tolist()
        bounds = zip(parts, starts, self._stops.tolist(), strict=True)
        self.slices = {name: slice(start, stop) for name, start, stop in bounds}
        self._every = np.arange(self._stops[-1])
        self.plans = dict(plans)
        self.places: NDArray[np.intp] | None = None
        if places is not None:
            self.places = np.concatenate(
                [places[name] + start for name, start in zip(parts, starts, strict=True)]
            )

    @classmethod
    @checked
    def build(
        cls,
        frames: Mapping[str, SpotFrame],
        *,
        tile_um: float | Sequence[float],
        tile_px: int,
        memory_limit: int = MEMORY_LIMIT,
        cache_dir: str | Path | None = None,
        cache_limit: int = CACHE_LIMIT,
    ) -> TileBank:
        """Cut the tiles of all slides.

        Parameters
        ----------
        frames
            The slides.
        tile_um, tile_px
            Width of a tile in micrometres, or several widths, and in pixels.
        memory_limit
            Bytes above which the tiles go to temporary files instead of memory. The system's
            temporary folder holds them, and they are removed together with the bank.
        cache_dir
            Folder that keeps the tiles for other sessions, models and processes, one file per slide;
            what it holds already is not cut again. The files can be deleted at any time. A changed
            image is told from the old one by all of its pixels, for which the level that is cut is
            decoded once whenever the cache is opened.
        cache_limit
            Bytes that the files in ``cache_dir`` may take.

        Raises
        ------
        InputValueError
            Tiles cannot be placed (as for :func:`plan_tiles`, for all slides together), or the
            disk has no room for them.
        """
        readers = _readers(frames, tile_um=tile_um, tile_px=tile_px)
        tile_shape = (3 * len(tile_widths(tile_um)), tile_px, tile_px)
        n_bytes = sum(frame.n_obs for frame in frames.values()) * math.prod(tile_shape)
        if cache_dir is None and n_bytes <= memory_limit:
            plans = {name: reader.plan for name, reader in readers.items()}
            return cls({name: reader.read() for name, reader in readers.items()}, plans)
        if cache_dir is not None:
            return cls._of_files(Path(cache_dir), frames, readers, cache_limit, kept=True)
        with ExitStack() as files:
            folder = files.enter_context(scratch("rankbygene-tiles"))
            bank = cls._of_files(folder, frames, readers, sys.maxsize, kept=False)
            finalize(bank, _remove, files.pop_all(), os.getpid())
        return bank

    @classmethod
    def _of_files(
        cls,
        folder: Path,
        frames: Mapping[str, SpotFrame],
        readers: Mapping[str, TileReader],
        limit: int,
        *,
        kept: bool,
    ) -> TileBank:
        parts: dict[str, NDArray[np.uint8]] = {}
        places: dict[str, NDArray[np.intp]] = {}
        for name, reader in readers.items():
            parts[name], places[name] = cached_tiles(
                folder, frames[name], reader, limit=limit, kept=kept
            )
        return cls(parts, {name: reader.plan for name, reader in readers.items()}, places)

    @property
    def n_bytes(self) -> int:
        """Bytes of all tiles."""
        return sum(part.nbytes for part in self._parts)

    def __len__(self) -> int:
        return len(self._every)

    @checked
    def read_ahead(self, rows: NDArray[np.intp]) -> None:
        """Let the system read the tiles of some rows from the disk, run by run, before they are asked for."""
        if self.places is None:
            return
        wanted = np.sort(self.places[rows])
        numbers = np.searchsorted(self._stops, wanted, side="right")
        breaks = np.flatnonzero((np.diff(wanted) > 1) | (np.diff(numbers) > 0)) + 1
        for run in np.split(wanted, breaks):
            number = np.searchsorted(self._stops, run[0], side="right")
            part = self._parts[number]
            _read_ahead(part, run - self._stops[number] + len(part))

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """Return a copy of some tiles, ``[k, 3, tile_px, tile_px]``, in the order of ``rows``."""
        wanted = self._every[rows]
        if self.places is not None:
            wanted = self.places[wanted]
        tiles = np.empty((len(wanted), *self._parts[0].shape[1:]), np.uint8)
        numbers = np.searchsorted(self._stops, wanted, side="right")
        for i, (number, row) in enumerate(zip(numbers.tolist(), wanted.tolist(), strict=True)):
            # Counted from the end of the part.
            tiles[i] = self._parts[number][row - self._stops[number]]
        return tiles


def _read_ahead(part: NDArray[np.uint8], rows: NDArray[np.intp]) -> None:
    """Tell the system that a run of tiles will be read; arrays and other systems do without."""
    mapped: Any = getattr(part, "_mmap", None)
    if not isinstance(part, np.memmap) or not hasattr(mapped, "madvise"):
        return
    # The mapping begins at the page that holds the first tile, or before the header.
    begin = part.offset % mmap.ALLOCATIONGRANULARITY + int(rows[0]) * part[0].nbytes
    aligned = begin - begin % mmap.PAGESIZE
    mapped.madvise(mmap.MADV_WILLNEED, aligned, begin - aligned + len(rows) * part[0].nbytes)


def _readers(
    frames: Mapping[str, SpotFrame], *, tile_um: float | Sequence[float], tile_px: int
) -> dict[str, TileReader]:
    problems = Problems()
    readers = {}
    for name, frame in frames.items():
        with problems.collect():
            readers[name] = TileReader(frame, tile_um=tile_um, tile_px=tile_px)
    problems.raise_if_any()
    return readers


def _remove(files: ExitStack, owner: int) -> None:
    # A forked process inherits the bank, and must not take the file from its parent.
    if os.getpid() == owner:
        files.close()
