"""Children that are killed, or meet a full disk, at an operation on files of their own.

A child is forked from a process that has imported everything, so that one costs a fraction of a second.
An audit hook counts what it does to files, before each operation happens.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankbygene.errors import RankByGeneError

# What changes a file system, of what Python reports; files that are opened for writing come on top.
_CHANGES = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
}
# What a full disk refuses; things can be removed and renamed.
_TAKES_ROOM = {"os.mkdir", "os.link", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Fault:
    """What happens to a child.

    Attributes
    ----------
    kill_at
        Operation before which it is killed.
    torn
        Whether the file that was written last is left half written, as a kill in its middle does.
    kill_after
        Seconds after which it is killed.
    full_at
        Operation from which on the disk is full.
    largest
        Bytes that a file may have, as a quota or a full disk limits it in the middle of a file.
    number
        Signal of the kill.
    """

    kill_at: int | None = None
    torn: bool = False
    kill_after: float | None = None
    full_at: int | None = None
    largest: int | None = None
    number: int = signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes
    ----------
    how
        ``"done"``, ``"refused"`` (an error of ours), ``"foreign"`` (another), ``"killed"`` or ``"hang"``.
    value
        What it gave, in values that JSON keeps; for errors their type.
    text
        The error.
    operations
        Changes of files that it made, if it was not killed.
    seconds
        How long it took.
    """

    how: str
    value: Any = None
    text: str = ""
    operations: int = 0
    seconds: float = 0.0


def run_child(
    work: Callable[[], Any],
    folder: Path,
    fault: Fault | None = None,
    *,
    seconds: float = 60.0,
) -> Ended:
    """Run something in a child whose files are in a folder.

    Parameters
    ----------
    work
        What the child does; gives values that JSON keeps.
    folder
        Operations elsewhere are not counted, and temporary files of the child go to ``folder/tmp``.
    fault
        What happens to it.
    seconds
        After so many it hangs.
    """
    # Not on the disk of the folder, which may be full.
    report, began = Path(tempfile.gettempdir()) / f"faults-{os.getpid()}", time.monotonic()
    report.unlink(missing_ok=True)
    fault = fault or Fault()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        child = os.fork()
    if child == 0:
        _live(work, folder, fault, report)
    status = _wait(child, fault, seconds)
    took = time.monotonic() - began
    if status is None:
        return Ended("hang", seconds=took)
    if not report.exists():
        return Ended("killed", value=-status, seconds=took)
    ended = json.loads(report.read_text(encoding="utf-8"))
    report.unlink()
    return Ended(**ended, seconds=took)


def _live(work: Callable[[], Any], folder: Path, fault: Fault, report: Path) -> None:
    """Be the child, and nothing else whatever happens."""
    try:
        _work(work, folder, fault, report)
    finally:
        os._exit(1)


def _work(work: Callable[[], Any], folder: Path, fault: Fault, report: Path) -> None:
    watch = _Watch(folder, fault)
    try:
        # Workers of the child end with it.
        os.setsid()
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        sink = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(sink, stream)
        (folder / "tmp").mkdir(exist_ok=True)
        tempfile.tempdir = str(folder / "tmp")
        sys.addaudithook(watch)
        watch.patch_fsync()
        if fault.largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest, resource.RLIM_INFINITY))
        ended: dict[str, Any] = {"how": "done", "value": work()}
    except RankByGeneError as error:
        ended = {"how": "refused", "value": type(error).__name__, "text": str(error)}
    except BaseException as error:  # noqa: BLE001
        text = "".join(traceback.format_exception(error))
        ended = {"how": "foreign", "value": type(error).__name__, "text": text[-3000:]}
    watch.over = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    new = report.with_name(f"{report.name}.new")
    new.write_text(json.dumps(ended | {"operations": watch.n}), encoding="utf-8")
    new.rename(report)


class _Watch:
    """Counts operations, and lets the fault happen at one of them."""

    def __init__(self, folder: Path, fault: Fault) -> None:
        self.n, self.over = 0, False
        self._folder, self._fault, self._last = str(folder), fault, ""

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.over:
            return
        opened = event == "open" and isinstance(args[2], int) and args[2] & _WRITING
        if not (opened or event in _CHANGES) or not self._is_own(args[0]):
            return
        self._before(takes_room=bool(opened) or event in _TAKES_ROOM)
        fresh = opened and args[2] & (os.O_TRUNC | os.O_EXCL)
        self._last = str(_text(args[0])) if fresh else ""

    def patch_fsync(self) -> None:
        """Count what is synced too, which Python does not report; nothing changes by it."""
        fsync = os.fsync

        def counted(handle: int) -> None:
            if not self.over:
                self._before(takes_room=False)
            fsync(handle)

        os.fsync = counted

    def _before(self, *, takes_room: bool) -> None:
        if self._fault.kill_at is not None and self.n >= self._fault.kill_at:
            self.over = True
            if self._fault.torn and self._last and Path(self._last).is_file():
                os.truncate(self._last, Path(self._last).stat().st_size // 2)
            os.kill(os.getpid(), self._fault.number)
        full = self._fault.full_at is not None and self.n >= self._fault.full_at
        if full and takes_room:
            self.n += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.n += 1

    def _is_own(self, path: Any) -> bool:
        # A relative path is below the working directory, which the work itself may have changed.
        text = _text(path)
        return text is not None and (not text.startswith("/") or text.startswith(self._folder))


def _text(path: Any) -> str | None:
    try:
        return os.fsdecode(path)
    except TypeError:  # a handle
        return None


def _wait(child: int, fault: Fault, seconds: float) -> int | None:
    """Wait for a child, and kill it in its time; None if it had to be ended."""
    began, killed = time.monotonic(), False
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - began
        if fault.kill_after is not None and not killed and passed >= fault.kill_after:
            killed = True
            os.kill(child, fault.number)
        if passed > seconds:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)


def warm_up(work: Callable[[], Any], folder: Path) -> None:
    """Import what some work imports, without doing it in this process, whose threads no child would have."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(sys.modules)
    ended = run_child(lambda: [work(), sorted(set(sys.modules) - before)][1], folder, seconds=300)
    if ended.how != "done":
        msg = f"the campaign cannot begin: {ended.how} {ended.text}"
        raise RuntimeError(msg)
    for name in ended.value:
        # Some are no modules of their own.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def names_in(folder: Path) -> set[str]:
    """Names of all that a folder holds, but for temporary files that hold nothing."""
    return {str(item.relative_to(folder)) for item in folder.rglob("*")}


@contextmanager
def copied(pristine: Path, folder: Path) -> Iterator[Path]:
    """Give a folder that is as another one is."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pristine, folder, symlinks=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
