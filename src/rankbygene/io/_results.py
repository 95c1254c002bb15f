"""Adding results to a store without writing anything else again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata.io
import zarr

from rankbygene._arguments import checked
from rankbygene._keys import Keys
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.io._update import Element, replace_elements

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

__all__ = ["write_results"]


@checked
def write_results(sdata: SpatialData, *, table_key: str = "table", key: str = "rankbygene") -> None:
    """Add a model's results to the store that ``sdata`` came from.

    Only the keys that :meth:`~rankbygene.model.RankByGene.annotate` adds are written. Counts,
    images and everything else on disk keep their bytes. The store can be read at every instant, and
    holds the old results or the new ones, never some of both; what an interruption left half done is
    finished by the next call, or by :func:`repair_store`. To get a new store instead, use
    ``sdata.write(path)``.

    Parameters
    ----------
    sdata
        An annotated object that was read from, or written to, a zarr store.
    table_key
        The annotated table.
    key
        ``key_added`` of ``annotate``.

    Raises
    ------
    InputKeyError
        There is no such table, or it holds no results, or only some of them, under ``key``.
    InputValueError
        The object has no store, or the table on disk has other spots or genes, or another order.
    OutputFailedError
        The disk is full.
    """
    if not sdata.is_backed() or sdata.path is None:
        msg = "this object has no store on disk; write one with `sdata.write(path)`"
        raise InputValueError(msg)
    if table_key not in sdata.tables:
        msg = f"there is no table {table_key!r}; there are {list(sdata.tables)}"
        raise InputKeyError(msg)
    table, keys = sdata.tables[table_key], Keys(key)
    if keys.params not in table.uns:
        msg = f"table {table_key!r} holds no results under {key!r}; call `model.annotate()` first"
        raise InputKeyError(msg)
    root: Any = zarr.open_group(sdata.path, mode="r+", use_consolidated=False)
    try:
        group = root[f"tables/{table_key}"]
    except KeyError as error:
        msg = f"the store {sdata.path} has no table {table_key!r}; use `sdata.write(new_path)`"
        raise InputValueError(msg) from error
    for axis in ("obs", "var"):
        _check_same_names(group, table, axis, table_key)
    replace_elements(Path(sdata.path), group.path, _results(table, keys))


def _results(table: AnnData, keys: Keys) -> list[tuple[Element, Any]]:
    """List place and value of every result, provenance last: it says that the others are complete."""
    names = [
        ("obsm", keys.latent),
        ("layers", keys.expression),
        ("obs", keys.split),
        ("var", keys.panel),
        ("var", keys.pearson),
        ("uns", keys.params),
    ]
    missing = [f"{slot}[{name!r}]" for slot, name in names if name not in getattr(table, slot)]
    if missing:
        msg = f"the table lacks {', '.join(missing)}; call `model.annotate()` again"
        raise InputKeyError(msg)
    # A column is written as its array; obs and var themselves are never written again.
    return [
        (
            Element(slot, name),
            value.array if slot == "obs" else value.to_numpy() if slot == "var" else value,
        )
        for slot, name in names
        for value in [getattr(table, slot)[name]]
    ]


def _check_same_names(group: Any, table: AnnData, axis: str, table_key: str) -> None:
    frame = group[axis]
    stored = [str(name) for name in anndata.io.read_elem(frame[frame.attrs["_index"]])]
    ours = [str(name) for name in getattr(table, f"{axis}_names")]
    if stored != ours:
        msg = (
            f"{axis}_names of table {table_key!r} differ between memory ({len(ours)}) and disk "
            f"({len(stored)}), in number, names or order; nothing was written. "
            "Use `sdata.write(new_path)`."
        )
        raise InputValueError(msg)
