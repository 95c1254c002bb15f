"""Tiles are the same wherever the pixels are kept."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
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

from rankbygene.data import TileReader, crop_tiles, resolve


def tiles_of(sdata: sd.SpatialData) -> np.ndarray:
    (frame,) = resolve(sdata)
    return TileReader(frame, tile_um=10, tile_px=20).read()


@pytest.fixture
def stored(build: SimpleNamespace, tmp_path: Path) -> Path:
    image = build.image(build.picture(123, 161), chunks=(3, 50, 50))
    build.slide(image=image).write(tmp_path / "slide.zarr")
    return tmp_path / "slide.zarr"


class SlowServer(ThreadingHTTPServer):
    """Serves a folder as an object store does: many at once, each after a while."""

    def __init__(self, folder: Path) -> None:
        self.at_once, self._now, self._lock = 0, 0, Lock()
        super().__init__(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))

    @contextmanager
    def request(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.at_once = max(self.at_once, self._now)
        time.sleep(0.05)
        yield
        with self._lock:
            self._now -= 1


class QuietHandler(SimpleHTTPRequestHandler):
    server: SlowServer

    def do_GET(self) -> None:
        with self.server.request():
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(stored: Path) -> Iterator[SlowServer]:
    with SlowServer(stored.parent) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


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


def test_chunks_of_another_machine_are_asked_for_together(
    build: SimpleNamespace, stored: Path, server: SlowServer
) -> None:
    pytest.importorskip("aiohttp")
    store = zarr.storage.FsspecStore.from_url(f"http://127.0.0.1:{server.server_port}/slide.zarr")
    pixels = da.from_zarr(zarr.open_array(store, path="images/he/s0", mode="r"))
    server.at_once = 0
    x0, y0 = np.meshgrid(np.arange(0, 141, 20), np.arange(0, 103, 20))
    tiles = crop_tiles(pixels, x0.ravel(), y0.ravel(), 20)
    expected = build.picture(123, 161)
    for x, y, tile in zip(x0.flat, y0.flat, tiles, strict=True):
        np.testing.assert_array_equal(tile, expected[:, y : y + 20, x : x + 20])
    assert server.at_once > 4
