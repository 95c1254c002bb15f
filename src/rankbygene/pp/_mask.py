"""Where an H&E image shows tissue, from few of its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rankbygene.data._images import level_array, level_shape, n_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from xarray import DataArray, DataTree

_SAMPLES_PER_SIDE = 16
# Stained tissue differs by more than this between its strongest and weakest channel, glass and
# paper do not; yellowish backgrounds in the field reach 15.
_CERTAIN_CHROMA = 30
# Two classes closer than this are one: an empty image, or one that is all tissue.
_MIN_GAP = 10


def tissue_mask(image: DataArray | DataTree, side: float) -> NDArray[np.bool_]:
    """Tell tissue from background by its colour.

    Grey levels and shadows differ in brightness alone, so the difference between the strongest
    and the weakest channel is thresholded, by Otsu's method where there are two classes.

    Parameters
    ----------
    image
        RGB image.
    side
        Width of a tile in pixels of the finest level; about 16 samples are taken across it.

    Returns
    -------
    Bool array that spans the whole image with fewer pixels.
    """
    height, width = level_shape(image, 0)
    level = 0
    for candidate in range(n_levels(image)):
        if side * level_shape(image, candidate)[1] / width >= _SAMPLES_PER_SIDE:
            level = candidate
    pixels = level_array(image, level)
    stride = max(1, int(side * pixels.shape[2] / width / _SAMPLES_PER_SIDE))
    sampled = pixels[:, stride // 2 :: stride, stride // 2 :: stride].compute()
    chroma = sampled.max(axis=0) - sampled.min(axis=0)
    mask: NDArray[np.bool_] = chroma >= _threshold(chroma)
    return mask


def share_of_windows(
    mask: NDArray[np.bool_],
    x0: NDArray[np.floating],
    y0: NDArray[np.floating],
    side: float,
    shape: tuple[int, int],
) -> NDArray[np.float64]:
    """Share of true pixels in square windows.

    Parameters
    ----------
    mask
        Mask that spans the image.
    x0, y0
        Left and upper edges of the windows ``[n]``, in pixels of the image.
    side
        Width of the windows in pixels of the image.
    shape
        Height and width of the image.

    Returns
    -------
    Float64 ``[n]``. What lies outside the image counts as background.
    """
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    sums[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    down, right = mask.shape[0] / shape[0], mask.shape[1] / shape[1]
    top, bottom = (np.rint(y * down).astype(int) for y in (y0, y0 + side))
    left, end = (np.rint(x * right).astype(int) for x in (x0, x0 + side))
    area = np.maximum(bottom - top, 1) * np.maximum(end - left, 1)
    top, bottom = (edge.clip(0, mask.shape[0]) for edge in (top, bottom))
    left, end = (edge.clip(0, mask.shape[1]) for edge in (left, end))
    inside = sums[bottom, end] - sums[top, end] - sums[bottom, left] + sums[top, left]
    share: NDArray[np.float64] = inside / area
    return share


def _threshold(values: NDArray[np.uint8]) -> int:
    """Smallest value of tissue: Otsu's split, unless there is but one class."""
    counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    below = counts.cumsum()[:-1]
    above = counts.sum() - below
    sums = (counts * np.arange(256)).cumsum()
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    gap = np.where((below > 0) & (above > 0), mean_above - mean_below, 0)
    split = int(np.argmax(below * above * gap**2))
    return min(split + 1, _CERTAIN_CHROMA) if gap[split] >= _MIN_GAP else _CERTAIN_CHROMA
