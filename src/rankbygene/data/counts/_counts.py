"""Checking that a matrix holds counts, without making it dense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from rankbygene.data.counts._matrix import matrix_blocks
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError, Problems


def count_matrix(table: AnnData, layer: str | None) -> Any:
    """Return ``X`` or a layer of the table as it is stored.

    Raises
    ------
    InputKeyError
        There is no such layer.
    InputValueError
        The table has no ``X``.
    """
    if layer is not None:
        if layer not in table.layers:
            msg = f"there is no layer {layer!r}; the layers are {layer_names(table)}"
            raise InputKeyError(msg)
        return table.layers[layer]
    if table.X is None:
        msg = f"the table has no X; pass layer=... (layers: {layer_names(table)})"
        raise InputValueError(msg)
    return table.X


def check_counts(table: AnnData, layer: str | None, problems: Problems) -> None:
    """Collect what keeps the table from being a count matrix with unique names and no empty spot.

    Parameters
    ----------
    table
        Table to look at; not changed.
    layer
        Layer that holds the counts; ``None`` is ``X``.
    problems
        Receives one error per kind of problem.
    """
    for axis, names in (("var_names", table.var_names), ("obs_names", table.obs_names)):
        with problems.collect():
            _check_unique(names, axis)
    with problems.collect():
        matrix = count_matrix(table, layer)
        slot = "X" if layer is None else f"layer {layer!r}"
        _check_values(matrix, slot, layer_names(table), table.obs_names)


def layer_names(table: AnnData) -> list[str]:
    """Names of the layers; newer anndata lists X among them, under the name None."""
    return [name for name in table.layers if name is not None]


def _check_unique(names: pd.Index, axis: str) -> None:
    repeated = names[names.duplicated()].unique()
    if len(repeated):
        msg = (
            f"{len(repeated):,} {axis} occur more than once (first: {list(repeated[:5])}); "
            f"call `table.{axis}_make_unique()` or drop the copies"
        )
        raise InputValueError(msg)


def _check_values(matrix: Any, slot: str, layers: list[str], obs_names: pd.Index) -> None:
    """Look at every value once, some rows at a time."""
    dtype = np.dtype(matrix.dtype)
    if dtype.kind not in "biuf":
        msg = f"{slot} holds {dtype}, not numbers; store integer counts"
        raise InputTypeError(msg)
    low, high, broken, fractional = np.inf, -np.inf, 0, 0
    sums = []
    for block in matrix_blocks(matrix):
        values = block if isinstance(block, np.ndarray) else block.data
        finite = np.isfinite(values)
        broken += int(values.size - finite.sum())
        kept = values[finite]
        if kept.size:
            low, high = min(low, kept.min()), max(high, kept.max())
            fractional += int(np.count_nonzero(kept != np.rint(kept)))
        sums.append(np.asarray(block.sum(axis=1), np.float64).ravel())
    if broken:
        msg = f"{slot} holds {broken:,} NaN or infinite values; needs counts. Set them or drop them"
        raise InputValueError(msg)
    if low < 0 or fractional:
        msg = (
            f"{slot} is not a count matrix: values from {low:g} to {high:g}, {fractional:,} of "
            f"them not integers; looks normalised; pass layer='counts' (layers: {layers})"
        )
        raise InputValueError(msg)
    empty = np.flatnonzero(np.concatenate([np.zeros(0), *sums]) == 0)
    if len(empty):
        msg = (
            f"{len(empty):,} of {len(obs_names):,} spots have no counts in {slot} (first: "
            f"{list(obs_names[empty[:3]])}); filter with `sc.pp.filter_cells(table, min_counts=1)`"
        )
        raise InputValueError(msg)
