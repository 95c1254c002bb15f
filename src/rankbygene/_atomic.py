"""Folders and files that are there completely or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError, OutputExistsError, OutputFailedError

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = [
    "atomic_directory",
    "atomic_file",
    "check_claimable",
    "check_regular",
    "claim",
    "fill_store",
    "remove_directory",
    "scratch",
    "settle",
    "write_sdata",
]

logger = logging.getLogger("rankbygene")

# What a temporary folder may hold: the lock of its owner, the new and the old output.
_LOCK, _NEW, _OLD = "lock", "new", "old"
# Seconds after which what could not be removed is tried again.
_WAITS = (0.02, *[0.1] * 20)
# So often it must be found absent after an interruption.
_ABSENT = 3
# Errors that say that a disk cannot take more.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Libraries report a full disk in words of their own.
_FULL_IN_WORDS = re.compile(
    r"no space left|requested and \d+ written|disk quota exceeded|file too large", re.I
)


@contextmanager
@checked
def atomic_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` that takes its place when the block ends well.

    Whatever stops the block or the exchange (an exception, a full disk, Ctrl-C), ``path`` stays as
    it was and the temporary folder is removed. What a killed process left behind is removed, or put
    back, the next time that ``path`` is written.

    Parameters
    ----------
    path
        The folder to write.
    overwrite
        Replace a folder of that name.

    Raises
    ------
    OutputExistsError
        ``path`` exists and ``overwrite`` is False.
    OutputFailedError
        The disk is full.
    InputValueError
        ``path`` holds the working directory, which must not be replaced.
    """
    path = Path(path)
    settle(path)
    check_free(path, overwrite)
    with disk_errors(path), _temporary(path) as temporary:
        folder = temporary / _NEW
        folder.mkdir()
        yield folder
        sync(folder)
        check_free(path, overwrite)
        exchange(folder, path, temporary / _OLD)


