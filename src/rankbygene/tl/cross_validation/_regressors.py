"""Simple regressions from features to expression, which every score should be read against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

from rankbygene.train._ridge import fit_ridge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data.splits._row_groups import RowGroups

__all__ = ["GroupRidge", "HestRidge", "MeanRegressor", "mlp"]

N_COMPONENTS = 256


class MeanRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The mean of each gene over the training spots, whatever the image."""

    def fit(self, X: NDArray[np.floating], y: NDArray[np.floating]) -> MeanRegressor:
        """Store the means of ``y`` ``[n, n_genes]``."""
        self.mean_ = np.mean(y, axis=0)
        return self

    def predict(self, X: NDArray[np.floating]) -> NDArray[np.floating]:
        """Repeat the means for every row of ``X``."""
        return np.tile(self.mean_, (len(X), 1))


class GroupRidge(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Ridge on at most 256 components, its penalty chosen on whole groups of rows.

    Unlike the other regressors it takes targets with NaN where a gene was not measured.
    """

    def fit(
        self, X: NDArray[np.floating], y: NDArray[np.floating], groups: RowGroups
    ) -> GroupRidge:
        """Fit on ``X`` ``[n, d]`` and ``y`` ``[n, n_genes]``; ``groups`` are left out in turn."""
        self.linear_ = fit_ridge(X, y, groups.folds, n_components=N_COMPONENTS)
        self.note = f"penalty {self.linear_.penalty:.3g}, by {groups.by}"
        return self

    def predict(self, X: NDArray[np.floating]) -> NDArray[np.floating]:
        """Predict from ``X`` ``[n, d]``."""
        return self.linear_(X)


class HestRidge(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The regression of HEST-Bench :cite:p:`jaume2024hest`.

    Standardised features, at most 256 components and a penalty of
    ``100 / (n_components * n_genes)``. The benchmark leaves the intercept out, which moves no
    correlation but makes every error meaningless.
    """

    def __init__(self, *, fit_intercept: bool = True, seed: int = 1) -> None:
        self.fit_intercept = fit_intercept
        self.seed = seed

    def fit(self, X: NDArray[np.floating], y: NDArray[np.floating]) -> HestRidge:
        """Fit on ``X`` ``[n, d]`` and ``y`` ``[n, n_genes]``."""
        from sklearn.decomposition import PCA
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        # Centred, n spots span n - 1 directions; one more would be rounding that is fitted to.
        components = min(N_COMPONENTS, len(X) - 1, X.shape[1])
        regression = Ridge(
            100 / (components * y.shape[1]),
            solver="lsqr",
            fit_intercept=self.fit_intercept,
            max_iter=1000,
        )
        self.pipeline_ = make_pipeline(
            StandardScaler(), PCA(components, random_state=self.seed), regression
        )
        self.pipeline_.fit(X, y)
        return self

    def predict(self, X: NDArray[np.floating]) -> NDArray[np.floating]:
        """Predict ``[n, n_genes]``."""
        predicted: NDArray[np.floating] = self.pipeline_.predict(X)
        return predicted


def mlp(seed: int) -> Any:
    """A perceptron with one hidden layer on standardised features and genes."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = MLPRegressor(
        hidden_layer_sizes=(256,),
        alpha=1.0,
        learning_rate_init=1e-3,
        batch_size=64,
        max_iter=60,
        random_state=seed,
    )
    scaled = TransformedTargetRegressor(network, transformer=StandardScaler())
    return make_pipeline(StandardScaler(), scaled)
