"""Folders and files that are there completely or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rankbygene.errors import InputValueError, OutputExistsError

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["atomic_directory", "atomic_file", "fill_store", "write_sdata"]


@contextmanager
def atomic_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` that takes its place when the block ends well.

    Whatever stops the block or the exchange (an exception, a full disk, Ctrl-C), ``path`` stays as
    it was and the temporary folder is removed. A process that is killed between the two renames of
    the exchange leaves what was there in a hidden folder ``.<name>.*`` beside ``path``.

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
    InputValueError
        ``path`` holds the working directory, which must not be replaced.
    """
    path = Path(path)
    check_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    # On the same file system as the target, so that the last step is a rename.
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    folder, aside = temporary / "new", temporary / "old"
    try:
        folder.mkdir()
        yield folder
        _sync(folder)
        check_free(path, overwrite)
        exchange(folder, path, aside)
    finally:
        # Should what was there be neither replaced nor put back, its only copy stays.
        if path.exists() or not aside.exists():
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
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
    InputValueError
        ``path`` is a folder.
    """
    path = Path(path)
    check_free(path, overwrite)
    if path.is_dir():
        msg = f"{path} is a folder; pass the name of a file"
        raise InputValueError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder, because a temporary file would keep rights of its own.
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary / path.name
        _sync(temporary)
        check_free(path, overwrite)
        (temporary / path.name).replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def exchange(new: Path, path: Path, aside: Path) -> None:
    """Move ``new`` to ``path``, and what was at ``path``, if anything, to ``aside``.

    All three lie on one file system. When the second move fails or is interrupted, the first is
    undone.
    """
    try:
        if path.exists():
            path.rename(aside)
        new.rename(path)
    finally:
        if aside.exists() and not path.exists():
            aside.rename(path)


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
    if Path.cwd().is_relative_to(path.resolve()):
        msg = f"{path} holds the working directory and is not replaced; pass a folder of its own"
        raise InputValueError(msg)


def _sync(folder: Path) -> None:
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
