from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spatialdata import SpatialData

from rankbygene import _atomic
from rankbygene._atomic import check_regular, scratch, settle
from rankbygene.errors import InputValueError, OutputFailedError
from rankbygene.io import atomic_directory, atomic_file, write_sdata


@pytest.fixture
def no_swap(monkeypatch: Any) -> None:
    """A system that cannot swap two names."""
    monkeypatch.setattr(_atomic, "swap", lambda one, other: False)


def killed(work: Callable[[], None]) -> None:
    """Run in a process that must be killed by its own work."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


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


@pytest.mark.usefixtures("no_swap")
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


@pytest.mark.usefixtures("no_swap")
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


def test_two_folders_change_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    if not _atomic.swap(tmp_path / "one", tmp_path / "two"):
        pytest.skip("this file system cannot swap")
    assert (tmp_path / "one" / "file").read_text() == "two"
    assert (tmp_path / "two" / "file").read_text() == "one"
    assert not _atomic.swap(tmp_path / "one", tmp_path / "absent")


@pytest.mark.parametrize("swaps", [True, False])
def test_a_killed_writer_leaves_old_or_new_and_the_next_one_cleans_up(
    tmp_path: Path, monkeypatch: Any, swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr(_atomic, "swap", lambda one, other: False)
    target = tmp_path / "out"
    rename, calls = Path.rename, []

    def write(content: str) -> None:
        with atomic_directory(target, overwrite=True) as folder:
            (folder / "a.txt").write_text(content)

    for n_renames in range(3):

        def killed_rename(self: Path, goal: Path, n: int = n_renames) -> Path:
            calls.append(goal)
            return die() if len(calls) > n else rename(self, goal)  # type: ignore[return-value]

        write("old")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed_rename)
            child = os.fork()
            if child == 0:
                write("new")
                os._exit(0)
            os.waitpid(child, 0)
        _atomic.settle(target)
        assert (target / "a.txt").read_text() in ("old", "new")
        assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_block_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def work() -> None:
        with atomic_directory(target) as folder:
            (folder / "half").write_text("half")
            die()

    killed(work)
    (left,) = tmp_path.iterdir()
    foreign = tmp_path / ".out.abcdefgh"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with atomic_directory(tmp_path / "out.json") as other, atomic_directory(target) as folder:
        assert not left.exists()
        # A living writer of the same folder is left alone.
        _atomic.settle(target)
        _atomic.settle(tmp_path / "out.json")
        assert folder.exists()
        assert other.exists()
    assert {item.name for item in tmp_path.iterdir()} == {"out", "out.json", foreign.name}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError("28800 requested and 17376 written")]
)
def test_a_full_disk_is_named(tmp_path: Path, error: OSError) -> None:
    with (
        pytest.raises(
            OutputFailedError, match=r"out could not be written.*MiB are free.*another disk"
        ),
        atomic_directory(tmp_path / "out"),
    ):
        raise error
    with pytest.raises(OSError, match="broken"), atomic_file(tmp_path / "file"):
        raise OSError(5, "broken disk")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_while_the_old_is_removed_leaves_nothing(tmp_path: Path) -> None:
    target, seen = tmp_path / "out", 0
    for kill_at in range(20):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name in ("a", "b", "c"):
            (target / name).write_text("old")
        child = os.fork()
        if child == 0:
            _replace_and_die(target, kill_at)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert (target / "a").read_text() == "new"
        seen += killed and len(list(tmp_path.iterdir())) > 1
        if killed and kill_at % 2:
            # Whoever moves the new one away must not get parts of the old one.
            shutil.rmtree(target)
            settle(target)
            assert not target.exists() or {item.name for item in target.iterdir()} == {*"abc"}
        settle(target)
        assert [item for item in tmp_path.iterdir() if item != target] == []
    assert seen > 5


def _replace_and_die(target: Path, kill_at: int) -> None:
    """Replace a folder, and be killed at a removal or renaming after the new one is at its place."""
    n = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal n
        removes = event in ("os.remove", "os.rmdir", "os.rename")
        if removes and (target / "a").exists() and (target / "a").read_text() == "new":
            if n == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            n += 1

    try:
        sys.addaudithook(watch)
        with atomic_directory(target, overwrite=True) as folder:
            (folder / "a").write_text("new")
    finally:
        os._exit(0)


def test_the_words_of_libraries_for_a_full_disk_are_known(tmp_path: Path) -> None:
    for text in (
        "I/O error: File too large (os error 27)",
        "No space left on device (os error 28)",
    ):
        with (
            pytest.raises(OutputFailedError, match="Free some space"),
            atomic_file(tmp_path / "out"),
        ):
            raise RuntimeError(text)


def test_scratch_goes_also_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    child = os.fork()
    if child == 0:
        with scratch("ours") as folder:
            (folder / "file").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    with scratch("ours") as folder, scratch("ours") as other:
        assert folder != other
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_for_a_lock_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, *args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_atomic.FileLock, "acquire", full)
    with pytest.raises(OutputFailedError, match="Free some space"), atomic_file(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_links_that_lead_nowhere_are_refused_or_replaced(tmp_path: Path) -> None:
    for goal in ("itself", "nothing"):
        link = tmp_path / "itself"
        link.symlink_to(goal)
        with pytest.raises(InputValueError, match="link that leads nowhere"):
            check_regular(link)
        with atomic_file(link) as file:
            file.write_text("new")
        assert link.read_text() == "new"
        link.unlink()


def test_what_threads_still_write_is_removed_too(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        end = time.monotonic() + 0.25
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "late").touch()

    with pytest.raises(SystemExit), atomic_directory(tmp_path / "out") as folder:
        thread = threading.Thread(target=write, args=(folder / "chunks",))
        thread.start()
        raise SystemExit
    thread.join()
    assert list(tmp_path.iterdir()) == []
