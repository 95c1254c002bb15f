"""Adding results to a store without writing anything else again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata.io
import zarr

from rankbygene._keys import Keys
from rankbygene.errors import InputKeyError, InputValueError

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

__all__ = ["write_results"]


def write_results(sdata: SpatialData, *, table_key: str = "table", key: str = "rankbygene") -> None:
    """Add a model's results to the store that ``sdata`` came from.

    Only the keys that :meth:`~rankbygene.model.RankByGene.annotate` adds are written. Counts,
    images and everything else on disk keep their bytes. Each key is written by itself: an
    interruption can leave out some of these keys, and calling again completes them. To get a
    new store instead, use ``sdata.write(path)``.

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
    results = _results(table, keys)
    # Its presence on disk says that the others are complete and belong together.
    if keys.params in group["uns"]:
        del group[f"uns/{keys.params}"]
    for slot, name, value in results:
        _write_element(group[slot], name, value)
    sdata.write_consolidated_metadata()


def _results(table: AnnData, keys: Keys) -> list[tuple[str, str, Any]]:
    """List slot, name and value of every result, provenance last."""
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
        (slot, name, value.array if slot == "obs" else value.to_numpy() if slot == "var" else value)
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


def _write_element(parent: Any, name: str, value: Any) -> None:
    """Write one element, a column being listed only while it is whole.

    A table whose ``column-order`` names a missing array cannot be read any more, so an interruption
    may leave a column that is not listed, and never the other way round.
    """
    if "column-order" not in parent.attrs:
        anndata.io.write_elem(parent, name, value)
        return
    order = [str(column) for column in parent.attrs["column-order"]]
    if name in order:
        parent.attrs["column-order"] = [column for column in order if column != name]
    anndata.io.write_elem(parent, name, value)
    parent.attrs["column-order"] = order if name in order else [*order, name]
