"""Where an H&E image shows tissue, from few of its pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
from scipy import ndimage

from rankbygene.data.slides._images import level_array, level_shape, n_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from xarray import DataArray, DataTree

# Samples across a tile, and as many as are held at a time: 28 mm of slide at 7 um.
_SAMPLES_PER_SIDE = 16
_MOST_SAMPLES = 1 << 24
# Widths, in samples, over which texture and stain are averaged: 50 and 90 um for tiles of 112 um.
_TEXTURE_WIDTH, _STAIN_WIDTH = 7, 13
# Backgrounds that were painted black are darker in every channel.
_PAINTED = 12
# Clean glass: grey levels of texture, colour and brightness that it does not leave.
_GLASS_TEXTURE, _GLASS_CHROMA, _GLASS_GREY = 4.0, 40, 90
_WHITE_GLASS = 245.0
# Tissue has texture, in grey levels, and absorbs one colour more than another, in natural units of optical
# density. Ink, frames and dust have the first, dye that bled onto glass the second. On thirteen
# sections 95 in 100 spots have more than 8 and 0.043, and glass has less than 4 and 0.06.
_WEAK, _SURE = (5.0, 0.03), (8.0, 0.06)
# Stain so strong that glass never has it, whatever its texture.
_STRONG_STAIN, _STRONG_CHROMA = 0.4, 40
# Half the thickness of tissue at its core, in samples: 20 um.
_CORE = 3
# Glass between and around tissue absorbs less than this.
_CLEAR = 0.03


def tissue_mask(image: DataArray | DataTree, side: float) -> NDArray[np.bool_]:
    """Tell tissue from background by its texture and its stain.

    Neither is enough: a frame out of focus is as dark as tissue, dye that bled onto glass has its
    colour, and pale tissue has less of both than either. Where both are weak, tissue has to be
    connected to where both are sure.

    Parameters
    ----------
    image
        RGB image.
    side
        Width of a tile in pixels of the finest level; about 16 samples are taken across it, fewer
        from an image so large that they would not fit in memory.

    Returns
    -------
    Bool array that spans the whole image with fewer pixels. Holes smaller than a tile are filled.
    """
    sampled = _sample(image, side)
    grey = sampled.astype(np.float32)
    known = sampled.max(axis=0) >= _PAINTED
    texture = _texture(grey, known)
    glass = _glass(grey, known, texture)
    density = np.log((glass[:, None, None] + 1) / (grey + 1))
    del grey
    local = np.stack([_local_mean(one, known, _STAIN_WIDTH) for one in density])
    stain = local.max(axis=0) - local.min(axis=0)
    chroma = sampled.max(axis=0) - sampled.min(axis=0)
    strong = (stain >= _STRONG_STAIN) & (chroma >= _STRONG_CHROMA)
    weak = strong | ((texture >= _WEAK[0]) & (stain >= _WEAK[1]))
    sure = strong | ((texture >= _SURE[0]) & (stain >= _SURE[1]))
    # Averages reach over the edge of tissue; what is clear glass by itself is none.
    clear = np.max([_local_mean(one, known, 3) for one in density], axis=0) < _CLEAR
    mask = ndimage.binary_propagation(sure & known & ~clear, mask=weak & known & ~clear)
    return _without_holes(mask, _SAMPLES_PER_SIDE**2)


def tissue_pieces(mask: NDArray[np.bool_], *, min_samples: float) -> NDArray[np.int32]:
    """Number the separate pieces of a mask, the largest first; 0 is background.

    What is nearer than half a tile belongs to one piece. Pieces without a core three eighths of a tile
    thick are left out, such as hairs, rings and the printed dots of a frame, and so are small ones.

    Parameters
    ----------
    mask
        Tissue, with 16 samples to a tile.
    min_samples
        Smallest area of a piece.
    """
    reach = _SAMPLES_PER_SIDE // 4
    near = ndimage.distance_transform_edt(~mask) <= reach if mask.any() else mask
    joined: NDArray[np.int32]
    joined, count = ndimage.label(near, structure=np.ones((3, 3)), output=np.int32)
    joined[~mask] = 0
    areas = np.bincount(joined.ravel(), minlength=count + 1)
    # The edge of the image counts as background, so that a line along it is thin.
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    cores = ndimage.maximum(depth, joined, index=np.arange(count + 1))
    kept = (areas >= max(min_samples, 1)) & (np.asarray(cores) >= _CORE)
    kept[0] = False
    order = np.argsort(-np.where(kept, areas, 0), kind="stable")[: kept.sum()]
    numbers = np.zeros(count + 1, np.int32)
    numbers[order] = np.arange(1, len(order) + 1)
    return numbers[joined]


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
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    sums[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    top, bottom, left, end = _windows(mask.shape, x0, y0, side, shape)
    area = np.maximum(bottom - top, 1) * np.maximum(end - left, 1)
    top, bottom = (edge.clip(0, mask.shape[0]) for edge in (top, bottom))
    left, end = (edge.clip(0, mask.shape[1]) for edge in (left, end))
    inside = sums[bottom, end] - sums[top, end] - sums[bottom, left] + sums[top, left]
    share: NDArray[np.float64] = inside / area
    return share


def number_in_windows(
    numbers: NDArray[np.int32],
    x0: NDArray[np.floating],
    y0: NDArray[np.floating],
    side: float,
    shape: tuple[int, int],
) -> NDArray[np.int32]:
    """Most frequent number above 0 in each window, as windows are given to :func:`share_of_windows`."""
    top, bottom, left, end = (edge.clip(0) for edge in _windows(numbers.shape, x0, y0, side, shape))
    found = np.zeros(len(top), np.int32)
    for i in range(len(top)):
        counts = np.bincount(numbers[top[i] : bottom[i], left[i] : end[i]].ravel())
        found[i] = counts[1:].argmax() + 1 if len(counts) > 1 else 0
    return found


def _windows(
    size: tuple[int, ...],
    x0: NDArray[np.floating],
    y0: NDArray[np.floating],
    side: float,
    shape: tuple[int, int],
) -> tuple[NDArray[np.intp], ...]:
    """Give upper, lower, left and right edges of windows in samples; they may lie outside."""
    down, right = size[0] / shape[0], size[1] / shape[1]
    top, bottom = (np.rint(y * down).astype(np.intp) for y in (y0, y0 + side))
    left, end = (np.rint(x * right).astype(np.intp) for x in (x0, x0 + side))
    return top, bottom, left, end


def _sample(image: DataArray | DataTree, side: float) -> NDArray[np.uint8]:
    """Thin an image ``[3, y, x]``: each sample is the mean of up to nine pixels of its place."""
    height, width = level_shape(image, 0)
    finest = side / _SAMPLES_PER_SIDE
    # Larger steps where the image is so large that the samples would not fit.
    pitch = max(finest, math.sqrt(height * width / _MOST_SAMPLES))
    level = 0
    for candidate in range(n_levels(image)):
        if level_shape(image, candidate)[1] * pitch >= width:
            level = candidate
    pixels = level_array(image, level)
    fewest = math.ceil(math.sqrt(pixels.shape[1] * pixels.shape[2] / _MOST_SAMPLES))
    stride = max(fewest, int(pitch * pixels.shape[2] / width))
    count = min(stride, 3)
    offsets = [(2 * i + 1) * stride // (2 * count) for i in range(count)]
    rows, columns = (max(1, size // stride) for size in pixels.shape[1:])
    thinned: Sequence[da.Array] = [
        pixels[:, top::stride, left::stride][:, :rows, :columns].astype(np.uint16)
        for top in offsets
        for left in offsets
    ]
    sampled: NDArray[np.uint8] = (sum(thinned) // len(thinned)).astype(np.uint8).compute()  # type: ignore[union-attr]
    return sampled


def _texture(grey: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Largest local standard deviation of the channels, without what is painted."""
    largest = np.zeros(known.shape, np.float32)
    for channel in grey:
        mean = _local_mean(channel, known, _TEXTURE_WIDTH)
        square = _local_mean(channel * channel, known, _TEXTURE_WIDTH)
        np.maximum(largest, square - mean * mean, out=largest)
    return np.sqrt(largest)


