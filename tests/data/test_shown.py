"""Tiles that show nothing are counted, and refused where they are most."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
from spatialdata import SpatialData

from rankbygene.data import TileBank, TileReader, resolve
from rankbygene.errors import InputValueError

CENTERS = np.array([[x, y] for y in (16, 48, 80) for x in (16, 48, 80)], float)
TILE = {"tile_um": 8.0, "tile_px": 16}


def stored(build: SimpleNamespace, folder: Path, **kwargs: Any) -> SpatialData:
    """Nine spots, each in the middle of a chunk of 32 px, written to disk."""
    kwargs = {"scale_factors": None} | kwargs
    image = build.image(build.picture(96, 96), chunks=(3, 32, 32), **kwargs)
    build.slide(CENTERS, image=image).write(folder / "s.zarr")
    return SpatialData.read(folder / "s.zarr")


def chunk(folder: Path, name: str, level: int = 0) -> Path:
    return folder / "s.zarr" / "images" / "he" / f"s{level}" / "c" / "0" / name


def read(sdata: SpatialData, route: str, folder: Path) -> Any:
    (frame,) = resolve(sdata)
    if route == "stream":
        return list(TileReader(frame, **TILE).stream())
    limits = {"memory": {}, "files": {"memory_limit": 0}, "cache": {"cache_dir": folder / "cache"}}
    return TileBank.build({"spots": frame}, **TILE, **limits[route])


@pytest.mark.parametrize("route", ["stream", "memory", "files", "cache"])
def test_missing_chunks_are_counted_and_refused(
    build: SimpleNamespace, tmp_path: Path, caplog: Any, route: str
) -> None:
    sdata = stored(build, tmp_path)
    read(sdata, route, tmp_path)
    assert caplog.text == ""
    for name in ("0/0", "0/1", "0/2", "1/0"):
        chunk(tmp_path, name).unlink()
    read(sdata, route, tmp_path)
    assert "4 of 9 tiles reach into chunks of 'he' (level 0) that are not stored" in caplog.text
    assert "4 of them with their centre (first: 0, 1, 2)" in caplog.text
    assert "4 of 9 tiles of 'he' are black or white in every pixel" in caplog.text
    chunk(tmp_path, "1/1").unlink()
    with pytest.raises(InputValueError, match=r"5 of 9 spots lie in chunks of 'he' \(level 0\)"):
        read(sdata, route, tmp_path)


def test_missing_chunks_beside_the_centre_are_counted(
    build: SimpleNamespace, tmp_path: Path, caplog: Any
) -> None:
    sdata = stored(build, tmp_path)
    chunk(tmp_path, "2/2").unlink()
    (frame,) = resolve(sdata)
    # 48 px wide, each tile reaches 8 px into its neighbours.
    TileReader(frame, tile_um=24, tile_px=48).read()
    assert "4 of 9 tiles reach into" in caplog.text
    assert "1 of them with their centre" in caplog.text


def test_chunks_of_the_level_that_is_read_count(
    build: SimpleNamespace, tmp_path: Path, caplog: Any
) -> None:
    sdata = stored(build, tmp_path, scale_factors=[2])
    shutil.rmtree(chunk(tmp_path, "0").parent)  # the finest level, which is not needed
    (frame,) = resolve(sdata)
    reader = TileReader(frame, tile_um=16, tile_px=16)
    assert reader.plan.level == 1
    reader.read()
    assert "not stored" not in caplog.text
    shutil.rmtree(chunk(tmp_path, "0", level=1).parent)
    with pytest.raises(InputValueError, match=r"9 of 9 spots.*\(level 1\).*read as 0"):
        reader.read()


def test_a_channel_of_zeros_may_be_left_out(
    build: SimpleNamespace, tmp_path: Path, caplog: Any
) -> None:
    """Writers store no chunk of the fill value; a picture without blue is no picture without pixels."""
    pixels = build.picture(96, 96)
    pixels[2] = 0
    image = build.image(da.from_array(pixels, chunks=(1, 32, 32)), chunks=(1, 32, 32))
    build.slide(CENTERS, image=image).write(tmp_path / "s.zarr")
    (frame,) = resolve(SpatialData.read(tmp_path / "s.zarr"))
    tiles = TileReader(frame, **TILE).read()
    assert (tiles[:, 2] == 0).all() and tiles[:, :2].std() > 50
    assert "0 of them with their centre" in caplog.text or caplog.text == ""


@pytest.mark.parametrize(("value", "refused"), [(0, True), (255, True), (200, False)])
def test_images_of_one_colour(
    build: SimpleNamespace, caplog: Any, value: int, refused: bool
) -> None:
    image = build.image(np.full((3, 96, 96), value, np.uint8))
    (frame,) = resolve(build.slide(CENTERS, image=image))
    if refused:
        with pytest.raises(
            InputValueError, match=r"5 or more|9 or more of 9 tiles are black or wh"
        ):
            TileReader(frame, **TILE).read()
    else:
        TileReader(frame, **TILE).read()
        assert "9 of 9 tiles of 'he' show one colour" in caplog.text


def test_glass_and_holes_are_counted(build: SimpleNamespace, caplog: Any) -> None:
    pixels = build.picture(96, 96)
    glass = np.random.default_rng(0).normal(235, 2, (3, 32, 32)).round().astype(np.uint8)
    pixels[:, :32, :32] = glass
    pixels[:, 40:48, 32:64] = 0
    (frame,) = resolve(build.slide(CENTERS, image=build.image(pixels)))
    with caplog.at_level(logging.WARNING, logger="rankbygene"):
        list(TileReader(frame, **TILE).stream(np.array([0, 4, 8])))
    assert (
        "1 of 3 tiles of 'he' show one colour, like glass without tissue (first: 0)" in caplog.text
    )
    assert "1 of 3 tiles of 'he' have holes of pure black" in caplog.text
    assert "(first: 4)" in caplog.text


def test_what_is_transparent_shows_nothing(build: SimpleNamespace) -> None:
    pixels = np.concatenate([build.picture(96, 96), np.zeros((1, 96, 96), np.uint8)])
    image = build.image(pixels, c_coords=["r", "g", "b", "a"])
    (frame,) = resolve(build.slide(CENTERS, image=image))
    with pytest.raises(InputValueError, match="black or white in every pixel"):
        TileReader(frame, **TILE).read()
