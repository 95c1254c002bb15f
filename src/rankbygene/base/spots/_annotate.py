"""Writing a model's results into the tables of a SpatialData object, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil

from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from rankbygene._keys import Keys
    from rankbygene.data import SpotFrame

SPLIT_LABELS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class SlideResult:
    """What a model says of one slide, rows as in its frame."""

    latent: NDArray[np.float32] | None  # [n, n_latent]; None where the method has none
    expression: NDArray[np.float32] | None  # [n, n_panel]
    split: NDArray[np.object_]  # [n]; a label outside SPLIT_LABELS is stored as missing


def group_by_table(frames: Mapping[str, SpotFrame]) -> list[list[SpotFrame]]:
    """Group the slides whose rows live in the same table."""
    groups: dict[int, list[SpotFrame]] = {}
    for frame in frames.values():
        groups.setdefault(id(frame.table), []).append(frame)
    return list(groups.values())


def check_layer_fits(frames: Mapping[str, SpotFrame]) -> None:
    """Refuse, before any work is done, a prediction layer that memory could not hold.

    Raises
    ------
    InputValueError
        The dense float32 layers would take more than the memory that is free.
    """
    tables = [group[0].table for group in group_by_table(frames)]
    needed = sum(4 * table.n_obs * table.n_vars for table in tables)
    free = free_memory()
    if needed > free:
        shapes = ", ".join(f"{table.n_obs:,} x {table.n_vars:,}" for table in tables)
        msg = (
            f"the layer of predicted expression would take {needed / 2**30:.1f} GiB as float32 "
            f"({shapes} spots x genes) but {free / 2**30:.1f} GiB of memory is free. Subset the table "
            "to the gene panel (`sdata.tables['table'] = table[:, genes]`), or write the predictions to "
            "a table of their own with `model.predict_slide(sdata, shapes_key=...)`."
        )
        raise InputValueError(msg)


def free_memory() -> int:
    """Bytes of memory that a new array could take."""
    return int(psutil.virtual_memory().available)


def check_keys_free(table: AnnData, keys: Keys) -> None:
    """Refuse to replace what someone else wrote under one of our names."""
    if keys.params in table.uns:
        return
    taken = [
        f"{slot}[{key!r}]"
        for slot, key in (
            ("obsm", keys.latent),
            ("layers", keys.expression),
            ("obs", keys.split),
            ("var", keys.panel),
            ("var", keys.pearson),
        )
        if key in getattr(table, slot)
    ]
    if taken:
        msg = (
            f"the table already holds {', '.join(taken)}, not written by this package; "
            "nothing was changed. Choose another name with `key_added=...`."
        )
        raise InputValueError(msg)


def write_table(
    group: Sequence[SpotFrame],
    results: Mapping[str, SlideResult],
    *,
    keys: Keys,
    genes: Sequence[str],
    pearson: pd.Series[float],
    params: Mapping[str, Any],
) -> None:
    """Write the results of the slides of one table under ``keys``."""
    table = group[0].table
    check_keys_free(table, keys)
    split = np.full(table.n_obs, -1, dtype=np.intp)  # missing, as for spots that were left out
    labels = pd.Index(SPLIT_LABELS)
    for frame in group:
        split[frame.rows] = labels.get_indexer(pd.Index(results[frame.slide].split))
    latent, layer = _joined_latent(group, results), _joined_layer(group, results, genes)
    if latent is not None:
        table.obsm[keys.latent] = latent
    if layer is not None:
        table.layers[keys.expression] = layer
    table.obs[keys.split] = pd.Categorical.from_codes(split, labels)
    table.var[keys.panel] = table.var_names.isin(list(genes))
    table.var[keys.pearson] = pearson.reindex(table.var_names).to_numpy(np.float64)
    table.uns[keys.params] = dict(params)


def _joined_latent(
    group: Sequence[SpotFrame], results: Mapping[str, SlideResult]
) -> NDArray[np.float32] | None:
    """Representations of a whole table, None where the method has none."""
    parts = {frame.slide: results[frame.slide].latent for frame in group}
    widths = {part.shape[1] for part in parts.values() if part is not None}
    if not widths:
        return None
    joined = np.empty((group[0].table.n_obs, widths.pop()), np.float32)
    for frame in group:
        joined[frame.rows] = parts[frame.slide]
    return joined


def _joined_layer(
    group: Sequence[SpotFrame], results: Mapping[str, SlideResult], genes: Sequence[str]
) -> NDArray[np.float32] | None:
    """Predictions of a whole table, NaN for other genes; None where the method has none."""
    table = group[0].table
    columns = table.var_names.get_indexer(list(genes))
    known = columns >= 0
    joined = np.full((table.n_obs, table.n_vars), np.nan, np.float32)
    for frame in group:
        expression = results[frame.slide].expression
        if expression is None:
            return None
        joined[np.ix_(frame.rows, columns[known])] = expression[:, known]
    return joined
