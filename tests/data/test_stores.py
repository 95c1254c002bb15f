"""Tiles are the same wherever the pixels are kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import dask.array as da
import numpy as np
import pytest
import spatialdata as sd
import zarr
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

from rankbygene.data import TileReader, resolve


def tiles_of(sdata: sd.SpatialData) -> np.ndarray:
    (frame,) = resolve(sdata)
    return TileReader(frame, tile_um=10, tile_px=20).read()


@pytest.fixture
def stored(build: SimpleNamespace, tmp_path: Path) -> Path:
    image = build.image(build.picture(123, 161), chunks=(3, 50, 50))
    build.slide(image=image).write(tmp_path / "slide.zarr")
    return tmp_path / "slide.zarr"


def opened_as(kind: str, stored: Path) -> Any:
    """The pixels of a slide as an array in a zip file or in an object store."""
    if kind == "zip":
        with ZipFile(stored.with_suffix(".zip"), "w") as file:
            for path in sorted(stored.rglob("*")):
                if path.is_file():
                    file.write(path, path.relative_to(stored))
        store: Any = zarr.storage.ZipStore(stored.with_suffix(".zip"), mode="r")
    else:
        fsspec = pytest.importorskip("fsspec")
        memory = fsspec.filesystem("memory")
        memory.put(str(stored), "/bucket/slide.zarr", recursive=True)
        store = zarr.storage.FsspecStore.from_url("memory://bucket/slide.zarr")
    return zarr.open_array(store, path="images/he/s0", mode="r")


@pytest.mark.parametrize("kind", ["zip", "object store"])
def test_pixels_in_other_stores(stored: Path, kind: str) -> None:
    """As in the user guide: the image is opened lazily where it is, the rest is read locally."""
    local = sd.read_zarr(stored)
    pixels = da.from_zarr(opened_as(kind, stored))
    image = Image2DModel.parse(
        pixels,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=get_transformation(local["he"], get_all=True),
    )
    expected = tiles_of(local)
    shutil.rmtree(stored / "images")
    rest = sd.read_zarr(stored, selection=("shapes", "tables"))
    rest["he"] = image
    np.testing.assert_array_equal(tiles_of(rest), expected)
