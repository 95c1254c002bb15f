"""Counting tiles that show nothing: parts of an image that are not stored, glass, one colour."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rankbygene.data.slides._images import WHITE
from rankbygene.data.slides._stored import StoredImage
from rankbygene.data.tiles._pieces import Pieces
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    import dask.array as da

    from rankbygene.data.slides._frame import SpotFrame
    from rankbygene.data.slides._geometry import TilePlan

logger = logging.getLogger("rankbygene")

# More spots than this without pixels, and the image is not that of the spots.
_MOST = 0.5
# About as many pixels along one side are enough to tell what a tile shows.
_PIXELS_LOOKED_AT = 32
# Standard deviation of 255 within a tile: measured on thirteen sections, tissue has 8.8 or more, and nine
# in ten tiles of glass have less than this.
_GLASS = 5.0
# Tissue has no pixels of exactly zero; this share of them is a hole, or a background painted black.
_HOLE = 0.1


class ShownTiles:
    """Looks at tiles while they pass, and tells what share of them shows nothing.

    Parameters
    ----------
    frame
        The slide.
    n_tiles
        How many tiles will pass.
    """

    def __init__(self, frame: SpotFrame, n_tiles: int) -> None:
        self._frame, self._n_tiles = frame, n_tiles
        self._empty: list[int] = []
        self._plain: list[int] = []
        self._holes: list[int] = []

    def add(self, rows: NDArray[np.intp], tiles: NDArray[np.uint8]) -> None:
        """Look at some tiles ``[k, 3, px, px]`` of the spots ``rows``.

        Raises
        ------
        InputValueError
            All tiles of the slide pass, and most of them are black or white in every pixel.
        """
        step = max(1, tiles.shape[-1] // _PIXELS_LOOKED_AT)
        seen = tiles[:, :, ::step, ::step].reshape(len(tiles), 3, -1)
        low, high = seen.min((1, 2)), seen.max((1, 2))
        # Each pixel is looked at only where a few of them leave it open.
        empty = np.zeros(len(tiles), bool)
        for i in np.flatnonzero((low == high) & ((low == 0) | (low == WHITE))):
            empty[i] = bool((tiles[i] == low[i]).all())
        plain = seen.std(axis=2, dtype=np.float32).max(1) < _GLASS
        holes = (seen == 0).all(1).mean(1) >= _HOLE
        self._empty += rows[empty].tolist()
        self._plain += rows[plain & ~empty].tolist()
        self._holes += rows[holes & ~plain & ~empty].tolist()
        whole = self._n_tiles == self._frame.n_obs
        if whole and len(self._empty) > _MOST * self._n_tiles:
            msg = (
                f"slide {self._frame.slide!r}: {len(self._empty):,} or more of "
                f"{self._n_tiles:,} tiles are black or white in every pixel "
                f"({_first(self._frame, self._empty)}): {self._frame.image_key!r} holds no tissue where the "
                "spots are; check that it is complete, that it is the image of these spots, and the "
                "coordinate system"
            )
            raise InputValueError(msg)

    def report(self) -> None:
        """Warn of tiles that showed nothing, by number."""
        for rows, what in (
            (self._empty, "are black or white in every pixel"),
            (self._plain, "show one colour, like glass without tissue"),
            (self._holes, "have holes of pure black, as parts of an image that are not stored do"),
        ):
            if rows:
                logger.warning(
                    "slide %r: %s of %s tiles of %r %s (%s)",
                    self._frame.slide,
                    f"{len(rows):,}",
                    f"{self._n_tiles:,}",
                    self._frame.image_key,
                    what,
                    _first(self._frame, rows),
                )


def check_stored(frame: SpotFrame, plan: TilePlan, level: da.Array) -> None:
    """Look for the chunks of an image that the tiles of a slide need, before any is read.

    A chunk that is not stored is read as the fill value. Writers leave out chunks that hold nothing
    else, so that some may be missing rightly, but not those that spots lie on.

    Raises
    ------
    InputValueError
        Most spots lie in chunks that are not stored.
    """
    stored = StoredImage.behind(level)
    if stored is None:
        return
    needed = Pieces(level.chunks[1:], plan.x0, plan.y0, plan.side).chunks
    shares = {chunk: stored.share_stored(chunk) for chunk in needed}
    if all(share == 1 for share in shares.values()):
        return
    bounds = [np.cumsum((0, *sizes)) for sizes in level.chunks[1:]]
    absent, partial = (np.zeros([len(sizes) for sizes in level.chunks[1:]], bool) for _ in "ap")
    for chunk, share in shares.items():
        absent[chunk], partial[chunk] = share == 0, share < 1
    middle = [
        np.clip(np.searchsorted(edges, start + plan.side // 2, side="right") - 1, 0, len(edges) - 2)
        for edges, start in zip(bounds, (plan.y0, plan.x0), strict=True)
    ]
    lost = np.flatnonzero(absent[middle[0], middle[1]])
    touched = np.flatnonzero(_any_in_windows(partial, bounds, plan))
    if len(lost) > _MOST * frame.n_obs:
        msg = (
            f"slide {frame.slide!r}: {len(lost):,} of {frame.n_obs:,} spots lie in chunks of "
            f"{frame.image_key!r} (level {plan.level}) that are not stored ({_first(frame, lost)}) and would be read "
            f"as {stored.fill_value}; copy or write the image again"
        )
        raise InputValueError(msg)
    logger.warning(
        "slide %r: %s of %s tiles reach into chunks of %r (level %d) that are not stored and are read "
        "as %d, %s of them with their centre (%s); copy or write the image again, unless its "
        "background was painted that way",
        frame.slide,
        f"{len(touched):,}",
        f"{frame.n_obs:,}",
        frame.image_key,
        plan.level,
        stored.fill_value,
        f"{len(lost):,}",
        _first(frame, touched),
    )


def _any_in_windows(
    marked: NDArray[np.bool_], bounds: list[NDArray[np.intp]], plan: TilePlan
) -> NDArray[np.bool_]:
    """Say for each window whether it touches a marked chunk."""
    sums = np.zeros((marked.shape[0] + 1, marked.shape[1] + 1), np.intp)
    sums[1:, 1:] = marked.cumsum(axis=0).cumsum(axis=1)
    (top, bottom), (left, right) = (
        (
            np.clip(np.searchsorted(edges, start, side="right") - 1, 0, None),
            np.searchsorted(edges[:-1], start + plan.side, side="left"),
        )
        for edges, start in zip(bounds, (plan.y0, plan.x0), strict=True)
    )
    count = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.asarray(count > 0)


def _first(frame: SpotFrame, rows: NDArray[np.intp] | list[int]) -> str:
    return "first: " + ", ".join(str(frame.instances[row]) for row in rows[:3])
