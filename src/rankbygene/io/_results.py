"""Adding results to a store without writing anything else again."""

from __future__ import annotations

from collections.abc import Iterator
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
        There is no such table, or it holds no results under ``key``.
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
    for slot, name, value in _results(table, keys):
        anndata.io.write_elem(group[slot], name, value)
        if slot in ("obs", "var"):
            _add_column(group[slot], name)
    sdata.write_consolidated_metadata()


def _results(table: AnnData, keys: Keys) -> Iterator[tuple[str, str, Any]]:
    yield "obsm", keys.latent, table.obsm[keys.latent]
    yield "layers", keys.expression, table.layers[keys.expression]
    yield "obs", keys.split, table.obs[keys.split].array
    yield "var", keys.panel, table.var[keys.panel].to_numpy()
    yield "var", keys.pearson, table.var[keys.pearson].to_numpy()
    # Last: its presence says that the others are complete.
    yield "uns", keys.params, table.uns[keys.params]


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


def _add_column(frame: Any, name: str) -> None:
    order = [str(column) for column in frame.attrs["column-order"]]
    if name not in order:
        frame.attrs["column-order"] = [*order, name]
