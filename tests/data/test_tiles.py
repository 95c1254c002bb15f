from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
import spatialdata as sd
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbygene.data import (
    TileReader,
    crop_tiles,
    frame_from_shapes,
    resize_tiles,
    resolve,
    stream_tiles,
)
from rankbygene.data.slides import _chunks as chunks_module
from rankbygene.data.tiles import _tiles as tiles_module

PAD = 400
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 131, 157), dtype=np.uint8)


def slices_of(pixels: np.ndarray, x0: Any, y0: Any, side: int) -> np.ndarray:
    """Cut the windows from a padded copy, one by one."""
    padded = np.pad(pixels, ((0, 0), (PAD, PAD), (PAD, PAD)), constant_values=255)
    return np.stack(
        [
            padded[:, y + PAD : y + PAD + side, x + PAD : x + PAD + side]
            for x, y in zip(x0, y0, strict=True)
        ]
    )


class Counted:
    """An image that counts how often each of its stored chunks is computed."""

    def __init__(self, pixels: np.ndarray, chunks: Any) -> None:
        self.reads: Counter[tuple[int, ...]] = Counter()
        self._lock = Lock()
        stored = da.from_array(pixels, chunks=chunks)
        meta = np.empty((0, 0, 0), np.uint8)
        self.array = stored.map_blocks(self._read, dtype=np.uint8, meta=meta)

    def _read(self, block: np.ndarray, block_info: Any = None) -> np.ndarray:
        with self._lock:
            self.reads[block_info[0]["chunk-location"]] += 1
        return block


@settings(deadline=None, max_examples=60)
@given(
    chunks=st.tuples(st.sampled_from([1, 3]), st.integers(20, 200), st.integers(20, 200)),
    side=st.integers(1, 90),
    seed=st.integers(0, 2**16),
    n=st.integers(1, 25),
    workers=st.integers(1, 3),
)
def test_tiles_are_slices_and_chunks_are_read_once(
    chunks: Any, side: int, seed: int, n: int, workers: int
) -> None:
    rng = np.random.default_rng(seed)
    x0 = rng.integers(-side, PIXELS.shape[2] + 1, n)
    y0 = rng.integers(-side, PIXELS.shape[1] + 1, n)
    image = Counted(PIXELS, chunks)
    tiles = np.full((n, 3, side, side), 255, np.uint8)
    for rows, cut in stream_tiles(image.array, x0, y0, side, workers=workers):
        tiles[rows] = cut
    np.testing.assert_array_equal(tiles, slices_of(PIXELS, x0, y0, side))
    assert set(image.reads.values()) <= {1}


@pytest.mark.parametrize(
    ("chunks", "edge"),
    [((3, 64, 64), 64), ((3, 100, 100), 100), ((3, -1, -1), 0), ((1, 4096, 4096), 0)],
)
def test_only_touched_chunks_are_read(chunks: Any, edge: int) -> None:
    image = Counted(PIXELS, chunks)
    crop_tiles(image.array, np.array([edge, edge + 9]), np.array([edge + 2, edge]), 28)
    expected = 3 if chunks[0] == 1 else 1
    assert sum(image.reads.values()) == expected
    crop_tiles(image.array, np.array([500]), np.array([5]), 20)
    assert sum(image.reads.values()) == expected


@pytest.mark.parametrize("cut", [(3, 40, 40), (3, 131, 10), (1, 33, 157)])
def test_a_file_cut_after_reading_is_read_once(cut: Any) -> None:
    """A reader that loads the whole file must not load it for every chunk."""
    image = Counted(PIXELS, -1)
    x0, y0 = np.arange(0, 120, 7), np.arange(0, 120, 7)
    tiles = crop_tiles(image.array.rechunk(cut), x0, y0, 30)
    np.testing.assert_array_equal(tiles, slices_of(PIXELS, x0, y0, 30))
    assert sum(image.reads.values()) == 1


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound, chunks of one read are computed in parts, and the read is repeated."""
    monkeypatch.setattr(chunks_module, "_HELD_BYTES", 2 * 3 * 40 * 40)
    image = Counted(PIXELS, -1)
    x0, y0 = np.array([0, 100]), np.array([0, 90])
    tiles = crop_tiles(image.array.rechunk((3, 40, 40)), x0, y0, 30)
    np.testing.assert_array_equal(tiles, slices_of(PIXELS, x0, y0, 30))
    assert sum(image.reads.values()) == 2


def test_tiles_leave_as_soon_as_they_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks decoded so far, when a tile is handed over, end at the row that it crosses last."""
    monkeypatch.setattr(tiles_module, "_TILES_AT_ONCE", 1)
    image = Counted(PIXELS, (3, 20, 157))
    x0, y0 = np.zeros(6, dtype=int), np.array([0, 15, 25, 60, 90, 110])
    stream: Iterator[Any] = stream_tiles(image.array, x0, y0, 20, workers=1)
    for rows, _ in stream:
        last = (y0[rows[0]] + 19) // 20
        assert max(position[1] for position in image.reads) == last


