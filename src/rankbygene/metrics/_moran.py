"""Spatial autocorrelation of many genes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from rankbygene._arguments import checked
from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.metrics._correlation import pearson
from rankbygene.metrics._inputs import as_pair, mean_over_groups, nanmean, varies

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_GENES_AT_ONCE = 512


class MoranAgreement(NamedTuple):
    """Moran's I of measurement and prediction.

    Attributes
    ----------
    true, pred
        Moran's I of each gene ``[n_genes]``; NaN for a gene that is constant in that matrix.
    difference
        Mean over genes of ``pred - true``. Above 0 the prediction is smoother than the tissue.
    correlation
        Pearson correlation of ``pred`` and ``true`` over genes: whether genes with a pattern are
        predicted with a pattern.
    """

    true: NDArray[np.float64]
    pred: NDArray[np.float64]
    difference: float
    correlation: float


@checked
def moran_agreement(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    graph: Any,
    groups: ArrayLike | None = None,
) -> MoranAgreement:
    r"""Compare the spatial autocorrelation of measurement and prediction.

    Moran's I :cite:p:`moran1950notes` of each gene over the neighbours of its spots:

    .. math:: I_g = \frac{n}{\sum_{ij} w_{ij}}
        \frac{\sum_{ij} w_{ij} (y_{ig} - \bar y_g)(y_{jg} - \bar y_g)}{\sum_i (y_{ig} - \bar y_g)^2}

    Parameters
    ----------
    y_true
        Measured expression ``[n_spots, n_genes]``. NaN marks a value that was not measured; the
        spot and its links are then left out for that gene.
    y_pred
        Predicted expression, of the same shape.
    graph
        Sparse matrix of weights ``[n_spots, n_spots]``, such as the one of
        :func:`rankbygene.data.neighbour_graph`.
    groups
        Slide of each spot; Moran's I is computed within each slide, over the links there, and
        averaged over slides.

    Returns
    -------
    Moran's I of both, their mean difference and their correlation. The last two are over the
    genes that have both values.

    Raises
    ------
    InputValueError
        If the shapes do not fit, or a value or weight is infinite.
    InputTypeError
        If the values are not numbers, or the graph is not sparse.
    """
    true, pred = as_pair(y_true, y_pred, groups=groups)
    weights = _check_graph(graph, len(true))

    def on_slide(values: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return _of_known(values, weights[rows][:, rows])

    rows = np.arange(len(true))
    of_true, of_pred = (mean_over_groups(on_slide, (y, rows), groups) for y in (true, pred))
    difference = float(nanmean(of_pred - of_true))
    return MoranAgreement(of_true, of_pred, difference, float(pearson(of_true, of_pred)[0]))


def morans_i(values: sparse.csr_array, graph: sparse.csr_array) -> NDArray[np.float64]:
    r"""Moran's I of each column over a neighbour graph.

    .. math:: I = \frac{n}{\sum_{ij} w_{ij}}
        \frac{\sum_{ij} w_{ij} (x_i - \bar x)(x_j - \bar x)}{\sum_i (x_i - \bar x)^2}

    The sums are expanded, so that zeros stay zeros and nothing dense of the size of the matrix
    is made.

    Parameters
    ----------
    values
        ``[n_spots, n_genes]``.
    graph
        Weights ``[n_spots, n_spots]``.

    Returns
    -------
    Float64 ``[n_genes]``; NaN for a constant gene, and for all where no spot has a neighbour.
    """
    n_spots, n_genes = values.shape
    columns = sparse.csc_array(values)
    weights = sparse.csr_array(graph, dtype=np.float64)
    total_weight = weights.sum()
    degrees = weights.sum(axis=0) + weights.sum(axis=1)
    result = np.full(n_genes, np.nan)
    for start in range(0, n_genes, _GENES_AT_ONCE):
        part = columns[:, start : start + _GENES_AT_ONCE]
        mean = part.sum(axis=0) / n_spots
        squares = part.power(2).sum(axis=0)
        spread = squares - n_spots * mean**2
        products = part.multiply(weights @ part).sum(axis=0)
        products = products - mean * (degrees @ part) + mean**2 * total_weight
        # rounding leaves a constant gene with a tiny spread
        exists = (spread > 1e-10 * squares) & (total_weight > 0)
        np.divide(
            n_spots * products,
            total_weight * spread,
            out=result[start : start + _GENES_AT_ONCE],
            where=exists,
        )
    return result


def _of_known(values: NDArray[np.float64], weights: sparse.csr_array) -> NDArray[np.float64]:
    """Moran's I of each column over the spots that know it."""
    # a constant column is made exactly 0: its rounding errors would pass for a pattern
    centered = np.where(varies(values), values - nanmean(values), 0 * values)
    result: NDArray[np.float64] = np.full(values.shape[1], np.nan)
    patterns, pattern_of = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    for i, known in enumerate(patterns.T):
        genes = np.flatnonzero(pattern_of.ravel() == i)
        if known.any():
            columns = sparse.csr_array(centered[np.ix_(known, genes)])
            result[genes] = morans_i(columns, weights[known][:, known])
    return result


def _check_graph(graph: Any, n_spots: int) -> sparse.csr_array:
    if not sparse.issparse(graph):
        msg = f"graph is a {type(graph).__name__}; pass a sparse matrix of weights between spots"
        raise InputTypeError(msg)
    if graph.shape != (n_spots, n_spots):
        msg = f"graph has the shape {graph.shape}; there are {n_spots} spots"
        raise InputValueError(msg)
    weights = sparse.csr_array(graph, dtype=np.float64)
    if not np.isfinite(weights.data).all():
        msg = "graph holds weights that are NaN or infinite; leave those links out"
        raise InputValueError(msg)
    return weights
