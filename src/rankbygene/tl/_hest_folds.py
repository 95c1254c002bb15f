"""The regression of HEST-Bench, fitted and scored in each fold of a task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from rankbygene.tl._baselines import MeanPredictor, RidgePredictor
from rankbygene.tl._evaluate import score_genes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.io._hest_bench import BenchFold, BenchSample, BenchTask

logger = logging.getLogger("rankbygene")

ENCODER = "encoder"

BenchBaseline = Literal["mean", "ridge"]
Features: TypeAlias = dict[str, "NDArray[np.float32]"]
Describe: TypeAlias = Callable[["BenchSample"], Features]


class BenchHead:
    """The benchmark's regression: standardised features, 256 components, ridge.

    The penalty is ``100 / (n_components * n_genes)`` and there is no intercept.
    """

    n_components = 256

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fit(self, features: NDArray[np.float32], targets: NDArray[np.float64]) -> BenchHead:
        """Fit on ``features`` ``[n, d]`` and ``targets`` ``[n, n_genes]``."""
        from sklearn.decomposition import PCA
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        # Centred, n spots span n - 1 directions; one more would be rounding that is fitted to.
        components = min(self.n_components, len(features) - 1, features.shape[1])
        alpha = 100 / (components * targets.shape[1])
        self.pipeline = make_pipeline(
            StandardScaler(),
            PCA(components, random_state=self.seed),
            Ridge(alpha, solver="lsqr", fit_intercept=False, max_iter=1000),
        )
        self.pipeline.fit(features, targets)
        return self

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict ``[n, n_genes]``."""
        predicted: NDArray[np.float32] = self.pipeline.predict(features)
        return predicted


def score_task(
    task: BenchTask, describe: Describe, baselines: Sequence[BenchBaseline], seed: int
) -> pd.DataFrame:
    """Encode every sample of a task once, then fit and score each fold."""
    features = {}
    for name, sample in task.samples.items():
        logger.info("HEST-Bench %s: %s, %d patches", task.name, name, len(sample.rows))
        features[name] = describe(sample)
    tables = []
    for number, fold in enumerate(task.folds):
        scores = _score_fold(task, fold, features, baselines, seed)
        scores.insert(0, "fold", number)
        tables.append(scores)
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "task", task.name)
    return table


def _score_fold(
    task: BenchTask,
    fold: BenchFold,
    features: Mapping[str, Features],
    baselines: Sequence[BenchBaseline],
    seed: int,
) -> pd.DataFrame:
    targets, truth = (
        np.concatenate([task.samples[name].targets for name in side])
        for side in (fold.train, fold.test)
    )
    predictions = {}
    for method in (ENCODER, *baselines):
        # The mean looks at no feature, so it takes whichever are there.
        kind = ENCODER if method == "mean" else method
        train, test = (
            np.concatenate([features[name][kind] for name in side])
            for side in (fold.train, fold.test)
        )
        predictor: Any = _predictor(method, seed)
        predictions[method] = predictor.fit(train, targets).predict(test)
    pooled = np.zeros(len(truth), np.intp)
    return score_genes(truth, predictions, pooled, task.genes)


def _predictor(method: str, seed: int) -> BenchHead | MeanPredictor | RidgePredictor:
    if method == ENCODER:
        return BenchHead(seed)
    return MeanPredictor() if method == "mean" else RidgePredictor()
