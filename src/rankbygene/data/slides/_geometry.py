"""Where tiles lie: the pyramid level to read, windows in its pixels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rankbygene._arguments import checked
from rankbygene.data.slides._affine import MAX_ANISOTROPY, apply_affine, stretches
from rankbygene.data.slides._images import level_shape, level_to_system, n_levels
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from rankbygene.data.slides._frame import SpotFrame

logger = logging.getLogger("rankbygene")

# A centre on the image's edge may leave it by rounding in the inverse of the transformation.
_EDGE_PX = 1e-6


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Square windows of one slide in the pixels of one pyramid level.

    Parameters
    ----------
    image_key, level
        Image to read, and its level (0 is the finest).
    um_per_px
        Micrometres per pixel of that level.
    side
        Width of the window in pixels of that level.
    tile_um, tile_px
        Width of a tile in tissue, and in pixels after resampling.
    x0, y0
        First column and row of the windows, ``[n]``; they may lie outside the image.
    shape
        Height and width of the level.
    """

    image_key: str
    level: int
    um_per_px: float
    side: int
    tile_um: float
    tile_px: int
    x0: NDArray[np.int64]
    y0: NDArray[np.int64]
    shape: tuple[int, int]


@checked
def plan_tiles(frame: SpotFrame, *, tile_um: float, tile_px: int) -> TilePlan:
    """Place a tile around each spot, in the coarsest level that still resolves it.

    A rotation or flip between image and coordinate system moves the centres and leaves the tiles
    upright in the grid of the image: tissue has no up.

    Parameters
    ----------
    frame
        The slide.
    tile_um
        Width of a tile in micrometres.
    tile_px
        Width of a tile in pixels after resampling.

    Raises
    ------
    InputValueError
        A width is not positive, a tile spans fewer than ``tile_px / 2`` pixels of the finest
        level, or a spot's centre lies outside the image.
    """
    if not (tile_um > 0 and tile_px > 0):
        msg = f"tile_um and tile_px must be positive, found {tile_um} and {tile_px}"
        raise InputValueError(msg)
    level, um_per_px = _choose_level(frame, tile_um=tile_um, tile_px=tile_px)
    image = frame.sdata.images[frame.image_key]
    shape = level_shape(image, level)
    from_pixels = level_to_system(image, level, frame.coordinate_system)
    to_pixels = np.linalg.inv(from_pixels).astype(np.float64)
    pixels = apply_affine(to_pixels, frame.centers)
    _check_inside(frame, pixels, shape)
    side = round(tile_um / um_per_px)
    x0, y0 = np.rint(pixels - side / 2).astype(np.int64).T
    return TilePlan(
        image_key=frame.image_key,
        level=level,
        um_per_px=um_per_px,
        side=side,
        tile_um=float(tile_um),
        tile_px=int(tile_px),
        x0=x0,
        y0=y0,
        shape=shape,
    )


def _choose_level(frame: SpotFrame, *, tile_um: float, tile_px: int) -> tuple[int, float]:
    image = frame.sdata.images[frame.image_key]
    chosen, chosen_um = 0, np.nan
    for level in range(n_levels(image)):
        large, small = stretches(level_to_system(image, level, frame.coordinate_system))
        # Halving odd sizes stretches the smallest levels unevenly; those are not worth reading.
        if level > 0 and large > small * MAX_ANISOTROPY:
            break
        um_per_px = float(np.sqrt(large * small)) * frame.um_per_unit
        if level > 0 and round(tile_um / um_per_px) < tile_px:
            break
        chosen, chosen_um = level, um_per_px
    _check_resolution(frame, chosen_um, tile_um=tile_um, tile_px=tile_px)
    return chosen, chosen_um


def _check_resolution(frame: SpotFrame, um_per_px: float, *, tile_um: float, tile_px: int) -> None:
    side = tile_um / um_per_px
    if side < tile_px / 2:
        msg = (
            f"slide {frame.slide!r}: a tile of {tile_um:g} um covers {side:.0f} px of "
            f"{frame.image_key!r} ({um_per_px:.3g} um per px, {frame.um_source}), fewer than half "
            f"of tile_px={tile_px}; load the full-resolution image, or pass a smaller tile_px"
        )
        raise InputValueError(msg)
    if round(side) < tile_px:
        logger.warning(
            "slide %r: tiles of %d px are enlarged to %d px; %r has no finer pixels",
            frame.slide,
            round(side),
            tile_px,
            frame.image_key,
        )


def _check_inside(frame: SpotFrame, pixels: NDArray[np.float64], shape: tuple[int, int]) -> None:
    height, width = shape
    inside = (pixels > -_EDGE_PX) & (pixels < np.array([width, height]) + _EDGE_PX)
    outside = np.flatnonzero(~inside.all(axis=1))
    if len(outside) == 0:
        return
    first = ", ".join(str(frame.instances[i]) for i in outside[:3])
    msg = (
        f"slide {frame.slide!r}: {len(outside):,} of {frame.n_obs:,} spots have their centre "
        f"outside {frame.image_key!r} ({width:,} x {height:,} px; first: {first}); "
        "drop them or check the coordinate system"
    )
    raise InputValueError(msg)
