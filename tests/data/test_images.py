from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
from PIL import Image
from spatialdata.models import Image3DModel
from spatialdata.transformations import Identity

from rankbygene.data.slides._images import (
    check_rgb_uint8,
    level_array,
    level_shape,
    level_to_system,
    n_levels,
    over_white,
)
from rankbygene.errors import InputTypeError, InputValueError


@pytest.mark.parametrize("scale_factors", [None, [2]])
def test_pixels_shape_and_matrix(build: SimpleNamespace, scale_factors: Any) -> None:
    pixels = build.picture(101, 123)
    image = build.image(pixels, {"global": build.scale(3)}, scale_factors=scale_factors)
    check_rgb_uint8(image, "he")
    assert n_levels(image) == (1 if scale_factors is None else 2)
    assert level_shape(image, 0) == (101, 123)
    array = level_array(image, 0)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array.compute(), pixels)
    np.testing.assert_allclose(level_to_system(image, 0, "global"), np.diag([3, 3, 1]))
    if scale_factors:
        expected = np.diag([3 * 123 / 61, 3 * 101 / 50, 1])
        np.testing.assert_allclose(level_to_system(image, 1, "global"), expected)
        assert level_array(image, 1).shape == (3, 50, 61)


@pytest.mark.parametrize("names", [["b", "g", "r"], ["Green", "Red", "Blue"]])
def test_channels_are_found_by_name(build: SimpleNamespace, names: list[str]) -> None:
    pixels = np.stack([np.full((20, 30), i, dtype=np.uint8) for i in range(len(names))])
    image = build.image(pixels, c_coords=names)
    check_rgb_uint8(image, "he")
    letters = [name[0].lower() for name in names]
    found = level_array(image, 0).compute()[:, 0, 0].tolist()
    assert found == [letters.index(color) for color in "rgb"]


@pytest.mark.parametrize("names", [["r", "g", "b", "a"], ["Alpha", "Green", "Red", "Blue"]])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_what_is_transparent_is_white(build: SimpleNamespace, names: list[str], dtype: Any) -> None:
    """As Pillow lays a picture over white, for every alpha and colour, in chunks of any form."""
    y, x = np.indices((256, 256))
    planes = {"r": y, "g": (y * 7 + x) % 256, "b": 255 - y, "a": x}
    stacked = np.stack([planes[name[0].lower()] for name in names]).astype(np.uint8)
    lazy = da.from_array(stacked.view(dtype), chunks=(1, 100, 60))
    image = build.image(lazy, c_coords=names)
    check_rgb_uint8(image, "he")
    array = level_array(image, 0)
    assert (array.chunks[0], array.dtype) == ((3,), np.uint8)
    rgba = Image.fromarray(np.stack([planes[c] for c in "rgba"], 2).astype(np.uint8))
    white = Image.new("RGBA", rgba.size, "white")
    expected = np.asarray(Image.alpha_composite(white, rgba).convert("RGB")).transpose(2, 0, 1)
    difference = array.compute().astype(int) - expected
    assert np.abs(difference).max() <= 1  # Pillow rounds in another place
    opaque = x == 255
    np.testing.assert_array_equal(array.compute()[:, opaque], expected[:, opaque])
    assert (array.compute()[:, x == 0] == 255).all()


def test_premultiplied_colours_are_not_multiplied_again() -> None:
    colors, alpha = np.full((3, 1, 3), 60, np.uint8), np.array([[0, 120, 255]], np.uint8)
    assert over_white(colors, alpha, premultiplied=True)[0].tolist() == [[255, 195, 60]]
    assert over_white(colors, alpha)[0].tolist() == [[255, 163, 60]]


def test_unnamed_channels_stand_as_they_are(build: SimpleNamespace) -> None:
    pixels = build.picture()
    image = build.image(pixels, c_coords=None)
    np.testing.assert_array_equal(level_array(image, 0).compute(), pixels)


@pytest.mark.parametrize(
    "names", [["dapi"], [0, 1, 2, 3], ["r", "g", "b", "x"], ["r", "g", "b", "a", "x"]]
)
def test_other_channels_are_refused(build: SimpleNamespace, names: list[Any]) -> None:
    image = build.image(np.zeros((len(names), 9, 9), np.uint8), c_coords=names)
    with pytest.raises(InputValueError, match=f"'he' has {len(names)} channels.*laid over white"):
        check_rgb_uint8(image, "he", named=True)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int64, bool])
def test_other_dtypes_are_refused(build: SimpleNamespace, dtype: Any) -> None:
    image = build.image(np.zeros((3, 9, 9), dtype))
    with pytest.raises(InputTypeError, match=f"{np.dtype(dtype)}, not uint8.*astype"):
        check_rgb_uint8(image, "he")


def test_z_axis_is_refused() -> None:
    image = Image3DModel.parse(
        np.zeros((3, 2, 9, 9), np.uint8),
        dims=("c", "z", "y", "x"),
        transformations={"global": Identity()},
    )
    with pytest.raises(InputValueError, match="only 2-D"):
        check_rgb_uint8(image, "he")


@pytest.mark.parametrize("stored", [np.uint8, np.int8])
def test_unsigned_bytes_declared_as_signed(build: SimpleNamespace, stored: Any) -> None:
    """Readers may declare int8 and give uint8; once written, such blocks are int8 indeed."""
    pixels = build.picture(40, 50)
    held = da.from_array(pixels.view(stored), chunks=(3, 20, 20))
    lazy = held.map_blocks(lambda block: block, dtype=np.int8, meta=np.empty((0, 0, 0), np.int8))
    image = build.image(lazy)
    check_rgb_uint8(image, "he")
    np.testing.assert_array_equal(level_array(image, 0).compute(), pixels)


def test_blocks_that_are_not_what_they_declare(build: SimpleNamespace) -> None:
    lazy = da.zeros((3, 9, 9), chunks=9, dtype=np.uint8).map_blocks(
        lambda block: block / 2, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )
    with pytest.raises(InputTypeError, match="a block of the image holds float64"):
        level_array(build.image(lazy), 0).compute()
