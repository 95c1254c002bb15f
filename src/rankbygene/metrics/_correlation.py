"""Correlation of measured and predicted expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from rankbygene._arguments import checked
from rankbygene.metrics._inputs import as_pair, divide, mean_over_groups, nanmean, varies

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rankbygene.metrics._inputs import Average


@checked
def pearson(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    patients: ArrayLike | None = None,
    average: Average | None = None,
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
        Slide of each spot, ``[n_spots]``. The score is computed within each slide, then averaged
        over the slides where it exists.
    patients
        Patient of each spot, ``[n_spots]``, beside the slides: slides are averaged within each
        patient, then the patients, so that a patient with many slides counts once.
    average
        The last step of the above, by name: ``"patients"``, ``"slides"``, or ``"pooled"`` for all
        spots as if they were one slide, whatever labels are given. By default as far as labels
        are given.

    Returns
    -------
    Float64 ``[n_genes]``. NaN for a gene that is constant, or known for fewer than two spots,
    in ``y_true`` or ``y_pred``; with groups, only where that holds in every group.

    Raises
    ------
    InputValueError
        If the shapes do not fit, a value is infinite, a slide has several patients, or
        ``average`` names labels that are not given.
    InputTypeError
        If the values are not numbers.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> pearson(truth, np.array([[1.0, 0.0], [2.0, 5.0], [3.0, 2.0]]))
    array([ 1., nan])
    """
    return mean_over_groups(
        _pearson,
        as_pair(y_true, y_pred, groups=groups, patients=patients),
        groups,
        patients,
        average,
    )


@checked
def spearman(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    """Spearman correlation of each gene over spots.

    The Pearson correlation of the ranks; equal values share their mean rank.

    Parameters
    ----------
    y_true, y_pred, groups, patients, average
        As in :func:`pearson`.

    Returns
    -------
    Float64 ``[n_genes]``, NaN as in :func:`pearson`.

    Raises
    ------
    InputValueError, InputTypeError
        As in :func:`pearson`.
    """
    return mean_over_groups(
        _spearman,
        as_pair(y_true, y_pred, groups=groups, patients=patients),
        groups,
        patients,
        average,
    )


@checked
def concordance(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    r"""Lin's concordance correlation of each gene over spots :cite:p:`lin1989concordance`.

    .. math:: \rho_c = \frac{2 s_{y\hat y}}{s_y^2 + s_{\hat y}^2 + (\bar y - \bar{\hat y})^2}

    with variances and covariance over :math:`n`. It is 1 only where prediction and measurement
    are equal: unlike Pearson's correlation it falls with a wrong scale or a shift.

    Parameters
    ----------
    y_true, y_pred, groups, patients, average
        As in :func:`pearson`.

    Returns
    -------
    Float64 ``[n_genes]`` between -1 and 1. NaN for a gene that is constant in ``y_true``; 0 where
    only the prediction is constant.

    Raises
    ------
    InputValueError, InputTypeError
        As in :func:`pearson`.
    """
    return mean_over_groups(
        _concordance,
        as_pair(y_true, y_pred, groups=groups, patients=patients),
        groups,
        patients,
        average,
    )


@checked
def pearson_per_spot(y_true: ArrayLike, y_pred: ArrayLike) -> NDArray[np.float64]:
    """Pearson correlation of each spot over genes.

    Not comparable with :func:`pearson`: genes differ in their level far more than spots do, so
    that predicting each gene's mean at every spot can score 0.9 here and has no score there.

    Parameters
    ----------
    y_true, y_pred
        As in :func:`pearson`.

    Returns
    -------
    Float64 ``[n_spots]``. NaN for a spot whose genes are all equal, or that knows fewer than two.

    Raises
    ------
    InputValueError
        If the shapes do not fit or a value is infinite.
    InputTypeError
        If the values are not numbers.
    """
    true, pred = as_pair(y_true, y_pred)
    return _pearson(true.T, pred.T)


def _pearson(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    centered_true, centered_pred = true - nanmean(true), pred - nanmean(pred)
    covariance = np.nansum(centered_true * centered_pred, axis=0)
    scale = np.sqrt(np.nansum(centered_true**2, axis=0) * np.nansum(centered_pred**2, axis=0))
    # rounding leaves a constant column with a tiny spread around its mean
    exists = varies(true) & varies(pred) & (scale > 0)
    bounded: NDArray[np.float64] = np.clip(divide(covariance, scale, exists), -1, 1)
    return bounded


def _spearman(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    return _pearson(_ranks(true), _ranks(pred))


def _concordance(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    mean_true, mean_pred = nanmean(true), nanmean(pred)
    covariance = nanmean((true - mean_true) * (pred - mean_pred))
    spread = nanmean((true - mean_true) ** 2) + nanmean((pred - mean_pred) ** 2)
    return divide(2 * covariance, spread + (mean_true - mean_pred) ** 2, varies(true))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # missing values are ranked behind all others, so that they do not shift a rank
    ranks = rankdata(np.where(np.isnan(values), np.inf, values), axis=0)
    return np.where(np.isnan(values), np.nan, ranks)
