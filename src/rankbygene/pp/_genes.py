"""Which genes a model learns to predict."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from rankbygene._arguments import checked
from rankbygene._checks import check_rows_of
from rankbygene.data import neighbour_graph
from rankbygene.data.expression._panel import (
    check_measured,
    first_names,
    gene_columns,
    panel_counts,
)
from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.metrics._moran import morans_i
from rankbygene.pp._frames import table_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from rankbygene.data import SpotFrame

logger = logging.getLogger("rankbygene")

PanelMethod = Literal["highly_variable", "most_expressed", "spatially_variable"]

_TARGET_SUM = 1e4


@checked
def select_genes(
    sdatas: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    n_genes: int = 250,
    *,
    method: PanelMethod = "highly_variable",
    table_key: str = "table",
    layer: str | None = None,
    genes: Sequence[str] | None = None,
) -> list[str]:
    """Choose a panel of genes from the slides that a model will be trained on.

    Only genes that every slide measures are considered. They are ranked on each slide and the
    mean rank decides; equal ranks are put in the order of their names. Neither image nor scale
    is needed. Leave test slides out: a panel chosen on them flatters the scores.

    Parameters
    ----------
    sdatas
        One object, or a list or dict of them.
    n_genes
        Number of genes; all that are left where there are fewer.
    method
        ``"highly_variable"``: dispersion in scanpy's ``seurat`` flavour, on log-normalised
        counts. ``"most_expressed"``: mean of library-size normalised counts.
        ``"spatially_variable"``: Moran's I of log-normalised counts over neighbouring spots.
    table_key
        Table with the counts.
    layer
        Layer with the counts; ``X`` if None.
    genes
        Choose among these genes only, such as a list of prognostic genes.

    Returns
    -------
    Names of the genes, best first.

    Raises
    ------
    InputTypeError
        If something else than SpatialData is given.
    InputKeyError
        If a table or layer is missing, or none of ``genes`` is measured.
    InputValueError
        If the counts are not counts, or no gene is on every slide.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> slides = rbg.datasets.synthetic(n_slides=2, n_spots=60, n_genes=40, seed=0)
    >>> panel = rbg.pp.select_genes(slides, 10, method="spatially_variable")
    >>> len(panel)
    10
    """
    if isinstance(sdatas, Mapping):
        objects = list(sdatas.values())
    elif isinstance(sdatas, Sequence) and not isinstance(sdatas, str):
        objects = list(sdatas)
    else:
        objects = [sdatas]
    frames = [
        frame
        for sdata in objects
        for frame in table_frames(sdata, table_key=table_key, layer=layer, counts=True)
    ]
    return choose_panel(frames, n_genes, method=method, genes=genes)


@checked
def choose_panel(
    frames: Iterable[SpotFrame],
    n_genes: int,
    *,
    method: PanelMethod = "highly_variable",
    rows: Mapping[str, NDArray[np.intp]] | None = None,
    genes: Sequence[str] | None = None,
) -> list[str]:
    """Choose a panel of genes from resolved slides.

    Parameters
    ----------
    frames
        The slides.
    n_genes, method, genes
        As in :func:`select_genes`.
    rows
        For each slide by name the spots to look at, usually those of training, in increasing
        order; all if None.

    Returns
    -------
    Names of the genes, best first.

    Raises
    ------
    InputKeyError
        If none of ``genes`` is measured.
    InputValueError
        If no slide or an unknown method is given, or no gene is on every slide.
    """
    slides = list(frames)
    if method not in get_args(PanelMethod):
        msg = f"method is {method!r}; allowed are {', '.join(map(repr, get_args(PanelMethod)))}"
        raise InputValueError(msg)
    if n_genes < 1:
        msg = f"n_genes is {n_genes}; at least 1 is needed"
        raise InputValueError(msg)
    names = _shared_genes(slides, genes)
    detected = np.zeros(len(names), dtype=bool)
    ranks = np.zeros(len(names))
    check_rows_of(rows, [frame.slide for frame in slides])
    for frame in slides:
        chosen = None if rows is None else rows[frame.slide]
        counts, totals = panel_counts(frame, gene_columns(frame, names), chosen)
        detected |= counts.sum(axis=0) > 0
        scaled = sparse.csr_array(sparse.diags_array(_TARGET_SUM / totals) @ counts)
        scores = _scores(method, scaled, frame, chosen)
        ranks += rankdata(-np.nan_to_num(scores, nan=-np.inf))
    # the names are sorted, so that a stable sort puts equal ranks in their order
    best = [i for i in np.argsort(ranks, kind="stable").tolist() if detected[i]][:n_genes]
    if len(best) < n_genes:
        logger.info(
            "%d genes asked for; %d of those that every slide measures are detected on any",
            n_genes,
            len(best),
        )
    return [names[i] for i in best]


@checked
def check_panel(genes: Sequence[str], frames: Iterable[SpotFrame]) -> None:
    """Refuse a panel that the slides cannot serve.

    Parameters
    ----------
    genes
        The panel. A gene may be missing from some of the slides.
    frames
        The slides.

    Raises
    ------
    InputTypeError
        If the panel is a single string.
    InputValueError
        If the panel is empty or repeats a gene.
    InputKeyError
        If a gene is on no slide, or a slide has none of them.
    """
    if isinstance(genes, str):
        msg = f"genes is the string {genes!r}; pass a list of names, [{genes!r}]"
        raise InputTypeError(msg)
    frames = list(frames)
    if not frames:
        msg = "no slide was given; at least one is needed"
        raise InputValueError(msg)
    check_measured(genes, np.stack([gene_columns(frame, genes) >= 0 for frame in frames]))


def _shared_genes(frames: Sequence[SpotFrame], genes: Sequence[str] | None) -> list[str]:
    """Names, sorted, of the genes that all slides have."""
    if not frames:
        msg = "no slide was given; at least one is needed"
        raise InputValueError(msg)
    if genes is not None:
        check_panel(genes, frames)
    shared = set(frames[0].table.var_names if genes is None else genes)
    for frame in frames:
        shared &= set(frame.table.var_names)
    if not shared:
        examples = "; ".join(
            f"{frame.slide}: {first_names(frame.table.var_names)}" for frame in frames[:3]
        )
        msg = f"no gene is on all of the {len(frames)} slides ({examples}); use one naming scheme"
        raise InputValueError(msg)
    return sorted(shared)


def _scores(
    method: PanelMethod,
    scaled: sparse.csr_array,
    frame: SpotFrame,
    rows: NDArray[np.intp] | None,
) -> NDArray[np.float64]:
    """Score every gene, higher is better; NaN where a gene is constant."""
    if method == "most_expressed":
        return np.asarray(scaled.mean(axis=0))
    logs = scaled.log1p()
    if method == "highly_variable":
        return _dispersion(logs)
    graph = neighbour_graph(frame)
    return morans_i(logs, graph if rows is None else graph[rows][:, rows])


def _dispersion(logs: sparse.csr_array) -> NDArray[np.float64]:
    import anndata as ad
    import scanpy as sc

    found = sc.pp.highly_variable_genes(
        ad.AnnData(sparse.csr_matrix(logs)), flavor="seurat", inplace=False
    )
    dispersion: NDArray[np.float64] = found["dispersions_norm"].to_numpy(dtype=np.float64)
    return dispersion
