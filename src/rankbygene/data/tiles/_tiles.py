"""Cutting square tiles out of an image, and bringing them to the width a backbone wants."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import torch
from numpy.typing import NDArray

from rankbygene._arguments import checked
from rankbygene._checks import check_same_length
from rankbygene.data.slides._chunks import Position, decode_chunks
from rankbygene.data.slides._geometry import plan_tiles
from rankbygene.data.slides._images import WHITE, level_array
from rankbygene.data.tiles._pieces import Pieces
from rankbygene.data.tiles._shown import ShownTiles, check_stored
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from rankbygene.data.slides._frame import SpotFrame

# Finished tiles handed over together.
_TILES_AT_ONCE = 256
# Tiles resized together; more would only enlarge the temporary tensors.
_RESIZED_AT_ONCE = 64


@checked
def crop_tiles(
    level: da.Array,
    x0: NDArray[np.int64],
    y0: NDArray[np.int64],
    side: int,
    *,
    fill: int = WHITE,
) -> NDArray[np.uint8]:
    """Cut square windows out of an image, decoding each stored chunk that they touch once.

    Parameters
    ----------
    level
        Image ``(c, y, x)``.
    x0, y0
        First column and row of the windows, ``[n]``; they may lie outside the image.
    side
        Width of the windows.
    fill
        Value of what lies outside the image.

    Returns
    -------
    Tiles ``[n, c, side, side]``.
    """
    tiles = np.full((len(x0), level.shape[0], side, side), fill, dtype=level.dtype)
    for rows, cut in stream_tiles(level, x0, y0, side, fill=fill):
        tiles[rows] = cut
    return tiles


@checked
def stream_tiles(
    level: da.Array,
    x0: NDArray[np.int64],
    y0: NDArray[np.int64],
    side: int,
    *,
    fill: int = WHITE,
    workers: int | None = None,
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
    """Cut windows as :func:`crop_tiles` does, and hand each over once its last chunk is decoded.

    Chunks are decoded in row-major order. Held at a time are a few chunks, and of those above what
    the windows reach into that are not complete: not more than a strip as wide as the image and a
    few windows high (one chunk and a window, where chunks are small), however many windows there are.

    Parameters
    ----------
    level, x0, y0, side, fill
        As for :func:`crop_tiles`.
    workers
        Threads that decode; one per processor, at most eight, by default.

    Yields
    ------
    Positions in ``x0``, ``[k]``, and their tiles, ``[k, c, side, side]``. Windows that miss the
    image altogether do not appear.
    """
    check_same_length(x0=x0, y0=y0)
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    pieces = Pieces(level.chunks[1:], x0, y0, side)
    cutter = _Cutter(pieces, level.shape[1:], x0, y0, side, fill)
    shape = (level.shape[0], side, side)
    left = int(np.count_nonzero(pieces.per_window))
    tiles = np.empty((min(left, _TILES_AT_ONCE), *shape), level.dtype)
    done: list[int] = []
    for chunk, block in decode_chunks(level, pieces.chunks, workers=workers):
        for window in cutter.add(chunk, block):
            cutter.cut(window, tiles[len(done)])
            done.append(window)
            if len(done) == len(tiles):
                yield np.array(done, dtype=np.intp), tiles
                left -= len(done)
                # The receiver keeps the array.
                tiles, done = np.empty((min(left, _TILES_AT_ONCE), *shape), level.dtype), []


class _Cutter:
    """Keeps the pieces of an image for as long as some window needs them."""

    def __init__(
        self,
        pieces: Pieces,
        shape: tuple[int, ...],
        x0: NDArray[np.int64],
        y0: NDArray[np.int64],
        side: int,
        fill: int,
    ) -> None:
        self._pieces = pieces
        self._x0, self._y0, self._fill = x0, y0, fill
        height, width = shape
        self._inside = (x0 >= 0) & (y0 >= 0) & (x0 + side <= width) & (y0 + side <= height)
        self._missing = pieces.per_window.copy()
        self._held: dict[Position, NDArray[np.uint8]] = {}
        self._needed: dict[Position, int] = {}  # windows still to be cut out of a held piece
        self._views: list[Position] = []

    def add(self, chunk: Position, block: NDArray[np.uint8]) -> Iterator[int]:
        """Take a chunk, and name the windows that are complete with it."""
        views = []
        for piece, pixels in self._pieces.split(chunk, block):
            windows = self._pieces.windows_of(piece)
            self._held[piece], self._needed[piece] = pixels, len(windows)
            if pixels.shape != block.shape:
                views.append(piece)
            self._missing[windows] -= 1
            yield from windows[self._missing[windows] == 0].tolist()
        # A margin is a view that keeps its whole chunk in memory. Once the next chunk has come and
        # the windows across their common edge are cut, it is mostly all that is left.
        for piece in self._views:
            if piece in self._held:
                self._held[piece] = self._held[piece].copy()
        self._views = views

    def cut(self, window: int, tile: NDArray[np.uint8]) -> None:
        """Copy a complete window to ``tile``, and drop the pieces that no other needs."""
        if not self._inside[window]:
            tile[:] = self._fill
        x, y = int(self._x0[window]), int(self._y0[window])
        for piece, top, left in self._pieces.pieces_of(window):
            _paste(tile, self._held[piece], y - top, x - left)
            self._needed[piece] -= 1
            if not self._needed[piece]:
                del self._held[piece]


@checked
def resize_tiles(tiles: NDArray[np.uint8], px: int) -> NDArray[np.uint8]:
    """Resample square tiles ``[n, c, side, side]`` to ``[n, c, px, px]``, bilinear, antialiased."""
    if tiles.shape[-1] == px:
        return tiles
    resized = np.empty((*tiles.shape[:2], px, px), dtype=np.uint8)
    for start in range(0, len(tiles), _RESIZED_AT_ONCE):
        batch = slice(start, start + _RESIZED_AT_ONCE)
        resized[batch] = torch.nn.functional.interpolate(
            torch.from_numpy(tiles[batch]), size=(px, px), mode="bilinear", antialias=True
        ).numpy()
    return resized


class TileReader:
    """Reads the tiles of one slide from its image.

    Parameters
    ----------
    frame
        The slide.
    tile_um
        Width of a tile in micrometres. With several widths, tiles of one centre are stacked along
        the channels, the first width first: ``[k, 3 * n_widths, tile_px, tile_px]``.
    tile_px
        Width of a tile in pixels.

    Attributes
    ----------
    plan
        Where the tiles of the first width lie.
    plans, levels
        For each width, where its tiles lie, and the level of the image that they are cut from.

    Raises
    ------
    InputValueError
        As for :func:`plan_tiles`.
    """

    @checked
    def __init__(self, frame: SpotFrame, *, tile_um: float | Sequence[float], tile_px: int) -> None:
        widths = tile_widths(tile_um)
        image = frame.sdata.images[frame.image_key]
        self.plans = [plan_tiles(frame, tile_um=width, tile_px=tile_px) for width in widths]
        self.levels = [level_array(image, plan.level) for plan in self.plans]
        self.plan = self.plans[0]
        self._frame = frame

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """Shape of one tile: channels and pixels."""
        return 3 * len(self.plans), self.plan.tile_px, self.plan.tile_px

    @checked
    def stream(self, rows: Any = None) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
        """Read tiles in the order in which the image is decoded.

        Parameters
        ----------
        rows
            Spots of the frame: indices or a mask; all of them by default.

        Yields
        ------
        Rows of the frame, ``[k]``, and their tiles, ``[k, *tile_shape]``.

        Raises
        ------
        InputValueError
            Most spots of the slide lie where the image holds nothing. Fewer give a warning.
        """
        wanted = self._wanted(rows)
        for plan, level in zip(self.plans, self.levels, strict=True):
            check_stored(self._frame, plan, level)
        shown = ShownTiles(self._frame, len(wanted))
        for positions, tiles in self._cut(wanted):
            shown.add(wanted[positions], tiles[:, :3])
            yield wanted[positions], tiles
        shown.report()

    @checked
    def read(self, rows: Any = None) -> NDArray[np.uint8]:
        """Read tiles into one array ``[n, *tile_shape]``, in the order of ``rows``.

        All of a slide are looked at as by :meth:`stream`, some are a sample that tells little.
        """
        wanted = self._wanted(rows)
        out = np.empty((len(wanted), *self.tile_shape), dtype=np.uint8)
        for positions, tiles in self.stream() if rows is None else self._cut(wanted):
            out[positions] = tiles
        return out

    def reading_order(self) -> NDArray[np.intp]:
        """Order of the spots ``[n]`` in which :meth:`stream` comes to them.

        Spots that follow each other in it lie in the same chunks of the image.
        """
        plan, (_, *chunks) = self.plan, self.levels[0].chunks
        last_y, last_x = (
            np.searchsorted(np.cumsum(sizes), start + plan.side - 1, side="right")
            for sizes, start in zip(chunks, (plan.y0, plan.x0), strict=True)
        )
        order: NDArray[np.intp] = np.lexsort((plan.x0, plan.y0, last_x, last_y))
        return order

    def _wanted(self, rows: Any) -> NDArray[np.intp]:
        every = np.arange(len(self.plan.x0))
        return every if rows is None else every[rows]

    def _cut(
        self, wanted: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
        for positions, tiles in self._cut_width(0, wanted):
            if len(self.plans) == 1:
                yield positions, tiles
                continue
            stack = np.empty((len(positions), *self.tile_shape), np.uint8)
            stack[:, :3] = tiles
            for width in range(1, len(self.plans)):
                # Tiles that are read together lie together, so that their chunks are few.
                for own, wider in self._cut_width(width, wanted[positions]):
                    stack[own, 3 * width : 3 * width + 3] = wider
            yield positions, stack

    def _cut_width(
        self, width: int, wanted: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
        plan = self.plans[width]
        x0, y0 = plan.x0[wanted], plan.y0[wanted]
        for positions, tiles in stream_tiles(self.levels[width], x0, y0, plan.side):
            yield positions, resize_tiles(tiles, plan.tile_px)


def tile_widths(tile_um: float | Sequence[float]) -> tuple[float, ...]:
    """Give one or several widths as a tuple."""
    widths = tuple(tile_um) if isinstance(tile_um, Sequence) else (tile_um,)
    if not widths:
        msg = "tile_um is an empty list; give at least one width in micrometres"
        raise InputValueError(msg)
    return widths


def _paste(tile: NDArray[np.uint8], block: NDArray[np.uint8], y: int, x: int) -> None:
    """Copy to a tile what it shares with a block in which its corner has the place (y, x)."""
    height, width, side = *block.shape[1:], tile.shape[-1]
    top, bottom = max(y, 0), min(y + side, height)
    left, right = max(x, 0), min(x + side, width)
    tile[:, top - y : bottom - y, left - x : right - x] = block[:, top:bottom, left:right]
