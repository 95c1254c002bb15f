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
        np.testing.assert_array_equal(bank[bank.slices[name]], expected)
        assert bank.plans[name].side == 32
    every = bank[:]
    np.testing.assert_array_equal(bank[[5, 0, 5]], every[[5, 0, 5]])
    np.testing.assert_array_equal(bank[np.arange(7) % 2 == 1], every[1::2])
    np.testing.assert_array_equal(bank[[-1]], every[[6]])
    assert bank[[]].shape == (0, 3, 32, 32)
    bank[[5, 0]][:] = 0
    np.testing.assert_array_equal(bank[:], every)
    with pytest.raises(IndexError):
        bank[[7]]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_files_beyond_the_memory_limit(frames: dict[str, SpotFrame], temporary: Path) -> None:
    in_memory = TileBank.build(frames, tile_um=16, tile_px=32)
    assert in_memory.places is None
    bank = TileBank.build(frames, tile_um=16, tile_px=32, memory_limit=1000)
    np.testing.assert_array_equal(bank[:], in_memory[:])
    assert not isinstance(bank[[1, 2]], np.memmap)
    assert len(list(temporary.rglob("*.npy"))) == 2
    del bank
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_files_are_removed_when_cutting_fails(
    frames: dict[str, SpotFrame], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: TileReader) -> None:
        msg = "the disk was pulled out"
        raise OSError(msg)

    monkeypatch.setattr(TileReader, "stream", fail)
    with pytest.raises(OSError, match="pulled out"):
        TileBank.build(frames, tile_um=16, tile_px=32, memory_limit=1000)
    assert list(temporary.iterdir()) == []


def test_problems_of_all_slides(frames: dict[str, SpotFrame]) -> None:
    with pytest.raises(InputValueError, match="(?s)2 problems.*slide 'one'.*slide 'two'"):
        TileBank.build(frames, tile_um=16, tile_px=100)
