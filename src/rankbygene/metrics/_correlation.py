"""Correlation of measured and predicted expression, gene by gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from rankbygene.metrics._inputs import as_pair, mean_over_groups

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def pearson(
    y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike | None = None
) -> NDArray[np.float64]:
    r"""Pearson correlation of each gene over spots.

    .. math:: r_g = \frac{\sum_i (y_{ig} - \bar y_g)(\hat y_{ig} - \bar{\hat y}_g)}
        {\sqrt{\sum_i (y_{ig} - \bar y_g)^2 \sum_i (\hat y_{ig} - \bar{\hat y}_g)^2}}

    Pooling the spots of several slides rewards a prediction that only tells the slides apart.
    Pass the slides as ``groups`` to correlate within each of them and average.

    Parameters
    ----------
    y_true
        Measured expression ``[n_spots, n_genes]``. NaN marks a value that was not measured; the
        spot is then left out for that gene.
    y_pred
        Predicted expression, of the same shape.
    groups
        Slide or patient of each spot, ``[n_spots]``.

    Returns
    -------
    Float64 ``[n_genes]``. NaN for a gene that is constant, or known for fewer than two spots,
    in ``y_true`` or ``y_pred``; with groups, only where that holds in every group.

    Raises
    ------
    InputValueError
        If the shapes do not fit or a value is infinite.
    InputTypeError
        If the values are not numbers.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> pearson(truth, np.array([[1.0, 0.0], [2.0, 5.0], [3.0, 2.0]]))
    array([ 1., nan])
    """
    true, pred = as_pair(y_true, y_pred)
    return mean_over_groups(_pearson, true, pred, groups)


def spearman(
    y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Spearman correlation of each gene over spots.

    The Pearson correlation of the ranks; equal values share their mean rank.

    Parameters
    ----------
    y_true, y_pred, groups
        As in :func:`pearson`.

    Returns
    -------
    Float64 ``[n_genes]``, NaN as in :func:`pearson`.

    Raises
    ------
    InputValueError
        If the shapes do not fit or a value is infinite.
    InputTypeError
        If the values are not numbers.
    """
    true, pred = as_pair(y_true, y_pred)
    return mean_over_groups(_spearman, true, pred, groups)


def _pearson(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    count = np.maximum(np.sum(~np.isnan(true), axis=0), 1)
    centered_true = true - np.nansum(true, axis=0) / count
    centered_pred = pred - np.nansum(pred, axis=0) / count
    covariance = np.nansum(centered_true * centered_pred, axis=0)
    scale = np.sqrt(np.nansum(centered_true**2, axis=0) * np.nansum(centered_pred**2, axis=0))
    # rounding leaves a constant column with a tiny spread around its mean
    varies = _varies(true) & _varies(pred) & (scale > 0)
    correlation = np.divide(covariance, scale, out=np.full(len(scale), np.nan), where=varies)
    bounded: NDArray[np.float64] = np.clip(correlation, -1, 1)
    return bounded


def _spearman(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    return _pearson(_ranks(true), _ranks(pred))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # missing values are ranked behind all others, so that they do not shift a rank
    ranks = rankdata(np.where(np.isnan(values), np.inf, values), axis=0)
    return np.where(np.isnan(values), np.nan, ranks)


def _varies(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    high = np.where(np.isnan(values), -np.inf, values).max(axis=0)
    low = np.where(np.isnan(values), np.inf, values).min(axis=0)
    varies: NDArray[np.bool_] = high > low
    return varies
