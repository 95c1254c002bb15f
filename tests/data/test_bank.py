from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rankbygene.data import SpotFrame, TileBank, TileReader, resolve_slides
from rankbygene.errors import InputValueError


@pytest.fixture
def frames(build: SimpleNamespace) -> dict[str, SpotFrame]:
    first = build.slide([[40, 30], [80, 30], [50, 50.0]])
    second = build.slide(image=build.image(build.picture(seed=1)))
    return resolve_slides({"one": first, "two": second})


def test_rows_follow_slides_and_spots(frames: dict[str, SpotFrame]) -> None:
    bank = TileBank.build(frames, tile_um=16, tile_px=32)
    assert len(bank) == 7
    assert bank.slices == {"one": slice(0, 3), "two": slice(3, 7)}
    for name, frame in frames.items():
        expected = TileReader(frame, tile_um=16, tile_px=32).read()
        np.testing.assert_array_equal(bank.tiles[bank.slices[name]], expected)
        assert bank.plans[name].side == 32
    picked = bank[[5, 0]]
    np.testing.assert_array_equal(picked, bank.tiles[[5, 0]])
    picked[:] = 0
    assert bank[[5, 0]].any()


def test_file_beyond_the_memory_limit(frames: dict[str, SpotFrame], tmp_path: Path) -> None:
    in_memory = TileBank.build(frames, tile_um=16, tile_px=32)
    bank = TileBank.build(
        frames, tile_um=16, tile_px=32, memory_limit=1000, cache_dir=tmp_path / "cache"
    )
    assert isinstance(bank.tiles, np.memmap)
    np.testing.assert_array_equal(bank.tiles, in_memory.tiles)
    assert not isinstance(bank[[1, 2]], np.memmap)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    del bank
    gc.collect()
    assert list((tmp_path / "cache").iterdir()) == []


def test_file_is_removed_when_cutting_fails(
    frames: dict[str, SpotFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: TileReader) -> None:
        msg = "the disk was pulled out"
        raise OSError(msg)

    monkeypatch.setattr(TileReader, "stream", fail)
    with pytest.raises(OSError, match="pulled out"):
        TileBank.build(frames, tile_um=16, tile_px=32, memory_limit=1000, cache_dir=tmp_path)
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_said_before_cutting(
    frames: dict[str, SpotFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=1, used=0, free=2**28)
    monkeypatch.setattr("rankbygene.data._bank.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputValueError, match="0.2 GiB free; pass cache_dir="):
        TileBank.build(frames, tile_um=16, tile_px=32, memory_limit=1000, cache_dir=tmp_path)


def test_problems_of_all_slides(frames: dict[str, SpotFrame]) -> None:
    with pytest.raises(InputValueError, match="(?s)2 problems.*slide 'one'.*slide 'two'"):
        TileBank.build(frames, tile_um=16, tile_px=100)
