"""Replacing elements of a table in a store that can be read at every instant.

The new elements are written into a hidden folder of the store, read back, and only then moved to
their places, each by a rename. A journal in the hidden folder says what is to be moved. A process that
is killed before the journal is there has changed nothing; whoever comes next finishes what one that was
killed later had begun.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata.io
import numpy as np
import zarr
from filelock import FileLock

from rankbygene._atomic import check_regular, disk_errors, sync
from rankbygene.errors import InputValueError, OutputFailedError
from rankbygene.io._checksums import record_checksum

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Element",
    "column_order",
    "drop_index",
    "finish_update",
    "is_interrupted",
    "list_columns",
    "replace_elements",
    "write_index",
]

logger = logging.getLogger("rankbygene")

_FOLDER, _JOURNAL = ".rankbygene", "journal.json"
_COLUMNS = "column-order"
_SLOTS = ("obs", "var", "obsm", "layers", "uns")
# What a killed zarr leaves of a file that it was writing.
_PARTIAL = re.compile(r".*\.[0-9a-f]{32}\.partial")
# Values that are compared at once when what was written is read back.
_CHECKED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Element:
    """Place of an element in a table: ``slot`` is obs, var, obsm, layers or uns."""

    slot: str
    name: str


def replace_elements(store: Path, table: str, elements: Sequence[tuple[Element, Any]]) -> None:
    """Write elements of a table, all of them or none, the last one being the seal of the others.

    While they are moved to their places some are absent for a moment, and the seal is there only while
    the others belong together. What is there is whole.

    Parameters
    ----------
    store
        Folder of the SpatialData.
    table
        Path of the table in it.
    elements
        Places and values; columns of obs and var as arrays.

    Raises
    ------
    OutputFailedError
        The disk is full, or what was written reads as something else. The store is as it was.
    InputValueError
        The store holds the journal of an update that this version does not know.
    """
    with _alone(store), disk_errors(store):
        _finish(store)
        aside = store / _FOLDER
        try:
            _write_aside(store / table, aside / "new", elements)
            sync(aside)
            journal = {
                "format": 1,
                "table": table,
                "elements": [asdict(element) for element, _ in elements],
                "columns": {slot: column_order(store / table / slot) for slot in ("obs", "var")},
            }
            sealed = {**journal, "checksum": record_checksum(journal)}
            _replace_text(aside / _JOURNAL, json.dumps(sealed))
        except BaseException:
            if not (aside / _JOURNAL).exists():
                shutil.rmtree(aside, ignore_errors=True)
            raise
        _finish(store)


def is_interrupted(store: Path) -> bool:
    """Whether a process was killed while it replaced elements, or is at it now."""
    return (store / _FOLDER).exists()


def finish_update(store: Path) -> None:
    """Finish what a killed process had begun, or forget it where nothing had been moved."""
    if is_interrupted(store):
        with _alone(store):
            _finish(store)


def column_order(frame: Path) -> list[str]:
    """Names of the columns of a stored obs or var."""
    return [str(name) for name in _attributes(frame)[2][_COLUMNS]]


def list_columns(frame: Path, names: Sequence[str]) -> None:
    """Set the names of the columns of a stored obs or var; others are not read."""
    file, metadata, attributes = _attributes(frame)
    attributes[_COLUMNS] = list(names)
    _replace_text(file, json.dumps(metadata))


def drop_index(store: Path) -> None:
    """Forget the list of all that a store holds; it is then listed by looking."""
    (store / ".zmetadata").unlink(missing_ok=True)
    file = store / "zarr.json"
    if file.exists():
        metadata = json.loads(file.read_text(encoding="utf-8"))
        if metadata.pop("consolidated_metadata", None) is not None:
            _replace_text(file, json.dumps(metadata))


def write_index(store: Path) -> None:
    """List all that a store holds in one file, so that a remote reader asks once."""
    with warnings.catch_warnings():
        # The files of shapes are no arrays.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        root: Any = zarr.open_group(store, mode="r+", use_consolidated=False)
        zarr.consolidate_metadata(root.store)
    for item in store.iterdir():
        if _PARTIAL.fullmatch(item.name):
            item.unlink()


def _write_aside(table: Path, folder: Path, elements: Sequence[tuple[Element, Any]]) -> None:
    stored: Any = zarr.open_group(table, mode="r", use_consolidated=False)
    new: Any = zarr.open_group(folder, mode="w", zarr_format=stored.metadata.zarr_format)
    for element, value in elements:
        slot = new.require_group(element.slot)
        anndata.io.write_elem(slot, element.name, value)
        if not _reads_as(slot[element.name], value):
            msg = (
                f"{element.slot}[{element.name!r}] reads otherwise than it was written to {folder}; "
                "nothing was changed. Check the disk, or use `sdata.write(path)` on another one"
            )
            raise OutputFailedError(msg)


def _finish(store: Path) -> None:
    """Bring a store to the state after an interrupted update, before it where there is no journal."""
    aside = store / _FOLDER
    if not aside.exists():
        return
    if (aside / _JOURNAL).exists():
        _move(store, aside, _read_journal(store, aside / _JOURNAL))
        for name in ("new", "old"):
            shutil.rmtree(aside / name, ignore_errors=True)
        write_index(store)
    # Without a journal nothing was moved, and nothing is left to do once it is gone.
    shutil.rmtree(aside)


def _move(store: Path, aside: Path, journal: Mapping[str, Any]) -> None:
    """Move what is not yet at its place; doing so again changes nothing."""
    drop_index(store)
    table = store / journal["table"]
    *others, seal = [Element(**element) for element in journal["elements"]]
    if (aside / "new" / seal.slot / seal.name).exists():
        _take_away(table, aside, seal)
    columns = {
        slot: [element.name for element in others if element.slot == slot]
        for slot in ("obs", "var")
    }
    # A table whose list of columns names a missing array cannot be read, an unlisted one does no harm.
    for slot, names in columns.items():
        list_columns(
            table / slot, [name for name in column_order(table / slot) if name not in names]
        )
    for element in others:
        _put_in_place(table, aside, element)
    for slot, names in columns.items():
        kept = column_order(table / slot)
        wanted = [name for name in journal["columns"][slot] if name in {*kept, *names}]
        list_columns(table / slot, list(dict.fromkeys([*wanted, *kept, *names])))
    _put_in_place(table, aside, seal)


def _put_in_place(table: Path, aside: Path, element: Element) -> None:
    new = aside / "new" / element.slot / element.name
    if new.exists():
        _take_away(table, aside, element)
        new.rename(table / element.slot / element.name)


def _take_away(table: Path, aside: Path, element: Element) -> None:
    place, old = table / element.slot / element.name, aside / "old" / element.slot / element.name
    if place.exists():
        old.parent.mkdir(parents=True, exist_ok=True)
        place.rename(old)


def _read_journal(store: Path, file: Path) -> dict[str, Any]:
    """Read what is to be moved, which nobody else may tell: it would move what it likes.

    Raises
    ------
    InputValueError
        The journal is damaged or foreign.
    """
    check_regular(file)
    try:
        journal = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(journal, dict):
            msg = f"it holds a {type(journal).__name__}"
            raise TypeError(msg)
        # Stores that an earlier version was writing have no checksum.
        if journal.pop("checksum", None) not in (None, record_checksum(journal)):
            msg = "its contents and its checksum differ"
            raise ValueError(msg)
        if journal.get("format") != 1:
            msg = f"its format is {journal.get('format')!r}"
            raise ValueError(msg)
        _check_places(store, journal)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        msg = (
            f"{file}, which says how an interrupted write of results goes on, is damaged or foreign "
            f"({error}). Delete {file.parent}, run `rankbygene repair {store}`, and write the results again"
        )
        raise InputValueError(msg) from error
    return journal


def _check_places(store: Path, journal: Mapping[str, Any]) -> None:
    """Refuse places outside the table."""
    table = store / journal["table"]
    if not table.resolve().is_relative_to(store.resolve()) or not (table / "obs").is_dir():
        msg = f"there is no table {journal['table']!r}"
        raise ValueError(msg)
    if not journal["elements"]:
        msg = "it moves nothing"
        raise ValueError(msg)
    for element in [Element(**values) for values in journal["elements"]]:
        if element.slot not in _SLOTS or Path(element.name).name != element.name:
            msg = f"{element.slot}/{element.name} is no place of a table"
            raise ValueError(msg)
    for slot in ("obs", "var"):
        if not all(isinstance(name, str) for name in journal["columns"][slot]):
            msg = f"its columns of {slot} are no names"
            raise TypeError(msg)


def _attributes(frame: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Give the file with the attributes of a group, all of it, and the attributes in it."""
    file = frame / "zarr.json"
    if file.exists():
        metadata = json.loads(file.read_text(encoding="utf-8"))
        return file, metadata, metadata["attributes"]
    file = frame / ".zattrs"
    metadata = json.loads(file.read_text(encoding="utf-8"))
    return file, metadata, metadata


