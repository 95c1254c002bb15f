"""Distance between measured and predicted expression, gene by gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics._inputs import (
    as_pair,
    divide,
    mean_over_groups,
    nanmean,
    value_range,
    varies,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rankbygene.metrics._inputs import Average

Normalizer = Literal["range", "std", "mean", "l2"]


@checked
def mse(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    r"""Mean squared error of each gene over spots.

    .. math:: \mathrm{MSE}_g = \frac{1}{n} \sum_i (y_{ig} - \hat y_{ig})^2

    The error depends on the scale of expression: compare only values that were normalised in the
    same way. ``numpy.nanmean`` of the result is the mean over all spots and genes where none is
    missing.

    Parameters
    ----------
    y_true
        Measured expression ``[n_spots, n_genes]``. NaN marks a value that was not measured.
    y_pred
        Predicted expression, of the same shape.
    groups, patients, average
        Slide and patient of each spot, and the averaging, as in :func:`pearson`.

    Returns
    -------
    Float64 ``[n_genes]``; NaN for a gene without a value.

    Raises
    ------
    InputValueError
        If the shapes do not fit or a value is infinite.
    InputTypeError
        If the values are not numbers.
    """
    return mean_over_groups(
        _mse, as_pair(y_true, y_pred, groups=groups, patients=patients), groups, patients, average
    )


@checked
def mae(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    r"""Mean absolute error of each gene over spots.

    .. math:: \mathrm{MAE}_g = \frac{1}{n} \sum_i |y_{ig} - \hat y_{ig}|

    Parameters
    ----------
    y_true, y_pred, groups, patients, average
        As in :func:`mse`.

    Returns
    -------
    Float64 ``[n_genes]``; NaN for a gene without a value.

    Raises
    ------
    InputValueError
        If the shapes do not fit or a value is infinite.
    InputTypeError
        If the values are not numbers.
    """
    return mean_over_groups(
        _mae, as_pair(y_true, y_pred, groups=groups, patients=patients), groups, patients, average
    )


@checked
def nrmse(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    normalizer: Normalizer = "range",
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    r"""Root mean squared error of each gene, in units of the gene's own size.

    .. math:: \mathrm{NRMSE}_g = \sqrt{\mathrm{MSE}_g} \, / \, c_g

    Papers divide by different things and rarely say which; only equal ones can be compared.

    Parameters
    ----------
    y_true, y_pred, groups, patients, average
        As in :func:`mse`.
    normalizer
        :math:`c_g`, from the measured values of the same slide: ``"range"`` is largest minus
        smallest; ``"std"`` the standard deviation over :math:`n`, so that predicting the mean
        scores 1; ``"mean"`` the mean; ``"l2"`` the Euclidean length over all spots, which makes
        the score shrink with the number of spots.

    Returns
    -------
    Float64 ``[n_genes]``; NaN where :math:`c_g` is 0, or the gene is constant and ``normalizer``
    is ``"range"`` or ``"std"``. The sign of the result is that of the mean under ``"mean"``.

    Raises
    ------
    InputValueError
        If the shapes do not fit, a value is infinite, or ``normalizer`` is unknown.
    InputTypeError
        If the values are not numbers.
    """
    if normalizer not in get_args(Normalizer):
        msg = f"normalizer is {normalizer!r}; allowed are {', '.join(map(repr, get_args(Normalizer)))}"
        raise InputValueError(msg)
    return mean_over_groups(
        lambda true, pred: _nrmse(true, pred, normalizer),
        as_pair(y_true, y_pred, groups=groups, patients=patients),
        groups,
        patients,
        average,
    )


@checked
def r2(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    r"""Coefficient of determination of each gene over spots.

    .. math:: R^2_g = 1 - \frac{\sum_i (y_{ig} - \hat y_{ig})^2}{\sum_i (y_{ig} - \bar y_g)^2}

    0 is what the gene's own mean *on the slide that is scored* would get, which no model knows;
    a good prediction on another scale is far below 0.

    Parameters
    ----------
    y_true, y_pred, groups, patients, average
        As in :func:`mse`.

    Returns
    -------
    Float64 ``[n_genes]``, at most 1; NaN for a gene that is constant in ``y_true``.

    Raises
    ------
    InputValueError
        If the shapes do not fit or a value is infinite.
    InputTypeError
        If the values are not numbers.
    """
    return mean_over_groups(
        _r2, as_pair(y_true, y_pred, groups=groups, patients=patients), groups, patients, average
    )


def _mse(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    return nanmean((true - pred) ** 2)


def _mae(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    return nanmean(np.abs(true - pred))


def _nrmse(
    true: NDArray[np.float64], pred: NDArray[np.float64], normalizer: Normalizer
) -> NDArray[np.float64]:
    if normalizer == "range":
        size, exists = value_range(true), varies(true)
    elif normalizer == "std":
        size, exists = np.sqrt(_variance(true)), varies(true)
    else:
        size = nanmean(true) if normalizer == "mean" else np.sqrt(np.nansum(true**2, axis=0))
        exists = np.abs(size) > 0
    return divide(np.sqrt(_mse(true, pred)), size, exists)


def _r2(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - divide(_mse(true, pred), _variance(true), varies(true))


def _variance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return nanmean((values - nanmean(values)) ** 2)
