"""Distance between measured and predicted expression, gene by gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rankbygene.metrics._inputs import as_pair, mean_over_groups, nanmean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def mse(
    y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike | None = None
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
    groups
        Slide or patient of each spot, ``[n_spots]``; the mean over groups of the mean in each.

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
    true, pred = as_pair(y_true, y_pred)
    return mean_over_groups(lambda a, b: nanmean((a - b) ** 2), true, pred, groups)


def mae(
    y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike | None = None
) -> NDArray[np.float64]:
    r"""Mean absolute error of each gene over spots.

    .. math:: \mathrm{MAE}_g = \frac{1}{n} \sum_i |y_{ig} - \hat y_{ig}|

    Parameters
    ----------
    y_true, y_pred, groups
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
    true, pred = as_pair(y_true, y_pred)
    return mean_over_groups(lambda a, b: nanmean(np.abs(a - b)), true, pred, groups)
