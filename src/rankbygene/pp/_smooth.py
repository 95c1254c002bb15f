"""Mean of expression over neighbouring spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import sparse

from rankbygene._arguments import checked
from rankbygene.data import neighbour_graph, smoothing_operator
from rankbygene.data.counts._counts import count_matrix
from rankbygene.data.counts._matrix import read_matrix
from rankbygene.errors import OutputExistsError
from rankbygene.pp._frames import table_frames

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from rankbygene.data import SpotFrame


@checked
def smooth_expression(
    sdata: SpatialData,
    *,
    table_key: str = "table",
    layer: str | None = None,
    key_added: str = "smoothed",
    neighbourhood: Literal["auto", "grid8", "hex6", "checker8", "knn"] = "auto",
    n_neighbors: int = 8,
    overwrite: bool = False,
) -> None:
    """Average the values of every spot with those of its present neighbours.

    The values are taken as they are: normalise and take logarithms first for the smoothing of
    RankByGene. Models smooth by themselves; this is for pictures and other tools. Spots of
    different regions are never mixed. Neither image nor scale is needed.

    Parameters
    ----------
    sdata
        Object whose table gets the new layer, in memory.
    table_key
        Table that annotates the spots.
    layer
        Layer with the values; ``X`` if None.
    key_added
        Layer that is written: float32, sparse where the values are.
    neighbourhood, n_neighbors
        See :func:`~rankbygene.data.neighbour_graph`.
    overwrite
        Whether a layer of that name may be replaced.

    Raises
    ------
    InputTypeError
        If something else than SpatialData is given.
    InputKeyError
        If the table or layer is missing.
    InputValueError
        If the table annotates nothing or spots lack the lattice that was asked for.
    OutputExistsError
        If the layer exists and ``overwrite`` is False.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> import scanpy as sc
    >>> slide = rbg.datasets.synthetic(n_slides=1, n_spots=60, n_genes=40, seed=0)[0]
    >>> sc.pp.normalize_total(slide["table"], target_sum=1e4)
    >>> sc.pp.log1p(slide["table"])
    >>> rbg.pp.smooth_expression(slide)
    >>> slide["table"].layers["smoothed"].shape
    (60, 40)
    """
    frames = table_frames(sdata, table_key=table_key, layer=layer, counts=False)
    table = sdata.tables[table_key]
    if key_added in table.layers and not overwrite:
        msg = (
            f"table {table_key!r} has a layer {key_added!r}; pass another key_added, "
            "or overwrite=True to replace it"
        )
        raise OutputExistsError(msg)
    operator = sparse.csr_array((table.n_obs, table.n_obs))
    for frame in frames:
        graph = neighbour_graph(frame, kind=neighbourhood, n_neighbors=n_neighbors)
        operator = operator + _in_table(frame, smoothing_operator(graph), table.n_obs)
    values = read_matrix(count_matrix(table, layer))
    if sparse.issparse(values):
        smoothed = sparse.csr_matrix(operator @ sparse.csr_array(values), dtype=np.float32)
    else:
        smoothed = (operator @ np.asarray(values)).astype(np.float32)
    table.layers[key_added] = smoothed


def _in_table(frame: SpotFrame, operator: sparse.csr_array, n_obs: int) -> sparse.csr_array:
    """Move a slide's operator to the slide's rows of the table."""
    entries = operator.tocoo()
    place = frame.rows[entries.coords[0]], frame.rows[entries.coords[1]]
    return sparse.csr_array((entries.data, place), shape=(n_obs, n_obs))
