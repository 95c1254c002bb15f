"""Drawing a slide: its image and its spots in one coordinate system."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rankbygene.data import level_array, level_to_system, n_levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import EllipseCollection
    from numpy.typing import NDArray

    from rankbygene.data import SpotFrame

# More pixels than a panel of a figure has would only take time and memory.
THUMBNAIL_PX = 1200


def draw_tissue(ax: Axes, frame: SpotFrame) -> None:
    """Draw the slide's image around its spots, thinned to the size of a picture."""
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
    drawn.set_transform(Affine2D(to_system) + ax.transData)
    _frame_view(ax, frame)


def draw_spots(
    ax: Axes,
    frame: SpotFrame,
    values: NDArray[np.float32],
    *,
    cmap: str,
    limits: tuple[float, float],
) -> EllipseCollection:
    """Draw spots as discs that nearly touch, coloured by ``values`` ``[n_obs]``."""
    from matplotlib.collections import EllipseCollection

    size = np.full(frame.n_obs, 0.95 * spot_pitch(frame.centers))
    spots = EllipseCollection(
        size,
        size,
        np.zeros(frame.n_obs),
        units="xy",
        offsets=frame.centers,
        offset_transform=ax.transData,
        cmap=cmap,
        linewidths=0,
    )
    spots.set_array(values)
    spots.set_clim(*limits)
    ax.add_collection(spots)
    _frame_view(ax, frame)
    return spots


def spot_pitch(centers: NDArray[np.float64]) -> float:
    """Median distance from a spot to the nearest other one."""
    from scipy.spatial import cKDTree

    if len(centers) < 2:
        return 1.0
    distances, _ = cKDTree(centers).query(centers, k=2)
    return float(np.median(distances[:, 1]))


def _frame_view(ax: Axes, frame: SpotFrame) -> None:
    margin = spot_pitch(frame.centers)
    (left, top), (right, bottom) = frame.centers.min(0) - margin, frame.centers.max(0) + margin
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)  # y of an image grows downwards
    ax.set_aspect("equal")
    ax.set_axis_off()
