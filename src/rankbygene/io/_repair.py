"""Mending stores that an interrupted write of results has left unreadable or half done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata.io
import zarr

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.io._update import (
    column_order,
    drop_index,
    finish_update,
    is_interrupted,
    list_columns,
    write_index,
)

__all__ = ["Finding", "repair_store"]

# What the keys of a model end with, by slot; latent representations begin with X_.
_OURS = {
    "obs": ("_split", "_attention"),
    "var": ("_panel", "_pearson"),
    "uns": ("_params",),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a store.

    Attributes
    ----------
    place
        Where, relative to the store.
    problem
        What is wrong.
    remedy
        What mends it; empty where only the user can.
    """

    place: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}; {self.remedy or 'left alone'}"


@checked
def repair_store(path: str | Path, *, apply: bool = False) -> list[Finding]:
    """Find, and with ``apply`` mend, what an interrupted write of results did to a store.

    Results of a model that cannot be read are removed, so that the rest of the store can be, and can be
    written again with :func:`write_results`. Counts, images, shapes and whatever else was not written by
    this package are never touched: where such a thing cannot be read, that is said and left alone.

    Parameters
    ----------
    path
        A SpatialData store.
    apply
        Mend what is found. By default nothing is changed.

    Returns
    -------
    What was found, empty if the store is in order.

    Raises
    ------
    InputValueError
        ``path`` is not a zarr store.

    Examples
    --------
    >>> for finding in rankbygene.io.repair_store("slide.zarr"):
    ...     print(finding)
    """
    store = Path(path)
    if not any((store / name).is_file() for name in ("zarr.json", ".zgroup")):
        msg = f"{store} is not a zarr store; pass the folder that `sdata.write` wrote"
        raise InputValueError(msg)
    indexed = _index(store) is not None
    found = []
    for finding, mend in _findings(store):
        found.append(finding)
        if apply and mend is not None:
            mend()
    if indexed and _index(store) is None:
        write_index(store)
    return found


def _findings(store: Path) -> Iterator[tuple[Finding, Callable[[], None] | None]]:
    """Look for one problem after the other; each may be mended before the next is looked for."""
    if is_interrupted(store):
        problem = "a write of results was interrupted"
        yield Finding(".", problem, "finish it, or forget it"), lambda: finish_update(store)
    for table in sorted(item for item in store.glob("tables/*") if item.is_dir()):
        for slot in ("obsm", "layers", "uns"):
            yield from _broken_elements(store, table, slot)
        for slot in ("obs", "var"):
            yield from _broken_columns(store, table, slot)
    if not _index_is_true(store):
        finding = Finding(".", "the list of contents differs from the contents", "list them anew")
        yield finding, lambda: write_index(store)


def _broken_elements(
    store: Path, table: Path, slot: str
) -> Iterator[tuple[Finding, Callable[[], None] | None]]:
    for place in sorted(item for item in (table / slot).glob("*") if item.is_dir()):
        problem = _problem(place)
        # Empty dictionaries of others are their own matter.
        if problem and (_is_ours(slot, place.name) or problem.startswith("cannot")):
            yield _about(store, place, problem, _remover(store, place), slot)


def _broken_columns(
    store: Path, table: Path, slot: str
) -> Iterator[tuple[Finding, Callable[[], None] | None]]:
    frame = table / slot
    for name in column_order(frame):
        problem = _problem(frame / name) if (frame / name).is_dir() else "listed, and not there"
        if problem:
            yield _about(store, frame / name, problem, _column_remover(store, frame, name), slot)


def _about(
    store: Path, place: Path, problem: str, mend: Callable[[], None], slot: str
) -> tuple[Finding, Callable[[], None] | None]:
    name = str(place.relative_to(store))
    if not _is_ours(slot, place.name):
        return Finding(name, problem, ""), None
    return Finding(name, problem, "remove it; write the results again"), mend


def _is_ours(slot: str, name: str) -> bool:
    if slot == "obsm":
        return name.startswith("X_")
    # A layer of predictions has no mark in its name; counts are never removed.
    return slot in _OURS and name.endswith(_OURS[slot])


def _problem(place: Path) -> str:
    """Say why an element cannot be read, or is only a part of one; nothing if it is whole."""
    try:
        parent: Any = zarr.open_group(place.parent, mode="r", use_consolidated=False)
        element = parent[place.name]
        if isinstance(element, zarr.Array) and element.ndim == 2:
            for start in range(0, element.shape[0], element.chunks[0]):
                element[start : start + element.chunks[0]]
            return ""
        value = anndata.io.read_elem(element)
    # Which error comes depends on which file is missing or cut short.
    except Exception as error:  # noqa: BLE001
        return f"cannot be read ({type(error).__name__})"
    return "was begun and not finished" if isinstance(value, dict) and _is_part(value) else ""


def _is_part(provenance: dict[str, Any]) -> bool:
    """Whether entries are missing: of spots the last one is slides, of whole slides there is a unit."""
    return not provenance or ("class" in provenance and not {"slides", "unit"} & set(provenance))


def _remover(store: Path, place: Path) -> Callable[[], None]:
    def remove() -> None:
        drop_index(store)
        shutil.rmtree(place)

    return remove


def _column_remover(store: Path, frame: Path, name: str) -> Callable[[], None]:
    def remove() -> None:
        drop_index(store)
        list_columns(frame, [column for column in column_order(frame) if column != name])
        shutil.rmtree(frame / name, ignore_errors=True)

    return remove


def _index_is_true(store: Path) -> bool:
    """Whether the list of contents names what is there; a store without a list is in order."""
    listed = _index(store)
    if listed is None:
        return True
    there = {item.parent.relative_to(store).as_posix() for item in store.rglob("zarr.json")} - {"."}
    old = {
        item.relative_to(store).as_posix()
        for name in (".zgroup", ".zarray", ".zattrs")
        for item in store.rglob(name)
    }
    return listed == there | old


def _index(store: Path) -> set[str] | None:
    """Names in the list of contents, which lies in another file in each format of zarr."""
    old, new = store / ".zmetadata", store / "zarr.json"
    if old.exists():
        return set(json.loads(old.read_text(encoding="utf-8"))["metadata"])
    if not new.exists():
        return None
    index = json.loads(new.read_text(encoding="utf-8")).get("consolidated_metadata")
    return None if index is None else set(index["metadata"])
