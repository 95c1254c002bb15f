"""Fitting the linear map from colour and texture statistics to expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from rankbygene._arguments import checked
from rankbygene._checks import check_folds
from rankbygene.errors import InputValueError, TrainingError
from rankbygene.train._ridge import Folds, fit_ridge

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fill_unmeasured", "fit_statistics"]


@checked(folds=check_folds)
def fit_statistics(
    layer: nn.Linear,
    statistics: NDArray[np.floating],
    expression: NDArray[np.floating],
    folds: Folds = (),
) -> None:
    """Set a linear layer to the ridge regression of expression on statistics of the tile.

    A network that starts from random weights on few slides errs differently from a regression on
    simple statistics; the mean of the two predicts better than either.

    Parameters
    ----------
    layer
        Receives weight and bias.
    statistics
        Of the training spots, ``[n_spots, n_statistics]``.
    expression
        On the training scale, ``[n_spots, n_genes]``; NaN where a gene was not measured.
    folds
        Pairs of rows to fit on and rows to judge on, of whole patients, slides or blocks, by which
        the penalty is chosen. Without any it is the number of spots, with a warning.

    Raises
    ------
    InputValueError
        There is not one row per spot in both.
    TrainingError
        Statistics or the regression are not finite.
    """
    if statistics.ndim != 2 or expression.ndim != 2 or len(statistics) != len(expression):
        msg = (
            f"statistics has the shape {statistics.shape} and expression {expression.shape}; one row "
            "per spot is needed in both"
        )
        raise InputValueError(msg)
    if not np.isfinite(statistics).all():
        msg = f"{int((~np.isfinite(statistics)).sum())} statistics of the tiles are not finite"
        raise TrainingError(msg)
    found = fit_ridge(statistics, expression, folds)
    if not (np.isfinite(found.weight).all() and np.isfinite(found.bias).all()):
        msg = "the regression on statistics of the tile has weights that are not finite"
        raise TrainingError(msg)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(found.weight))
        layer.bias.copy_(torch.from_numpy(found.bias))


def fill_unmeasured(targets: NDArray[np.floating]) -> NDArray[np.float64]:
    """Put a gene's mean where it was not measured, which pulls no regression anywhere."""
    values = targets.astype(np.float64)
    return np.where(np.isnan(values), np.nanmean(values, axis=0), values)
