"""The tiles of all slides in one array, in memory or in a temporary file."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from rankbygene.data._geometry import TilePlan
from rankbygene.data._tiles import TileReader, tile_widths
from rankbygene.errors import InputValueError, Problems

if TYPE_CHECKING:
    from rankbygene.data._frame import SpotFrame

logger = logging.getLogger("rankbygene")

# Room left on the disk for others.
_SPARE_BYTES = 1 << 28


class TileBank:
    """The tiles of several slides, cut once, in the order of the slides and of their spots.

    Made by :meth:`build`.

    Attributes
    ----------
    tiles
        uint8 ``[n, 3, tile_px, tile_px]``, with several widths ``3 * n_widths`` channels; an array, or a memory map of a file that is removed
        together with the bank.
    slices
        ``{slide: rows}``.
    plans
        ``{slide: plan}``; where the tiles were cut.
    """

    def __init__(
        self,
        tiles: NDArray[np.uint8],
        slices: Mapping[str, slice],
        plans: Mapping[str, TilePlan],
    ) -> None:
        self.tiles = tiles
        self.slices = dict(slices)
        self.plans = dict(plans)

    @classmethod
    def build(
        cls,
        frames: Mapping[str, SpotFrame],
        *,
        tile_um: float | Sequence[float],
        tile_px: int,
        memory_limit: int = 8 * 2**30,
        cache_dir: Path | None = None,
    ) -> TileBank:
        """Cut the tiles of all slides.

        Parameters
        ----------
        frames
            The slides.
        tile_um, tile_px
            Width of a tile in micrometres, or several widths, and in pixels.
        memory_limit
            Bytes above which the tiles go to a temporary file instead of memory.
        cache_dir
            Folder for that file; the system's temporary folder by default.

        Raises
        ------
        InputValueError
            Tiles cannot be placed (as for :func:`plan_tiles`, for all slides together), or the
            disk has no room for them.
        """
        readers = _readers(frames, tile_um=tile_um, tile_px=tile_px)
        slices = _slices(frames)
        tile_shape = (3 * len(tile_widths(tile_um)), tile_px, tile_px)
        shape = (sum(frame.n_obs for frame in frames.values()), *tile_shape)
        plans = {name: reader.plan for name, reader in readers.items()}
        if math.prod(shape) <= memory_limit:
            bank = cls(np.empty(shape, dtype=np.uint8), slices, plans)
        else:
            path = _temporary_file(math.prod(shape), cache_dir)
            bank = cls(np.lib.format.open_memmap(path, "w+", np.uint8, shape), slices, plans)
            finalize(bank, _remove, path.parent, os.getpid())
        for name, reader in readers.items():
            own = bank.tiles[slices[name]]
            for rows, tiles in reader.stream():
                own[rows] = tiles
        return bank

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """Return a copy of some tiles, ``[k, 3, tile_px, tile_px]``."""
        return np.array(self.tiles[rows])


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


def _slices(frames: Mapping[str, SpotFrame]) -> dict[str, slice]:
    stops = accumulate(frame.n_obs for frame in frames.values())
    return {
        name: slice(stop - frame.n_obs, stop)
        for (name, frame), stop in zip(frames.items(), stops, strict=True)
    }


def _temporary_file(n_bytes: int, cache_dir: Path | None) -> Path:
    parent = Path(tempfile.gettempdir()) if cache_dir is None else Path(cache_dir)
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < n_bytes + _SPARE_BYTES:
        msg = (
            f"the tiles take {n_bytes / 2**30:.1f} GiB, more than memory_limit, and {parent} has "
            f"{free / 2**30:.1f} GiB free; pass cache_dir=... on a larger disk, a larger "
            "memory_limit, a smaller tile_px, or fewer spots"
        )
        raise InputValueError(msg)
    folder = Path(tempfile.mkdtemp(prefix="rankbygene-tiles-", dir=parent))
    logger.info("tiles take %.1f GiB and are kept in %s for now", n_bytes / 2**30, folder)
    return folder / "tiles.npy"


def _remove(folder: Path, owner: int) -> None:
    # A forked process inherits the bank, and must not take the file from its parent.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
