"""Chunks read straight from files are what zarr reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numcodecs
import numpy as np
import pytest
import spatialdata as sd
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from spatialdata.models import Image2DModel, ShapesModel
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from rankbygene.data import TileReader, crop_tiles, frame_from_shapes
from rankbygene.data.slides._stored import StoredImage
from rankbygene.errors import InputValueError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 131, 157), dtype=np.uint8)
SIDE = 30


def stored(path: Path, chunks: Any = (3, 40, 50), **kwargs: Any) -> da.Array:
    array = zarr.create_array(path, shape=PIXELS.shape, chunks=chunks, dtype="u1", **kwargs)
    array[:] = PIXELS
    return da.from_zarr(zarr.open_array(path, mode="r"))


@settings(deadline=None, max_examples=30)
@given(
    layout=st.sampled_from(
        [
            {"compressors": None},
            {"compressors": ZstdCodec(level=3, checksum=True)},
            {"compressors": BloscCodec(cname="lz4", shuffle="bitshuffle")},
            {"compressors": GzipCodec()},
            {"zarr_format": 2},
            {"zarr_format": 2, "compressors": None},
        ]
    ),
    chunks=st.tuples(st.integers(1, 4), st.integers(35, 140), st.integers(35, 170)),
    missing=st.booleans(),
    workers=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_files_hold_what_zarr_reads(
    tmp_path_factory: Any, layout: Any, chunks: Any, missing: bool, workers: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("stored") / "image"
    level = stored(path, chunks, fill_value=7, **layout)
    rng = np.random.default_rng(seed)
    if missing:
        files = sorted(
            file for file in path.rglob("*") if file.is_file() and file.name[-1].isdigit()
        )
        rng.choice(np.array(files, dtype=object)).unlink()
    x0, y0 = rng.integers(0, 100, (2, 8))
    image = StoredImage.behind(level)
    assert image is not None
    pixels = level.compute(scheduler="sync")
    expected = [pixels[:, y : y + SIDE, x : x + SIDE] for x, y in zip(x0, y0, strict=True)]
    np.testing.assert_array_equal(crop_tiles(level, x0, y0, SIDE), expected)
    np.testing.assert_array_equal(image.read((0, 0)), pixels[:, : chunks[1], : chunks[2]])


@pytest.mark.parametrize(
    "layout",
    [
        {"shards": (3, 80, 100)},
        {"compressors": (ZstdCodec(), Crc32cCodec())},
        {"zarr_format": 2, "order": "F"},
        {"filters": zarr.codecs.TransposeCodec(order=(0, 2, 1))},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_other_layouts_are_left_to_zarr(tmp_path: Path, layout: Any) -> None:
    level = stored(tmp_path / "image", **layout)
    assert StoredImage.behind(level) is None
    tile = crop_tiles(level, np.array([60]), np.array([70]), SIDE)[0]
    np.testing.assert_array_equal(tile, PIXELS[:, 70 : 70 + SIDE, 60 : 60 + SIDE])


def test_computed_images_are_left_to_dask(tmp_path: Path) -> None:
    level = stored(tmp_path / "image")
    assert StoredImage.behind(level) is not None
    in_memory = zarr.create_array({}, shape=PIXELS.shape, chunks=(3, 40, 50), dtype="u1")
    others = {
        "mapped": level.map_blocks(lambda block: 255 - block),
        "cut": level[:, 1:],
        "rechunked": level.rechunk((3, 60, 60)),
        "turned": level.transpose(0, 2, 1),
        "in memory": da.from_zarr(in_memory),
        "numpy": da.from_array(PIXELS),
        "elsewhere": da.from_zarr(f"file://{tmp_path}/image"),
        "16 bits": stored_as(tmp_path / "wide", "u2"),
    }
    assert {name: StoredImage.behind(other) for name, other in others.items()} == dict.fromkeys(
        others
    )


def stored_as(path: Path, dtype: str) -> da.Array:
    zarr.create_array(path, shape=PIXELS.shape, chunks=(3, 40, 50), dtype=dtype)
    return da.from_zarr(zarr.open_array(path, mode="r"))


@pytest.mark.parametrize("pyramid", [None, [2]])
def test_images_of_spatialdata_are_read_from_files(tmp_path: Path, pyramid: Any) -> None:
    image = Image2DModel.parse(PIXELS, c_coords=["r", "g", "b"], scale_factors=pyramid)
    spots = ShapesModel.parse(np.array([[60.0, 60], [80, 70]]), geometry=0, radius=5)
    sd.SpatialData(images={"he": image}, shapes={"spots": spots}).write(tmp_path / "slide.zarr")
    slide = sd.read_zarr(tmp_path / "slide.zarr")
    frame = frame_from_shapes(slide, "spots", um_per_px=1.0)
    for tile_um in (SIDE, 2 * SIDE):
        reader = TileReader(frame, tile_um=tile_um, tile_px=SIDE)
        assert StoredImage.behind(reader.levels[0]) is not None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    level = stored(tmp_path / "image")
    file = tmp_path / "image/c/0/1/1"
    whole = file.read_bytes()
    window = np.array([60]), np.array([50]), SIDE
    for damaged in (whole[:-20], b"", numcodecs.Zstd().encode(b"short")):
        file.write_bytes(damaged)
        with pytest.raises(InputValueError, match=r"image/c/0/1/1 does not hold a chunk"):
            crop_tiles(level, *window)


def test_what_a_reader_raises_is_an_error_of_the_package(tmp_path: Path) -> None:
    """Whether chunks come from files, one of which turns out a folder here, or from other code."""

    def pulled_out(block: Any) -> Any:
        msg = "the disk was pulled out"
        raise OSError(msg)

    level = stored(tmp_path / "image")
    file = tmp_path / "image" / "c" / "0" / "0" / "0"
    file.unlink()
    file.mkdir()
    mapped = da.from_array(PIXELS, chunks=(3, 40, 50)).map_blocks(pulled_out, dtype=np.uint8)
    for array, said in ((level, "IsADirectoryError"), (mapped, "OSError: the disk was pulled out")):
        with pytest.raises(InputValueError, match=f"pixels of the image cannot be read .{said}"):
            crop_tiles(array, np.array([0]), np.array([0]), SIDE)