@pytest.mark.parametrize("scale_factors", [None, [2]])
@pytest.mark.parametrize("chunks", [(3, 64, 64), (1, 100, 100)])
def test_tiles_of_a_stored_slide(
    build: SimpleNamespace, tmp_path: Path, scale_factors: Any, chunks: Any
) -> None:
    pixels = build.picture(123, 161)
    image = build.image(pixels, scale_factors=scale_factors, chunks=chunks)
    centers = np.array([[0, 0], [161, 123], [80, 61], [20.5, 100]])
    build.slide(centers, image=image, ids=["a", "b", "c", "d"]).write(tmp_path / "s.zarr")
    (frame,) = resolve(sd.read_zarr(tmp_path / "s.zarr"))
    reader = TileReader(frame, tile_um=10, tile_px=20)
    expected = slices_of(pixels, reader.plan.x0, reader.plan.y0, 20)
    np.testing.assert_array_equal(reader.read(), expected)
    assert (expected[0, :, :10, :10] == 255).all()  # a corner stays in the middle of its tile
    if scale_factors:
        reader = TileReader(frame, tile_um=20, tile_px=20)
        assert reader.plan.level == 1
        coarse = np.asarray(frame.sdata.images["he"]["scale1"]["image"].data)
        expected = slices_of(coarse, reader.plan.x0, reader.plan.y0, reader.plan.side)
        np.testing.assert_array_equal(reader.read(), expected)


def test_rows_of_the_reader(build: SimpleNamespace) -> None:
    reader = TileReader(frame_from_shapes(build.slide(), "spots"), tile_um=16, tile_px=24)
    every = reader.read()
    assert every.shape == (4, 3, 24, 24)
    np.testing.assert_array_equal(reader.read([3, 0, 3]), every[[3, 0, 3]])
    np.testing.assert_array_equal(reader.read(np.array([0, 1, 0, 1], bool)), every[[1, 3]])
    seen = {
        int(r): t for rows, tiles in reader.stream([2, 3]) for r, t in zip(rows, tiles, strict=True)
    }
    assert set(seen) == {2, 3}
    np.testing.assert_array_equal(seen[2], every[2])
    assert reader.read([]).shape == (0, 3, 24, 24)


def test_a_rotated_image_gives_upright_tiles(build: SimpleNamespace) -> None:
    """The spot's own pixel is the middle of its tile, in the grid of the image."""
    pixels = np.full((3, 120, 160), 255, np.uint8)
    places = np.array([[40, 30], [90, 70]])
    for i, (x, y) in enumerate(places):
        pixels[:, y - 1 : y + 1, x - 1 : x + 1] = i
    angle = 0.4
    matrix = np.array(
        [
            [2 * np.cos(angle), -2 * np.sin(angle), 9],
            [2 * np.sin(angle), 2 * np.cos(angle), -7],
            [0, 0, 1],
        ]
    )
    image = build.image(pixels, {"global": build.affine(matrix), "um": build.scale(0.5)})
    centers = places @ matrix[:2, :2].T + matrix[:2, 2]
    reader = TileReader(
        frame_from_shapes(build.slide(centers, image=image), "spots"), tile_um=8, tile_px=16
    )
    for i, tile in enumerate(reader.read()):
        assert (tile[:, 7:9, 7:9] == i).all()
        assert (tile == i).sum() == 12


def test_resize(build: SimpleNamespace) -> None:
    tiles = np.stack([build.picture(48, 48, seed) for seed in range(70)])
    assert resize_tiles(tiles, 48) is tiles
    smaller = resize_tiles(tiles, 24)
    assert (smaller.shape, smaller.dtype) == ((70, 3, 24, 24), np.uint8)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(tiles).double(), size=(24, 24), mode="bilinear", antialias=True
    ).numpy()
    assert np.abs(smaller - exact).max() <= 1
    flat = np.full((2, 3, 30, 30), 77, np.uint8)
    assert (resize_tiles(flat, 47) == 77).all()
    assert resize_tiles(tiles[:0], 24).shape == (0, 3, 24, 24)
