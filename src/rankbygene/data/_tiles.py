"""Cutting square tiles out of an image, and bringing them to the width a backbone wants."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import torch
from numpy.typing import NDArray

from rankbygene.data._chunks import Position, decode_chunks
from rankbygene.data._geometry import plan_tiles
from rankbygene.data._images import level_array

if TYPE_CHECKING:
    from rankbygene.data._frame import SpotFrame

WHITE = 255
# Finished tiles handed over together.
_TILES_AT_ONCE = 256
# Tiles resized together; more would only enlarge the temporary tensors.
_RESIZED_AT_ONCE = 64


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

    Chunks are decoded in row-major order, so what is held at a time are the tiles that cross the
    current row of chunks, and a few chunks.

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
    tops, lefts = (np.cumsum((0, *chunks[:-1])) for chunks in level.chunks[1:])
    rows_of = _rows_by_chunk(level, np.asarray(x0), np.asarray(y0), side)
    missing = np.bincount([r for rows in rows_of.values() for r in rows], minlength=len(x0))
    begun: dict[int, NDArray[np.uint8]] = {}
    done: list[int] = []
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    for position, block in decode_chunks(level, rows_of, workers=workers):
        top, left = tops[position[0]], lefts[position[1]]
        for row in rows_of[position]:
            if row not in begun:
                begun[row] = np.full((level.shape[0], side, side), fill, dtype=level.dtype)
            _paste(begun[row], block, int(y0[row] - top), int(x0[row] - left))
            missing[row] -= 1
            if missing[row] == 0:
                done.append(row)
            if len(done) == _TILES_AT_ONCE:
                yield _hand_over(begun, done)
                done = []
    if done:
        yield _hand_over(begun, done)


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

    Raises
    ------
    InputValueError
        As for :func:`plan_tiles`.
    """

    def __init__(self, frame: SpotFrame, *, tile_um: float | Sequence[float], tile_px: int) -> None:
        widths = tile_widths(tile_um)
        image = frame.sdata.images[frame.image_key]
        self._plans = [plan_tiles(frame, tile_um=width, tile_px=tile_px) for width in widths]
        self._levels = [level_array(image, plan.level) for plan in self._plans]
        self.plan = self._plans[0]

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """Shape of one tile: channels and pixels."""
        return 3 * len(self._plans), self.plan.tile_px, self.plan.tile_px

    def stream(self, rows: Any = None) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
        """Read tiles in the order in which the image is decoded.

        Parameters
        ----------
        rows
            Spots of the frame: indices or a mask; all of them by default.

        Yields
        ------
        Rows of the frame, ``[k]``, and their tiles, ``[k, *tile_shape]``.
        """
        wanted = self._wanted(rows)
        for positions, tiles in self._cut(wanted):
            yield wanted[positions], tiles

    def read(self, rows: Any = None) -> NDArray[np.uint8]:
        """Read tiles into one array ``[n, *tile_shape]``, in the order of ``rows``."""
        wanted = self._wanted(rows)
        out = np.empty((len(wanted), *self.tile_shape), dtype=np.uint8)
        for positions, tiles in self._cut(wanted):
            out[positions] = tiles
        return out

    def reading_order(self) -> NDArray[np.intp]:
        """Order of the spots ``[n]`` in which :meth:`stream` comes to them.

        Spots that follow each other in it lie in the same chunks of the image.
        """
        plan = self.plan
        _, stop_y = _touched(self._levels[0].chunks[1], plan.y0, plan.side)
        _, stop_x = _touched(self._levels[0].chunks[2], plan.x0, plan.side)
        order: NDArray[np.intp] = np.lexsort((plan.x0, plan.y0, stop_x, stop_y))
        return order

    def _wanted(self, rows: Any) -> NDArray[np.intp]:
        every = np.arange(len(self.plan.x0))
        return every if rows is None else every[rows]

    def _cut(
        self, wanted: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
        for positions, tiles in self._cut_width(0, wanted):
            if len(self._plans) == 1:
                yield positions, tiles
                continue
            stack = np.empty((len(positions), *self.tile_shape), np.uint8)
            stack[:, :3] = tiles
            for width in range(1, len(self._plans)):
                # Tiles that are read together lie together, so that their chunks are few.
                for own, wider in self._cut_width(width, wanted[positions]):
                    stack[own, 3 * width : 3 * width + 3] = wider
            yield positions, stack

    def _cut_width(
        self, width: int, wanted: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
        plan = self._plans[width]
        x0, y0 = plan.x0[wanted], plan.y0[wanted]
        for positions, tiles in stream_tiles(self._levels[width], x0, y0, plan.side):
            yield positions, resize_tiles(tiles, plan.tile_px)


def tile_widths(tile_um: float | Sequence[float]) -> tuple[float, ...]:
    """Give one or several widths as a tuple."""
    return tuple(tile_um) if isinstance(tile_um, Sequence) else (tile_um,)


def _rows_by_chunk(
    level: da.Array, x0: NDArray[np.int64], y0: NDArray[np.int64], side: int
) -> dict[Position, list[int]]:
    """List, for each chunk that some window touches, these windows."""
    first_y, stop_y = _touched(level.chunks[1], y0, side)
    first_x, stop_x = _touched(level.chunks[2], x0, side)
    rows_of: dict[Position, list[int]] = {}
    for row in range(len(x0)):
        for by in range(first_y[row], stop_y[row]):
            for bx in range(first_x[row], stop_x[row]):
                rows_of.setdefault((by, bx), []).append(row)
    return rows_of


def _touched(
    chunks: tuple[int, ...], start: NDArray[np.int64], side: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the range of chunks along one axis that windows from ``start`` on touch."""
    ends = np.cumsum(chunks)
    begins = ends - np.asarray(chunks)
    first = np.searchsorted(ends, start, side="right")
    return first, np.searchsorted(begins, start + side, side="left")


def _paste(tile: NDArray[np.uint8], block: NDArray[np.uint8], y: int, x: int) -> None:
    """Copy to a tile what it shares with a block in which its corner has the place (y, x)."""
    height, width, side = *block.shape[1:], tile.shape[-1]
    top, bottom = max(y, 0), min(y + side, height)
    left, right = max(x, 0), min(x + side, width)
    tile[:, top - y : bottom - y, left - x : right - x] = block[:, top:bottom, left:right]


def _hand_over(
    begun: dict[int, NDArray[np.uint8]], done: list[int]
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    return np.array(done, dtype=np.intp), np.stack([begun.pop(row) for row in done])