def _replace_text(file: Path, text: str) -> None:
    """Write a file so that it is the old one or the new one, also after a loss of power."""
    # Always of the same name, so that what a killed process leaves is written over by the next.
    new = file.with_name(f".{file.name}.new")
    with new.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    new.replace(file)


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Wait until no other process changes the store."""
    if os.name != "posix":
        with FileLock(store.with_name(f"{store.name}.lock")):
            yield
        return
    import fcntl

    # The folder itself: the lock leaves no file, and ends with the process.
    handle = os.open(store, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _reads_as(stored: Any, value: Any) -> bool:
    """Whether what is stored reads as the value, large arrays block by block."""
    if isinstance(value, np.ndarray) and isinstance(stored, zarr.Array) and value.ndim == 2:
        step = max(1, _CHECKED_AT_ONCE // max(1, value.shape[1]))
        return stored.shape == value.shape and all(
            _equal(stored[start : start + step], value[start : start + step])
            for start in range(0, len(value), step)
        )
    return _same(anndata.io.read_elem(stored), value)


def _same(found: Any, value: Any) -> bool:
    if isinstance(value, Mapping):
        return set(found) == set(value) and all(_same(found[key], value[key]) for key in value)
    return _equal(np.asarray(found), np.asarray(value))


def _equal(found: Any, value: NDArray[Any]) -> bool:
    if found.dtype.kind == value.dtype.kind == "f":
        return np.array_equal(found, value, equal_nan=True)
    # Text comes back as another kind of text.
    return np.array_equal(found.astype(object).astype(str), value.astype(object).astype(str))
