"""Reading some genes out of a table, whatever it is stored as, without making it dense."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from rankbygene.data.counts._counts import count_matrix
from rankbygene.data.counts._matrix import matrix_blocks
from rankbygene.errors import InputKeyError, InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data.slides._frame import SpotFrame

__all__ = [
    "check_measured",
    "count_blocks",
    "first_names",
    "gene_columns",
    "holds_counts",
    "panel_counts",
]


def panel_counts(
    frame: SpotFrame, columns: NDArray[np.intp], rows: NDArray[np.intp] | None = None
) -> tuple[sparse.csr_array, NDArray[np.float64]]:
    """Read some genes of a slide, and every spot's library size over all genes.

    The matrix is read in blocks of rows and never made dense, whether it is sparse, dense or
    backed by a file.

    Parameters
    ----------
    frame
        The spots of one slide.
    columns
        Positions of the genes in the table.
    rows
        Spots of the frame to read; all if None.

    Returns
    -------
    counts
        Float64 ``[n_rows, n_columns]``.
    totals
        Float64 ``[n_rows]``; sums over all genes of the table.

    Raises
    ------
    InputValueError
        If the spots come from shapes alone, without a table.
    InputKeyError
        If the table lacks the layer.
    """
    parts, totals = [], []
    for counts in count_blocks(frame, rows):
        totals.append(counts.sum(axis=1))
        parts.append(counts[:, columns])
    if not parts:
        return sparse.csr_array((0, len(columns))), np.zeros(0)
    return sparse.csr_array(sparse.vstack(parts, format="csr")), np.concatenate(totals)


def count_blocks(
    frame: SpotFrame, rows: NDArray[np.intp] | None = None
) -> Iterator[sparse.csr_array]:
    """Read the counts of a slide over all genes, some spots at a time.

    Parameters
    ----------
    frame
        The spots of one slide.
    rows
        Spots of the frame to read; all if None.

    Yields
    ------
    Float64 ``[n_rows, n_vars]``, the caller's own.

    Raises
    ------
    InputValueError
        If the spots come from shapes alone, without a table.
    InputKeyError
        If the table lacks the layer.
    """
    _check_table(frame)
    table_rows = frame.rows if rows is None else frame.rows[rows]
    for block in matrix_blocks(count_matrix(frame.table, frame.setup.layer), table_rows):
        yield sparse.csr_array(block, dtype=np.float64, copy=True)


def holds_counts(frame: SpotFrame) -> bool:
    """Say whether the table of a slide has counts where they are expected: whole, none below zero."""
    if not frame.setup.table_key:
        return False
    try:
        matrix = count_matrix(frame.table, frame.setup.layer)
    except (InputKeyError, InputValueError):
        return False
    if np.dtype(matrix.dtype).kind not in "biuf":
        return False
    values = (
        block if isinstance(block, np.ndarray) else block.data
        for block in matrix_blocks(matrix, frame.rows)
    )
    return all(
        bool(((part >= 0) & (part == np.floor(part)) & (part < np.inf)).all()) for part in values
    )


def gene_columns(frame: SpotFrame, genes: Sequence[str]) -> NDArray[np.intp]:
    """Find the genes of a panel in a slide's table.

    Returns
    -------
    Positions ``[n_genes]``, -1 for genes that the slide lacks.

    Raises
    ------
    InputValueError
        If the panel is empty or repeats a gene, if the table has repeated gene names, or if the
        spots come from shapes alone, without a table.
    InputKeyError
        If the slide measures none of the genes.
    """
    panel = pd.Index(list(genes))
    if panel.empty:
        msg = "the gene panel is empty; at least one gene is needed"
        raise InputValueError(msg)
    if not panel.is_unique:
        repeated = panel[panel.duplicated()].unique()
        msg = f"the gene panel repeats {len(repeated)} genes (first: {first_names(repeated)})"
        raise InputValueError(msg)
    _check_table(frame)
    names = frame.table.var_names
    if not names.is_unique:
        repeated = names[names.duplicated()].unique()
        msg = (
            f"slide {frame.slide!r}: {len(repeated)} gene names are repeated in the table "
            f"(first: {first_names(repeated)}); call var_names_make_unique() on it"
        )
        raise InputValueError(msg)
    columns: NDArray[np.intp] = names.get_indexer(panel)
    if (columns < 0).all():
        msg = (
            f"slide {frame.slide!r} measures none of the {len(panel)} genes of the panel "
            f"(first: {first_names(panel)}); its genes look like {first_names(names)}"
        )
        raise InputKeyError(msg)
    return columns


def check_measured(genes: Sequence[str], measured: NDArray[np.bool_]) -> None:
    """Refuse genes that no slide measures.

    Parameters
    ----------
    genes
        The panel.
    measured
        Bool ``[n_slides, n_genes]``.

    Raises
    ------
    InputKeyError
        If a gene is on no slide.
    """
    absent = [genes[int(i)] for i in np.flatnonzero(~measured.any(axis=0))]
    if absent:
        msg = (
            f"{len(absent)} of {len(genes)} genes are on no slide (first: {first_names(absent)}); "
            "check their spelling, or leave them out"
        )
        raise InputKeyError(msg)


def _check_table(frame: SpotFrame) -> None:
    if not frame.setup.table_key:
        msg = f"slide {frame.slide!r} has no table, so there is no expression to read"
        raise InputValueError(msg)


def first_names(names: Iterable[Any]) -> str:
    """List the first five of several names, for a message."""
    return ", ".join(str(name) for name in islice(names, 5))
