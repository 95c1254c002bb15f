"""Models of slides judged on patients that they have not seen."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from rankbygene._arguments import check_settings, checked, checked_fields
from rankbygene._names import class_order
from rankbygene.base._runner import check_train_kwargs
from rankbygene.data import (
    BagSetup,
    Cohort,
    join_clinical,
    patient_folds,
    resolve_bags,
    sample_bags,
)
from rankbygene.data._bag_identity import shared_tiles
from rankbygene.data.bags._bags import declared_features
from rankbygene.data.bags._cohort import OnError, check_same_outcome
from rankbygene.data.bags._outcomes import check_labels, check_times
from rankbygene.errors import InputValueError, Problems
from rankbygene.model import SlideClassifier, SlideSurvival
from rankbygene.tl.slides._baselines import CoxRidge, MajorityClass, MeanLogistic, mean_features
from rankbygene.tl.slides._scores import class_scores, score_folds, survival_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data.bags._cohort import Slides
    from rankbygene.nn import Pooling

__all__ = ["SlideEvaluation", "cross_validate_slides"]

logger = logging.getLogger("rankbygene")

Task = Literal["classification", "survival"]
Predictions = pd.DataFrame

_MODELS: dict[Task, type[SlideClassifier | SlideSurvival]] = {
    "classification": SlideClassifier, "survival": SlideSurvival,
}  # fmt: skip
# What a fold gives to the models.
_OWNED = ("slides", "clinical", "pooling", "seed")


@checked_fields
@dataclass(frozen=True, eq=False)
class SlideEvaluation:
    """Scores of models of slides, side by side.

    Attributes
    ----------
    summary
        One row per ``features`` and ``method``. For each score the mean over folds, and
        ``<score>_low`` and ``<score>_high``: its interval over patients.
    per_fold
        The scores of each fold.
    predictions
        What every patient was predicted by the model that had not seen it, with the truth.
    folds
        The fold that each patient was held out in.
    """

    summary: pd.DataFrame
    per_fold: pd.DataFrame
    predictions: pd.DataFrame
    folds: pd.Series[int]


@checked
def cross_validate_slides(
    slides: Slides,
    clinical: pd.DataFrame,
    *,
    task: Task = "classification",
    features: Mapping[str, BagSetup | Slides] | None = None,
    poolings: Sequence[Pooling] = ("attention", "mean"),
    baselines: bool = True,
    n_folds: int = 5,
    label_key: str = "label",
    time_key: str = "time",
    event_key: str = "event",
    patient_key: str | None = "patient",
    slide_key: str | None = None,
    on_error: OnError = "raise",
    n_resamples: int = 500,
    seed: int = 0,
    model_kwargs: Mapping[str, Any] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
) -> SlideEvaluation:
    """Compare features and poolings on patients held out, with baselines beside them.

    All methods are trained and scored on the same slides and the same folds. No patient is on both
    sides; folds are balanced in the label, or in event and time.

    Parameters
    ----------
    slides
        SpatialData or bags, as for :class:`rankbygene.model.SlideClassifier`.
    clinical
        One row per slide.
    task
        ``"classification"`` by ``label_key``, or ``"survival"`` by ``time_key`` and ``event_key``.
    features
        Kinds of features to compare, by name: where they are in ``slides``
        (:class:`rankbygene.data.BagSetup`), or other slides of the same names that hold them. By default
        those that ``setup_spatialdata`` of the models was told of.
    poolings
        Models to train on each.
    baselines
        Add, for each kind of features, a linear model of the patient's mean features (logistic, or
        Cox with ridge), and once the model that ignores the slides: shares of the classes, or the
        same curve for everybody.
    n_folds
        Number of folds.
    label_key, time_key, event_key, patient_key, slide_key
        Columns of ``clinical``.
    on_error
        What to do with bad slides, as in the models. A slide that is bad for one kind of features
        is left out for all.
    n_resamples
        Bootstrap resamples of the patients for the intervals.
    seed
        Of folds, models and intervals.
    model_kwargs, train_kwargs
        Passed to the models, and to their ``train``.

    Returns
    -------
    Scores with intervals, and the predictions that they come from.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        Slides or clinical table cannot be used as asked; or slides of two patients hold the same
        tiles, in whatever order and part.
    """
    if task not in get_args(Task):
        msg = f"task={task!r} is not known; choose 'classification' or 'survival'"
        raise InputValueError(msg)
    columns = (
        {"label": label_key} if task == "classification" else {"time": time_key, "event": event_key}
    )
    kind = _MODELS[task]
    model_kwargs = check_settings(kind, model_kwargs, "model_kwargs", owned=_OWNED)
    train_kwargs = check_train_kwargs(kind, train_kwargs)
    cohorts = _cohorts(
        slides, clinical, {"features": None} if features is None else features, columns,
        patient_key=patient_key, slide_key=slide_key, on_error=on_error,
    )  # fmt: skip
    outcomes = next(iter(cohorts.values())).outcomes
    keys = {f"{name}_key": name for name in columns}
    folds = patient_folds(outcomes, n_folds, seed=seed, **keys).loc[outcomes.index]
    judge = _Judge(task, outcomes, folds, n_resamples, seed)
    for name, cohort in cohorts.items():
        for pooling in poolings:
            predicted = _out_of_fold(judge, cohort, pooling, model_kwargs, train_kwargs)
            judge.add(name, pooling, predicted)
        if baselines:
            means = np.stack([mean_features(bag) for bag in cohort.units.values()])
            judge.add(name, judge.linear_name, judge.baseline(means, informed=True))
    if baselines:
        judge.add("none", judge.constant_name, judge.baseline(means, informed=False))
    return judge.result()


class _Judge:
    """Collects what each method predicted and scores it in one way."""

    def __init__(
        self, task: Task, outcomes: pd.DataFrame, folds: pd.Series[int], n_resamples: int, seed: int
    ) -> None:
        self.task, self.outcomes, self.folds = task, outcomes, folds
        self.n_resamples, self.seed = n_resamples, seed
        self.summary: list[dict[str, Any]] = []
        self.per_fold: list[pd.DataFrame] = []
        self.predictions: list[pd.DataFrame] = []
        self.linear_name = "mean + logistic" if task == "classification" else "mean + Cox ridge"
        self.constant_name = "majority class" if task == "classification" else "same for all"
        if task == "classification":
            self.classes = class_order(outcomes["label"], outcomes["label"])
            self.times = np.empty(0)
        else:
            seen = outcomes.loc[outcomes["event"], "time"]
            self.times = np.unique(np.quantile(seen, np.linspace(0.1, 0.9, 9)))

    def sides(self) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Give the masks of training and of held-out patients, fold by fold."""
        held_out = [(self.folds == fold).to_numpy() for fold in np.unique(self.folds)]
        return [(~mask, mask) for mask in held_out]

    def columns(self) -> list[str]:
        """Name the columns of predictions."""
        if self.task == "classification":
            return [f"probability_{name}" for name in self.classes]
        return ["risk", *(f"survival_{time:g}" for time in self.times)]

    def baseline(self, means: NDArray[np.float64], *, informed: bool) -> Predictions:
        """Fit and apply a baseline in each fold."""
        values = np.empty((len(self.outcomes), len(self.columns())))
        for train, test in self.sides():
            known = self.outcomes[train]
            if self.task == "classification":
                kind = MeanLogistic if informed else MajorityClass
                values[test] = kind(self.classes).fit(means[train], known).predict(means[test])
                continue
            cox = (CoxRidge() if informed else CoxRidge(0)).fit(means[train], known)
            values[test, 0] = cox.predict(means[test])
            values[test, 1:] = cox.predict_survival(means[test], self.times)
        return pd.DataFrame(values, index=self.outcomes.index, columns=self.columns())

    def add(self, features: str, method: str, predicted: Predictions) -> None:
        """Score predictions of all patients."""
        values = predicted.to_numpy(np.float64)
        folds: NDArray[np.int64] = np.asarray(self.folds, np.int64)
        scores = (
            class_scores(self.outcomes["label"].to_numpy(object), values, self.classes)
            if self.task == "classification"
            else survival_scores(self.outcomes, folds, values[:, 0], values[:, 1:], self.times)
        )
        patients = self.outcomes["patient"].to_numpy(object)
        summary, per_fold = score_folds(
            scores, folds, patients, n_resamples=self.n_resamples, seed=self.seed
        )
        names = {"features": features, "method": method}
        self.summary.append(names | summary)
        self.per_fold.append(per_fold.reset_index().assign(**names))
        self.predictions.append(
            predicted.join(self.outcomes).assign(fold=self.folds, **names).reset_index(drop=True)
        )
        logger.info("%s, %s: %s", features, method, summary)

    def result(self) -> SlideEvaluation:
        """Put everything together."""
        index = ["features", "method"]
        return SlideEvaluation(
            summary=pd.DataFrame(self.summary).set_index(index),
            per_fold=pd.concat(self.per_fold).set_index([*index, "fold"]),
            predictions=pd.concat(self.predictions, ignore_index=True),
            folds=self.folds,
        )


