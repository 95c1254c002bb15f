"""Drawing a slide: its image and its spots in one coordinate system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene.data import level_array, level_to_system, n_levels
from rankbygene.errors import InputValueError
from rankbygene.pl._style import MISSING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import EllipseCollection
    from numpy.typing import NDArray

    from rankbygene.data import SpotFrame

# More pixels than a panel of a figure has would only take time and memory.
THUMBNAIL_PX = 1200
# Discs of neighbouring spots should not merge.
_TOUCHING = 0.95


def draw_tissue(ax: Axes, frame: SpotFrame, *, unit: float = 1.0) -> None:
    """Draw the slide's image around its spots, thinned to the size of a picture.

    ``unit`` is what one unit of the frame's coordinate system is on the axes.
    """
    from matplotlib.transforms import Affine2D

    image = frame.sdata.images[frame.image_key]
    level = n_levels(image) - 1
    while level > 0 and max(level_array(image, level).shape[1:]) < THUMBNAIL_PX:
        level -= 1
    pixels = level_array(image, level)
    step = max(1, max(pixels.shape[1:]) // THUMBNAIL_PX)
    thumbnail = np.asarray(pixels[:, ::step, ::step].compute()).transpose(1, 2, 0)
    to_system = level_to_system(image, level, frame.coordinate_system)
    height, width = pixels.shape[1:]
    drawn = ax.imshow(thumbnail, extent=(0, width, height, 0), interpolation="antialiased")
    drawn.set_transform(Affine2D(to_system).scale(unit) + ax.transData)
    view_spots(ax, frame.centers * unit)


def draw_spots(
    ax: Axes,
    centers: NDArray[np.float64],
    values: NDArray[np.floating],
    *,
    cmap: str,
    limits: tuple[float, float],
    diameter: float | None = None,
) -> EllipseCollection:
    """Draw spots as discs, coloured by ``values`` ``[n]``; those without a value in light grey.

    Without a diameter the discs nearly touch.
    """
    from matplotlib import colormaps
    from matplotlib.collections import EllipseCollection

    width = _TOUCHING * spot_pitch(centers) if diameter is None else diameter
    size = np.full(len(centers), width)
    spots = EllipseCollection(
        size,
        size,
        np.zeros(len(centers)),
        units="xy",
        offsets=centers,
        offset_transform=ax.transData,
        cmap=colormaps[cmap].with_extremes(bad=MISSING),
        linewidths=0,
    )
    spots.set_array(np.ma.masked_invalid(values))
    spots.set_clim(*limits)
    ax.add_collection(spots)
    view_spots(ax, centers)
    return spots


def color_limits(values: NDArray[np.floating]) -> tuple[float, float]:
    """Give the 1st and 99th percentile of the values that exist, never equal.

    Raises
    ------
    InputValueError
        No value exists.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        msg = "there are no finite values to draw"
        raise InputValueError(msg)
    low, high = (float(limit) for limit in np.quantile(finite, (0.01, 0.99)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def spot_pitch(centers: NDArray[np.float64]) -> float:
    """Median distance from a spot to the nearest other one."""
    from scipy.spatial import cKDTree

    if len(centers) < 2:
        return 1.0
    distances, _ = cKDTree(centers).query(centers, k=2)
    return float(np.median(distances[:, 1]))


def tissue_aspect(centers: NDArray[np.float64]) -> float:
    """Height of what :func:`view_spots` shows over its width."""
    width, height = np.ptp(centers, axis=0) + 2 * spot_pitch(centers)
    return float(height / width)


def view_spots(ax: Axes, centers: NDArray[np.float64]) -> None:
    """Show the spots and a margin, one unit as long in x as in y, y downwards as in images."""
    margin = spot_pitch(centers)
    (left, top), (right, bottom) = centers.min(0) - margin, centers.max(0) + margin
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_aspect("equal")
    ax.set_axis_off()


def colorbar(ax: Axes, spots: Any, values: Sequence[NDArray[np.floating]]) -> None:
    """Draw the scale, with points where values lie beyond it."""
    low, high = spots.get_clim()
    together = np.concatenate(values)
    below, above = (together < low).any(), (together > high).any()
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max"}
    ax.figure.colorbar(
        spots,
        ax=ax,
        shrink=0.8,
        aspect=22,
        pad=0.02,
        extend=extend.get((bool(below), bool(above)), "both"),
    )
