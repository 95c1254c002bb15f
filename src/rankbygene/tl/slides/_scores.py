"""Scores of predicted patients, fold by fold, with intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from rankbygene.metrics import (
    auprc,
    auroc,
    balanced_accuracy,
    bootstrap_interval,
    concordance_index,
    concordance_index_ipcw,
    integrated_brier_score,
    macro_f1,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Scores some rows of predicted patients; the fold tells which patients were trained on.
Score: TypeAlias = Callable[["NDArray[np.intp]", int], float]


def class_scores(
    labels: NDArray[np.object_], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> dict[str, Score]:
    """Scores of classes from probabilities ``[n, n_classes]``."""
    predicted = np.array(classes, object)[probabilities.argmax(1)]
    ranked = probabilities[:, 1] if len(classes) == 2 else probabilities
    return {
        "auroc": lambda rows, _: auroc(labels[rows], ranked[rows], classes),
        "auprc": lambda rows, _: auprc(labels[rows], ranked[rows], classes),
        "balanced_accuracy": lambda rows, _: balanced_accuracy(labels[rows], predicted[rows]),
        "macro_f1": lambda rows, _: macro_f1(labels[rows], predicted[rows]),
    }


def survival_scores(
    outcomes: pd.DataFrame,
    folds: NDArray[np.int64],
    risk: NDArray[np.float64],
    survival: NDArray[np.float64],
    times: NDArray[np.float64],
) -> dict[str, Score]:
    """Scores of risks ``[n]`` and of survival curves ``[n, n_times]``."""
    time, event = outcomes["time"].to_numpy(np.float64), outcomes["event"].to_numpy(bool)

    def trained(fold: int) -> dict[str, NDArray[np.generic]]:
        return {"train_time": time[folds != fold], "train_event": event[folds != fold]}

    return {
        "concordance_index": lambda rows, _: concordance_index(time[rows], event[rows], risk[rows]),
        "concordance_index_ipcw": lambda rows, fold: concordance_index_ipcw(
            time[rows], event[rows], risk[rows], tau=float(times[-1]), **trained(fold)
        ),
        "integrated_brier_score": lambda rows, fold: integrated_brier_score(
            time[rows], event[rows], survival[rows], times, **trained(fold)
        ),
    }


def score_folds(
    scores: Mapping[str, Score], folds: NDArray[np.int64], patients: NDArray[np.object_],
    *, n_resamples: int, seed: int,
) -> tuple[dict[str, float], pd.DataFrame]:  # fmt: skip
    """Mean over folds of each score with its interval over patients, and each fold's score.

    Predictions of different folds come from different models, so that they are compared within a
    fold only.
    """
    summary: dict[str, float] = {}
    table = {}
    for name, score in scores.items():
        table[name] = {
            int(fold): score(np.flatnonzero(folds == fold), int(fold)) for fold in np.unique(folds)
        }

        def mean_over_folds(rows: NDArray[np.intp], score: Score = score) -> float:
            drawn = folds[rows]
            values = [score(rows[drawn == fold], int(fold)) for fold in np.unique(drawn)]
            return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

        with warnings.catch_warnings():
            # A resample without a class or an event in a fold has no score there.
            warnings.simplefilter("ignore", UserWarning)
            interval = bootstrap_interval(
                mean_over_folds, np.arange(len(folds)), groups=patients, n=n_resamples, seed=seed
            )
        summary |= {
            name: interval.estimate,
            f"{name}_low": interval.low,
            f"{name}_high": interval.high,
        }
    return summary, pd.DataFrame(table).rename_axis("fold")
