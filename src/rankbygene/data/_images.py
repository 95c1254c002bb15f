"""Reading image elements: channels, levels and transformations, one way for every kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from spatialdata.transformations import get_transformation
from xarray import DataArray, DataTree

from rankbygene.data._stored import StoredImage
from rankbygene.errors import InputTypeError, InputValueError

Image: TypeAlias = DataArray | DataTree

_AXES = ("x", "y")
_CHANNEL_NAMES = {"red": "r", "green": "g", "blue": "b", "alpha": "a"}


def n_levels(image: Image) -> int:
    """Return the number of pyramid levels; 1 for an image of one scale."""
    return len(_levels(image))


def finest_level(element: Image) -> DataArray:
    """Return the finest level of an image or of labels."""
    return _levels(element)[0]


def level_shape(image: Image, level: int) -> tuple[int, int]:
    """Return height and width of a level in pixels."""
    sizes = _levels(image)[level].sizes
    return int(sizes["y"]), int(sizes["x"])


def level_to_system(image: Image, level: int, system: str) -> NDArray[np.float64]:
    """Return the 3x3 matrix from pixels (x, y) of a level to a coordinate system.

    Pixel ``i`` spans ``[i, i + 1)``. Levels carry their own scale, which is not a power of two
    where a size is odd.
    """
    transformation = get_transformation(_levels(image)[level], to_coordinate_system=system)
    matrix: NDArray[np.float64] = transformation.to_affine_matrix(_AXES, _AXES)
    return matrix


def level_array(image: Image, level: int) -> da.Array:
    """Return a level as a lazy ``(3, y, x)`` uint8 array, channels in the order r, g, b."""
    element = _levels(image)[level].transpose("c", "y", "x")
    order = _rgb_channels(element)
    data = element.data
    # A slice is a view; a list of channels copies every chunk.
    data = data[:3] if order == [0, 1, 2] else data[order]
    # Files hold what they declare, and are read without dask as long as nothing is mapped.
    pixels: da.Array = (
        data
        if StoredImage.behind(data)
        else data.map_blocks(_as_uint8, dtype=np.uint8, meta=np.empty((0, 0, 0), "u1"))
    )
    return pixels


def check_rgb_uint8(image: Image, name: str) -> None:
    """Refuse an image that cannot be read as 8-bit RGB, by what it declares.

    Raises
    ------
    InputValueError
        The image has a z axis, or channels other than three or r, g, b and a.
    InputTypeError
        The pixels are not 8-bit.
    """
    element = finest_level(image)
    if set(element.dims) != {"c", "y", "x"}:
        msg = f"image {name!r} has the axes {tuple(element.dims)}; only 2-D images (c, y, x) work"
        raise InputValueError(msg)
    if not _rgb_channels(element):
        channels = list(element.coords["c"].to_numpy().tolist())
        msg = (
            f"image {name!r} has {len(channels)} channels {channels[:8]}; needs 3, or r, g, b and "
            "a (alpha is dropped). Select three with `image.sel(c=[...])`, or name them with "
            "`Image2DModel.parse(..., c_coords=['r', 'g', 'b', 'a'])`."
        )
        raise InputValueError(msg)
    # Some readers declare int8 for blocks that hold uint8; `_as_uint8` settles it per block.
    if element.dtype not in (np.uint8, np.int8):
        raise InputTypeError(_dtype_message(f"image {name!r}", element.dtype))


def _levels(image: Image) -> Sequence[DataArray]:
    if isinstance(image, DataArray):
        return [image]
    nodes = [image.children[f"scale{i}"] for i in range(len(image.children))]
    return [next(iter(node.data_vars.values())) for node in nodes]


def _rgb_channels(element: DataArray) -> list[int]:
    """Return the positions of red, green and blue; an empty list where there are none."""
    names = [str(name).lower() for name in element.coords["c"].to_numpy().tolist()]
    names = [_CHANNEL_NAMES.get(name, name) for name in names]
    if set(names) in ({"r", "g", "b"}, {"r", "g", "b", "a"}) and len(names) == len(set(names)):
        return [names.index(color) for color in "rgb"]
    return [0, 1, 2] if len(names) == 3 else []


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
