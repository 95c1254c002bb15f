"""Fitting the linear map from colour and texture statistics to expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fit_statistics"]


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
    targets = expression.astype(np.float64)
    means = np.nanmean(targets, axis=0)
    center, scale = inputs.mean(0), inputs.std(0)
    scale[scale < 1e-12] = 1.0
    ridge = RidgeCV(alphas=np.logspace(-1, 6, 15)).fit(
        (inputs - center) / scale, np.where(np.isnan(targets), means, targets)
    )
    weight = np.atleast_2d(ridge.coef_) / scale
    bias = np.atleast_1d(ridge.intercept_) - weight @ center
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
