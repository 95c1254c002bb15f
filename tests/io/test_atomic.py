from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from spatialdata import SpatialData

from rankbygene.io import atomic_directory, atomic_file, write_sdata


def test_a_folder_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with atomic_directory(target) as folder:
        (folder / "a.txt").write_text("a")
        assert not target.exists()
    assert (target / "a.txt").read_text() == "a"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(28, "full"), KeyboardInterrupt()], ids=str
)
def test_whatever_stops_the_block_leaves_what_was_there(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with pytest.raises(type(error)), atomic_directory(target, overwrite=True) as folder:
        (folder / "new.txt").write_text("half")
        raise error
    assert [path.name for path in target.iterdir()] == ["old.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt()], ids=str)
def test_a_stopped_exchange_puts_back_what_was_there(
    tmp_path: Path, monkeypatch: Any, error: BaseException
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old.txt").write_text("old")
    rename = Path.rename

    def stop_at_the_second(self: Path, goal: Path) -> Path:
        if self.name == "new":
            raise error
        return rename(self, goal)

    monkeypatch.setattr(Path, "rename", stop_at_the_second)
    with pytest.raises(type(error)), atomic_directory(target, overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
    assert [path.name for path in target.iterdir()] == ["old.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_only_copy_is_kept_when_it_cannot_be_put_back(tmp_path: Path, monkeypatch: Any) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old.txt").write_text("old")
    rename = Path.rename

    def move_aside_only(self: Path, goal: Path) -> Path:
        if self.name in ("new", "old"):
            raise OSError(5, "broken disk")
        return rename(self, goal)

    monkeypatch.setattr(Path, "rename", move_aside_only)
    with pytest.raises(OSError, match="broken"), atomic_directory(target, overwrite=True):
        pass
    (kept,) = tmp_path.glob(".out.*/old/old.txt")
    assert kept.read_text() == "old"


def test_the_working_directory_is_not_replaced(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for path in (tmp_path / "work", tmp_path, Path()):
        with (
            pytest.raises(ValueError, match="working directory"),
            atomic_directory(path, overwrite=True),
        ):
            pytest.fail("the block ran")
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_an_existing_folder_needs_a_word(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(FileExistsError, match="overwrite=True"), atomic_directory(target):
        pytest.fail("the block ran")
    with atomic_directory(target, overwrite=True) as folder:
        (folder / "a.txt").write_text("a")
    assert [path.name for path in target.iterdir()] == ["a.txt"]


def test_a_store_is_written_whole(make_slides: Any, tmp_path: Path) -> None:
    (sdata,) = make_slides(1)
    write_sdata(sdata, tmp_path / "out.zarr")
    assert not sdata.is_backed()
    again = SpatialData.read(tmp_path / "out.zarr")
    assert (again["table"].X != sdata["table"].X).nnz == 0
    with pytest.raises(FileExistsError):
        write_sdata(sdata, tmp_path / "out.zarr")
    write_sdata(again, tmp_path / "out.zarr", overwrite=True)
    assert SpatialData.read(tmp_path / "out.zarr")["table"].n_obs == 40


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("one")
    with pytest.raises(FileExistsError, match="overwrite=True"), atomic_file(path):
        pass
    with pytest.raises(KeyboardInterrupt), atomic_file(path, overwrite=True) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "one"
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text("two")
    assert path.read_text() == "two"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]
    with pytest.raises(ValueError, match="is a folder"), atomic_file(tmp_path, overwrite=True):
        pass