def _cohorts(
    slides: Slides,
    clinical: pd.DataFrame,
    features: Mapping[str, BagSetup | Slides | None],
    columns: Mapping[str, str],
    *,
    patient_key: str | None,
    slide_key: str | None,
    on_error: OnError,
) -> dict[str, Cohort]:
    """Give each kind of features as a cohort of the same slides."""
    found: dict[str, Any] = {}
    for name, where in features.items():
        setup = where if isinstance(where, BagSetup) else declared_features
        own = slides if where is None or isinstance(where, BagSetup) else where
        bags = resolve_bags(own, setup, on_error=on_error)
        bags, rows = join_clinical(
            bags, clinical, columns, patient_key=patient_key, slide_key=slide_key, on_error=on_error
        )
        sound = list(sample_bags(bags, on_error=on_error))
        found[name] = {slide: bags[slide] for slide in sound}, rows
    _, rows = next(iter(found.values()))
    common = [slide for slide in rows.index if all(slide in bags for bags, _ in found.values())]
    if not common:
        msg = "no slide has all kinds of features; they are matched by the slides' names"
        raise InputValueError(msg)
    rows = rows.loc[common]
    rows = check_labels(rows) if "label" in columns else check_times(rows, columns)
    check_same_outcome(rows, "pass patient_key=None where every slide is a patient of its own")
    cohorts = {
        name: Cohort({slide: bags[slide] for slide in common}, rows)
        for name, (bags, _) in found.items()
    }
    for cohort in cohorts.values():
        _check_copies(cohort)
    return cohorts


