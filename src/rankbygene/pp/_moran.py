"""Spatial autocorrelation of many genes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GENES_AT_ONCE = 512


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
        varies = (spread > 1e-10 * squares) & (total_weight > 0)
        np.divide(
            n_spots * products,
            total_weight * spread,
            out=result[start : start + _GENES_AT_ONCE],
            where=varies,
        )
    return result