@contextmanager
@checked
def atomic_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path beside ``path`` whose file takes its place when the block ends well.

    Whatever stops the block, ``path`` stays as it was and what was written is removed.

    Parameters
    ----------
    path
        The file to write.
    overwrite
        Replace a file of that name.

    Raises
    ------
    OutputExistsError
        ``path`` exists and ``overwrite`` is False.
    OutputFailedError
        The disk is full.
    InputValueError
        ``path`` is a folder.
    """
    path = Path(path)
    settle(path)
    check_free(path, overwrite)
    if path.is_dir():
        msg = f"{path} is a folder; pass the name of a file"
        raise InputValueError(msg)
    with disk_errors(path), _temporary(path) as temporary:
        # In a folder, because a temporary file would keep rights of its own.
        folder = temporary / _NEW
        folder.mkdir()
        yield folder / path.name
        sync(folder)
        check_free(path, overwrite)
        (folder / path.name).replace(path)


def claim(
    folder: Path, name: str, record: Mapping[str, Any], *, is_ours: Callable[[Path], bool]
) -> Any:
    """Let a folder say what it is for, in one file, and give what it says.

    Processes that begin together all write, the first file stays. A process that was killed at any point
    leaves what the next one takes up.

    Parameters
    ----------
    folder
        Made if need be.
    name
        Of the file.
    record
        What the file is to say if there is none, in values that JSON keeps.
    is_ours
        Whether something may lie in a folder that has lost its file, or not yet got it.

    Raises
    ------
    InputValueError
        The folder holds something else and no such file, or the file cannot be read.
    """
    file = folder / name
    settle(file)
    if not file.exists():
        check_claimable(folder, name, is_ours=is_ours)
        with contextlib.suppress(OutputExistsError), atomic_file(file) as new:
            new.write_text(json.dumps(record, indent=1), encoding="utf-8")
    check_regular(file)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{file} is damaged ({error}); delete {folder}, or pass another"
        raise InputValueError(msg) from error


def check_claimable(folder: Path, name: str, *, is_ours: Callable[[Path], bool]) -> None:
    """Refuse a folder that :func:`claim` would refuse for what lies in it; nothing is written.

    Raises
    ------
    InputValueError
        It is a file, or holds something else and no file ``name``.
    """
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; pass an empty or new folder"
        raise InputValueError(msg)
    if not folder.exists() or (folder / name).exists():
        return
    foreign = sorted(_foreign(folder, folder / name, is_ours))
    # Another process may have written the file since.
    if foreign and not (folder / name).exists():
        msg = (
            f"{folder} holds other files and no {name} ({', '.join(foreign[:3])}); move them away, "
            "or pass an empty or new folder"
        )
        raise InputValueError(msg)


def _foreign(folder: Path, file: Path, is_ours: Callable[[Path], bool]) -> Iterator[str]:
    """Names of what neither we nor processes that are writing the file have put into a folder."""
    for item in list(folder.iterdir()):
        if item != file and not is_temporary(item) and not is_ours(item):
            yield item.name


def is_temporary(path: Path) -> bool:
    """Whether something is what a process keeps beside an output while it writes it."""
    if not re.fullmatch(r"\..+\.[a-z0-9_]{8}", path.name) or path.is_symlink():
        return False
    try:
        return {item.name for item in path.iterdir()} <= {_LOCK, _NEW, _OLD}
    except FileNotFoundError:  # gone meanwhile
        return True
    except OSError:
        return False


def check_regular(path: Path) -> None:
    """Refuse to open pipes, devices and folders, which may block for ever, and links to nothing.

    Raises
    ------
    InputValueError
        There is something of that name that is not a file.
    """
    if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110  (pathlib's raises on loops)
        msg = f"{path} is a link that leads nowhere; remove it"
        raise InputValueError(msg)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe, socket or device"
        msg = f"{path} is {kind}, not a file; move it away"
        raise InputValueError(msg)


def remove_directory(path: Path) -> None:
    """Remove a folder in one step; what a killed process leaves of it is removed by :func:`settle`."""
    try:
        with _temporary(path) as temporary:
            path.rename(temporary / _NEW)
    except OSError:
        # A full disk has no room for a folder to move it to.
        if path.exists():
            shutil.rmtree(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Give a folder beside ``path`` that is removed when the block ends.

    Its lock is held as long as this process lives, so that others can tell it from a dead one's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        # On the same file system as the target, so that the last step is a rename.
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        lock = FileLock(temporary / _LOCK, timeout=0)
        try:
            lock.acquire()
            break
        except (Timeout, FileNotFoundError):
            continue  # another process took it for a dead one's before it had a lock
        except BaseException:  # such as a full disk
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    interrupted = False
    try:
        yield temporary
    except (KeyboardInterrupt, SystemExit):
        interrupted = True
        raise
    finally:
        # Should what was there be neither replaced nor put back, its only copy stays.
        if path.exists() or not (temporary / _OLD).exists():
            try:
                _remove_surely(temporary, interrupted)
            except (KeyboardInterrupt, SystemExit):  # asked to end while it is at it
                _remove_surely(temporary, interrupted=True)
                raise
        lock.release()


def settle(path: Path) -> None:
    """Put back or remove what dead processes left beside ``path`` while they wrote it.

    A folder that a living process holds, or that holds anything else, is left alone.
    """
    if not path.parent.is_dir():
        return
    pattern = re.compile(re.escape(f".{path.name}.") + r"[a-z0-9_]{8}")
    for temporary in [item for item in path.parent.iterdir() if pattern.fullmatch(item.name)]:
        try:
            _settle(temporary, path)
        except OSError as error:  # not ours to touch, or gone meanwhile
            logger.debug("%s was left alone (%s)", temporary, error)


def _settle(temporary: Path, path: Path) -> None:
    held = {item.name for item in temporary.iterdir()}
    if not held:
        temporary.rmdir()
        return
    if _LOCK not in held or not held <= {_LOCK, _NEW, _OLD}:
        return
    lock = FileLock(temporary / _LOCK, timeout=0)
    try:
        lock.acquire()
    except (Timeout, NotImplementedError):  # its owner lives, or this file system has no locks
        return
    try:
        if _OLD in held and not path.exists():
            (temporary / _OLD).rename(path)
            logger.warning("put back %s, which a killed process had moved aside", path)
        else:
            logger.warning("removed %s, which a killed process had left", temporary)
        _remove(temporary)
    finally:
        lock.release()


def _remove_surely(temporary: Path, interrupted: bool) -> None:
    """Remove a folder, also one in which threads of libraries still write, which no interruption stops."""
    absent = 0
    for seconds in _WAITS:
        # Late ones make the folders anew that they miss.
        absent = 0 if temporary.exists() else absent + 1
        if absent == _ABSENT:
            return
        with contextlib.suppress(OSError):
            _remove(temporary)
            if not interrupted:
                return
        time.sleep(seconds)


def _remove(temporary: Path) -> None:
    """Remove what :func:`_temporary` gave so that, stopped anywhere, the next one can go on.

    What is incomplete is never called old, which is put back, and the lock, by which others know whose it
    is, goes last.
    """
    new, old = temporary / _NEW, temporary / _OLD
    for _ in range(2):
        if new.is_dir():
            shutil.rmtree(new)
        if old.exists():
            old.rename(new)
    shutil.rmtree(temporary)


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Give a folder for files that nobody needs after the block, among the system's temporary files.

    What killed processes left of theirs is removed.
    """
    place = Path(tempfile.gettempdir()) / name
    settle(place)
    with _temporary(place) as temporary:
        folder = temporary / _NEW
        folder.mkdir()
        yield folder


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say of a full disk what was to be written, how much room there is, and what to do.

    Raises
    ------
    OutputFailedError
        The block met a full disk.
    """
    try:
        yield
    except OutputFailedError:
        raise
    # safetensors and h5py have errors of their own, so that the class does not tell.
    except Exception as error:
        full = getattr(error, "errno", None) in _FULL or _FULL_IN_WORDS.search(str(error))
        if not full:
            raise
        place = next(folder for folder in [path.parent, *path.parent.parents] if folder.exists())
        free = shutil.disk_usage(place).free
        msg = (
            f"{path} could not be written: {error}. There {free / 2**20:,.0f} MiB are free, or a quota is used "
            "up. What was there before is untouched. Free some space, or pass a path on another disk"
        )
        raise OutputFailedError(msg) from error


def exchange(new: Path, path: Path, aside: Path) -> None:
    """Move ``new`` to ``path``, and what was at ``path``, if anything, to ``aside``.

    All three lie on one file system. Where the system can swap two names (Linux, macOS), there is
    something at ``path`` at every instant. Elsewhere, when the second move fails or is interrupted, the
    first is undone.
    """
    if path.exists() and swap(new, path):
        new.rename(aside)
        return
    try:
        if path.exists():
            path.rename(aside)
        new.rename(path)
    finally:
        if aside.exists() and not path.exists():
            aside.rename(path)


def swap(one: Path, other: Path) -> bool:
    """Let two files or folders change names in one step; False if the system cannot."""
    library: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        at_working_directory, exchange_names = -100, 2
        failed = library.renameat2(
            at_working_directory, names[0], at_working_directory, names[1], exchange_names
        )
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        swap_names = 2
        failed = library.renamex_np(*names, swap_names)
    else:
        return False
    return not failed


@checked
def write_sdata(sdata: SpatialData, path: Path, *, overwrite: bool = False) -> None:
    """Write a SpatialData object as a store, completely or not at all.

    The object stays backed by the store it came from.

    Raises
    ------
    OutputExistsError
        ``path`` exists and ``overwrite`` is False.
    """
    with atomic_directory(path, overwrite=overwrite) as folder:
        fill_store(sdata, folder)


@checked
def fill_store(sdata: SpatialData, folder: Path) -> None:
    """Write a SpatialData object into an empty folder, which becomes the store."""
    # SpatialData refuses to write into a folder that exists.
    inner = folder / "store.zarr"
    sdata.write(inner, update_sdata_path=False)
    for item in inner.iterdir():
        item.rename(folder / item.name)
    inner.rmdir()


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse an output that is in the way.

    Raises
    ------
    OutputExistsError
        ``path`` exists and ``overwrite`` is False.
    InputValueError
        ``path`` holds the working directory, which must not be replaced.
    """
    if path.exists() and not overwrite:
        msg = f"{path} exists already; pass another path, or overwrite=True to replace it"
        raise OutputExistsError(msg)
    # pathlib's own raises on links that lead to themselves.
    if Path.cwd().is_relative_to(os.path.realpath(path)):
        msg = f"{path} holds the working directory and is not replaced; pass a folder of its own"
        raise InputValueError(msg)


def sync(folder: Path) -> None:
    """Ask the disk to hold what was written, before it replaces what was there."""
    if os.name != "posix":  # elsewhere folders cannot be opened, nor files synced when read-only
        return
    for directory, _, files in os.walk(folder):
        for name in [*files, "."]:
            handle = os.open(Path(directory) / name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