def _check_copies(cohort: Cohort) -> None:
    """Refuse slides that are there again under another patient, in whatever order and part.

    Whether a copy is trained on while the other is held out depends on the folds that are drawn; that
    one of the two patients is wrong does not.
    """
    patients: dict[str, str] = dict(cohort.clinical["patient"].items())  # type: ignore[arg-type]
    problems = Problems()
    for (a, b), (n_shared, n_tiles) in shared_tiles(cohort.bags, patients).items():
        msg = (
            f"slides {a!r} of patient {patients[a]!r} and {b!r} of patient {patients[b]!r} hold the same "
            f"tiles ({n_shared:,} of {n_tiles:,} different ones, whatever their order): one would be "
            "trained on while the other is held out. Drop one of them, or name both by one patient"
        )
        with problems.collect():
            raise InputValueError(msg)
    problems.raise_if_any()


def _out_of_fold(
    judge: _Judge,
    cohort: Cohort,
    pooling: Pooling,
    model_kwargs: dict[str, Any],
    train_kwargs: dict[str, Any],
) -> Predictions:
    """Train in each fold without its patients and predict them."""
    parts = []
    for train, test in judge.sides():
        inside, outside = (
            cohort.select(judge.outcomes.index[mask].tolist()) for mask in (train, test)
        )
        model = _MODELS[judge.task](
            inside.bags, inside.clinical, pooling=pooling, seed=judge.seed, **model_kwargs
        )
        model.train(**{"enable_progress_bar": False, **train_kwargs})
        new: dict[str, Any] = {"level": "patient", "patients": outside.clinical["patient"]}
        predicted = model.predict(outside.bags, **new)
        if isinstance(model, SlideSurvival):
            curves = model.predict_survival(judge.times.tolist(), outside.bags, **new)
            predicted = pd.concat([predicted, curves], axis=1)
        else:
            predicted = predicted.reindex(columns=judge.columns(), fill_value=0.0)
        parts.append(predicted.set_axis(judge.columns(), axis=1))
    return pd.concat(parts).loc[judge.outcomes.index]