def _local_mean(
    values: NDArray[np.float32], known: NDArray[np.bool_], width: int
) -> NDArray[np.float32]:
    """Mean of the known samples in a square window."""
    weight = known.astype(np.float32)
    total = ndimage.uniform_filter(values * weight, width, mode="nearest")
    share = ndimage.uniform_filter(weight, width, mode="nearest")
    mean: NDArray[np.float32] = total / np.maximum(share, 1e-3)
    return mean


def _glass(
    grey: NDArray[np.float32], known: NDArray[np.bool_], texture: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Colour of the glass ``[3]``: that of calm, bright, pale samples; white where there are none."""
    pale = np.ptp(grey, axis=0) < _GLASS_CHROMA
    calm = known & (texture < _GLASS_TEXTURE) & pale & (grey.mean(axis=0) > _GLASS_GREY)
    if calm.mean() < 0.005:
        return np.full(3, _WHITE_GLASS, np.float32)
    return np.median(grey[:, calm], axis=1).astype(np.float32)


def _without_holes(mask: NDArray[np.bool_], at_most: int) -> NDArray[np.bool_]:
    """Fill holes of up to so many samples; larger ones are glass in or between tissue."""
    holes, count = ndimage.label(~mask)
    areas = np.bincount(holes.ravel(), minlength=count + 1)
    # What reaches the edge of the image is no hole.
    edges = np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]])
    small = areas <= at_most
    small[0] = False
    small[edges] = False
    filled: NDArray[np.bool_] = mask | small[holes]
    return filled
