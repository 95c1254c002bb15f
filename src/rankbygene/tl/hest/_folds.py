"""The regression of HEST-Bench, fitted and scored in each fold of a task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from rankbygene.data.expression._neighbors import spot_spacing
from rankbygene.data.splits._row_groups import RowGroups
from rankbygene.tl._evaluate import score_genes
from rankbygene.tl.cross_validation._regressors import GroupRidge, HestRidge, MeanRegressor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.io._hest_bench import BenchFold, BenchSample, BenchTask

logger = logging.getLogger("rankbygene")

ENCODER = "encoder"

BenchBaseline = Literal["mean", "ridge"]
Features: TypeAlias = dict[str, "NDArray[np.float32]"]
Describe: TypeAlias = Callable[["BenchSample"], Features]


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
        if method == "ridge":
            fitted: Any = GroupRidge().fit(train, targets, _groups(task, fold))
        else:
            regressor = MeanRegressor() if method == "mean" else _benchmark(seed)
            fitted = regressor.fit(train, targets)
        predictions[method] = fitted.predict(test)
    pooled = np.zeros(len(truth), np.intp)
    return score_genes(truth, predictions, pooled, task.genes)


def _benchmark(seed: int) -> HestRidge:
    return HestRidge(fit_intercept=False, seed=seed)


def _groups(task: BenchTask, fold: BenchFold) -> RowGroups:
    """Leave out whole samples of the training side, or blocks of the only one."""
    places = {name: task.samples[name].places for name in fold.train}
    if len(places) > 1:
        names = np.repeat(list(places), [len(own) for own in places.values()])
        return RowGroups.of_labels(names, "slide")
    (own,) = places.values()
    return RowGroups.of_blocks(own, lambda held: _touching(own, held))


def _touching(places: NDArray[np.float64], held: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Patches within two steps of those held out; patches are about as wide as their spacing."""
    reach = 2 * spot_spacing(places)
    distance, _ = cKDTree(places[held]).query(places)
    near: NDArray[np.bool_] = distance <= reach
    return near & ~held
