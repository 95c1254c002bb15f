"""Reading image elements: channels, levels and transformations, one way for every kind."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeAlias

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from spatialdata.transformations import get_transformation
from xarray import DataArray, DataTree

from rankbygene._arguments import checked
from rankbygene._checks import check_one_of_names
from rankbygene.data.slides._stored import StoredImage
from rankbygene.errors import InputTypeError, InputValueError

Image: TypeAlias = DataArray | DataTree

logger = logging.getLogger("rankbygene")

WHITE = 255
_AXES = ("x", "y")
_NO_PIXELS = np.empty((0, 0, 0), np.uint8)
_CHANNEL_NAMES = {"red": "r", "green": "g", "blue": "b", "alpha": "a"}


@checked
def n_levels(image: Image) -> int:
    """Return the number of pyramid levels; 1 for an image of one scale."""
    return len(_levels(image))


def finest_level(element: Image) -> DataArray:
    """Return the finest level of an image or of labels."""
    return _levels(element)[0]


def level_shape(image: Image, level: int) -> tuple[int, int]:
    """Return height and width of a level in pixels."""
    sizes = _level(image, level).sizes
    return int(sizes["y"]), int(sizes["x"])


@checked(level={"at_least": 0})
def level_to_system(image: Image, level: int, system: str) -> NDArray[np.float64]:
    """Return the 3x3 matrix from pixels (x, y) of a level to a coordinate system.

    Pixel ``i`` spans ``[i, i + 1)``. Levels carry their own scale, which is not a power of two
    where a size is odd.
    """
    element = _level(image, level)
    known = get_transformation(element, get_all=True)
    check_one_of_names(system, "system", known, "coordinate system of the image")
    transformation = known[system]
    matrix: NDArray[np.float64] = transformation.to_affine_matrix(_AXES, _AXES)
    return matrix


def _level(image: Image, level: int) -> DataArray:
    levels = _levels(image)
    if level >= len(levels):
        msg = f"level is {level}; the image has {len(levels)}, counted from 0"
        raise InputValueError(msg)
    return levels[level]


@checked(level={"at_least": 0})
def level_array(image: Image, level: int) -> da.Array:
    """Return a level as a lazy ``(3, y, x)`` uint8 array, channels in the order r, g, b.

    What is transparent shows white, as glass does.
    """
    element = _level(image, level).transpose("c", "y", "x")
    # Three channels of other names are those that the user chose.
    order = _color_positions(element) or [0, 1, 2]
    data = element.data
    if len(order) == 4:
        # Whole in the channels, since each colour needs its alpha.
        straight = (data if order == [0, 1, 2, 3] else data[order]).rechunk({0: -1})
        laid: da.Array = straight.map_blocks(
            _laid_over_white, chunks=(3, *straight.chunks[1:]), dtype=np.uint8, meta=_NO_PIXELS
        )
        return laid
    # A slice is a view; a list of channels copies every chunk.
    data = data[:3] if order == [0, 1, 2] else data[order]
    # Files hold what they declare, and are read without dask as long as nothing is mapped.
    pixels: da.Array = (
        data
        if StoredImage.behind(data)
        else data.map_blocks(_as_uint8, dtype=np.uint8, meta=_NO_PIXELS)
    )
    return pixels


def over_white(
    colors: NDArray[np.uint8], alpha: NDArray[np.uint8], *, premultiplied: bool = False
) -> NDArray[np.uint8]:
    """Lay a transparent picture over white: what was not scanned looks like glass.

    Parameters
    ----------
    colors
        ``[3, y, x]``.
    alpha
        ``[y, x]``; 0 is transparent, 255 opaque.
    premultiplied
        Whether the colours were multiplied by alpha already, as TIFF's associated alpha says.
    """
    # Sixteen bits hold 255 * 255; half of 255 rounds the division.
    opaque = alpha.astype(np.uint16)
    # Colours above their alpha would leave the range.
    own = np.minimum(colors, alpha) * np.uint16(WHITE) if premultiplied else colors * opaque
    laid: NDArray[np.uint8] = ((own + WHITE * (WHITE - opaque) + WHITE // 2) // WHITE).astype("u1")
    return laid


def check_rgb_uint8(image: Image, name: str, *, named: bool = False) -> None:
    """Refuse an image that cannot be read as 8-bit RGB, by what it declares.

    Parameters
    ----------
    image, name
        The image.
    named
        Whether the user chose it. Then three channels of other names, which could as well be
        stains under fluorescence, stand for red, green and blue.

    Raises
    ------
    InputValueError
        The image has a z axis, or channels other than red, green, blue and alpha.
    InputTypeError
        The pixels are not 8-bit.
    """
    element = finest_level(image)
    if set(element.dims) != {"c", "y", "x"}:
        msg = f"image {name!r} has the axes {tuple(element.dims)}; only 2-D images (c, y, x) work"
        raise InputValueError(msg)
    channels = list(element.coords["c"].to_numpy().tolist())
    if len(channels) != 3 and not _color_positions(element):
        msg = (
            f"image {name!r} has {len(channels)} channels {channels[:8]}; needs 3, or r, g, b and "
            "a (alpha is laid over white). Select three with `image.sel(c=[...])`, or name them with "
            "`Image2DModel.parse(..., c_coords=['r', 'g', 'b', 'a'])`."
        )
        raise InputValueError(msg)
    if not _color_positions(element):
        if not named:
            msg = (
                f"image {name!r} has the channels {channels}, which are not red, green and blue by "
                f"their names; pass image_key={name!r} if they are, in this order, or name them with "
                "`Image2DModel.parse(..., c_coords=['r', 'g', 'b'])`"
            )
            raise InputValueError(msg)
        logger.warning(
            "image %r: its channels %s are taken for red, green and blue", name, channels
        )
    # Some readers declare int8 for blocks that hold uint8; `_as_uint8` settles it per block.
    if element.dtype not in (np.uint8, np.int8):
        raise InputTypeError(_dtype_message(f"image {name!r}", element.dtype))


def may_be_rgb(image: Image) -> bool:
    """Say whether an image could show colours by its channels, whatever type its pixels have."""
    element = finest_level(image)
    return "c" in element.dims and bool(
        _color_positions(element) or _names(element) == ["0", "1", "2", "3"]
    )


def _levels(image: Image) -> Sequence[DataArray]:
    if isinstance(image, DataArray):
        return [image]
    nodes = [image.children[f"scale{i}"] for i in range(len(image.children))]
    return [next(iter(node.data_vars.values())) for node in nodes]


def _names(element: DataArray) -> list[str]:
    names = [str(name).lower() for name in element.coords["c"].to_numpy().tolist()]
    return [_CHANNEL_NAMES.get(name, name) for name in names]


def _color_positions(element: DataArray) -> list[int]:
    """Return where red, green, blue, and alpha if there is one, are; empty if names tell otherwise."""
    names = _names(element)
    for colors in ("rgb", "rgba"):
        if sorted(names) == sorted(colors):
            return [names.index(color) for color in colors]
    return [0, 1, 2] if names == ["0", "1", "2"] else []


def _laid_over_white(block: NDArray[np.generic]) -> NDArray[np.uint8]:
    *_, alpha = pixels = _as_uint8(block)
    return over_white(pixels[:3], alpha)


def _as_uint8(block: NDArray[np.generic]) -> NDArray[np.uint8]:
    if block.dtype == np.int8:
        # Colours are not negative: signed bytes are unsigned ones under a wrong label.
        return block.view(np.uint8)
    if block.dtype != np.uint8:
        raise InputTypeError(_dtype_message("a block of the image", block.dtype))
    return block.view(np.uint8)


def _dtype_message(what: str, dtype: np.dtype[np.generic]) -> str:
    return (
        f"{what} holds {dtype}, not uint8. Rescale it to 0..255 and store uint8, for example "
        "`(image / image.max() * 255).astype('uint8')`, before `Image2DModel.parse`."
    )
