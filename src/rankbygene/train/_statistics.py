"""Fitting the linear map from colour and texture statistics to expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RIDGE_PENALTIES", "fill_unmeasured", "fit_statistics"]

RIDGE_PENALTIES = np.logspace(-1, 6, 15)


def fit_statistics(
    layer: nn.Linear, statistics: NDArray[np.floating], expression: NDArray[np.floating]
) -> None:
    """Set a linear layer to the ridge regression of expression on statistics of the tile.

    A network that starts from random weights on few slides errs differently from a regression on
    simple statistics; the mean of the two predicts better than either.

    Parameters
    ----------
    layer
        Receives weight and bias.
    statistics
        Of the training spots, ``[n_spots, n_statistics]``. They are standardised, and the penalty is
        chosen by generalised cross-validation on these spots.
    expression
        On the training scale, ``[n_spots, n_genes]``; NaN where a gene was not measured, which enters
        as the gene's mean.
    """
    from sklearn.linear_model import RidgeCV

    inputs = statistics.astype(np.float64)
    center, scale = inputs.mean(0), inputs.std(0)
    scale[scale < 1e-12] = 1.0
    ridge = RidgeCV(alphas=RIDGE_PENALTIES)
    ridge.fit((inputs - center) / scale, fill_unmeasured(expression))
    weight = np.atleast_2d(ridge.coef_) / scale
    bias = np.atleast_1d(ridge.intercept_) - weight @ center
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))


def fill_unmeasured(targets: NDArray[np.floating]) -> NDArray[np.float64]:
    """Put a gene's mean where it was not measured, which pulls no regression anywhere."""
    values = targets.astype(np.float64)
    return np.where(np.isnan(values), np.nanmean(values, axis=0), values)
