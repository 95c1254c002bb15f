"""Choosing among candidates on folds within the training side."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene._arguments import checked, checked_fields
from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.metrics import pearson
from rankbygene.metrics._inputs import as_pair, mean_over_groups, varies
from rankbygene.tl.cross_validation._data import (
    expression_of,
    held_out_frames,
    sides,
)
from rankbygene.tl.cross_validation._folds import Fold, make_folds, patient_of
from rankbygene.tl.cross_validation._protocol import check_predictions, widest_tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data import SpotFrame
    from rankbygene.tl.cross_validation._data import ImageSettings, TestData, TrainingData
    from rankbygene.tl.cross_validation._protocol import Predictor

__all__ = ["NestedSelection"]

logger = logging.getLogger("rankbygene")


@checked_fields
@dataclass(frozen=True)
class NestedSelection:
    """The best of several candidates by inner cross-validation, then trained on everything.

    The inner folds are made of the training side alone: by patient where it has several, else by
    slide, else by spatial blocks of the only slide. The held-out side of the outer fold takes no
    part, so that the outer score is that of choosing and training together.

    Parameters
    ----------
    candidates
        Methods by name, as for :func:`rankbygene.tl.cross_validate`.
    n_splits
        Number of inner folds; by default each group is held out once.

    Examples
    --------
    >>> rates = {
    ...     f"lr={lr}": rbg.tl.ModelMethod(train_kwargs={"plan_kwargs": {"lr": lr}})
    ...     for lr in (1e-3, 3e-3)
    ... }
    >>> rbg.tl.cross_validate(slides, {"tuned": rbg.tl.NestedSelection(rates)})
    """

    candidates: Mapping[str, Any]
    n_splits: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.candidates, Mapping):
            msg = (
                f"candidates is a mapping {{name: method}}; found {type(self.candidates).__name__}"
            )
            raise InputTypeError(msg)
        if not self.candidates:
            msg = "there are no candidates to choose from"
            raise InputValueError(msg)

    def __call__(self, train: TrainingData) -> Predictor:
        """Choose, then train what was chosen on the whole training side."""
        scores = self.inner_scores(train)
        best = max(scores, key=scores.__getitem__)
        logger.info("chosen on inner folds: %s (%s)", best, _in_words(scores))
        return _Chosen(self.candidates[best](train), f"chose {best} ({_in_words(scores)})")

    def widest_tile(self, image: ImageSettings) -> float:
        """How wide the widest tile of a candidate is, in micrometres."""
        return max(widest_tile(method, image) for method in self.candidates.values())

    @checked
    def inner_scores(self, train: TrainingData) -> dict[str, float]:
        """Mean Pearson of each candidate over inner folds, genes and patients.

        A prediction that is constant where the measurement is not tells nothing and counts as 0:
        left out, it would leave a candidate to be judged by the genes that it finds easy.
        """
        folds = inner_folds(train, self.n_splits, self.widest_tile(train.image))
        by_fold = [self._scores_of(train, fold) for fold in folds]
        return {name: float(np.mean([s[name] for s in by_fold])) for name in self.candidates}

    def _scores_of(self, train: TrainingData, fold: Fold) -> dict[str, float]:
        truth, slides, patients = _truth(train, fold)
        scores = {}
        for name, method in self.candidates.items():
            # Copies of its own, so that no candidate finds what another one changed.
            inner, test = sides(
                train.frames,
                fold,
                train.tiles,
                genes=train.genes,
                normalization=train.normalization,
                image=train.image,
                seed=train.seed,
            )
            predicted = check_predictions(name, method(inner)(test), test, train.genes)
            per_gene = mean_over_groups(_informed, as_pair(truth, predicted), slides, patients)
            known = per_gene[~np.isnan(per_gene)]
            scores[name] = float(known.mean()) if len(known) else 0.0
        return scores


def _informed(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson of each gene on one slide, 0 where only the prediction is constant."""
    r = pearson(true, pred)
    return np.where(np.isnan(r) & varies(true), 0.0, r)


def inner_folds(train: TrainingData, n_splits: int | None, tile_um: float) -> list[Fold]:
    """Folds within a training side, with a buffer around blocks for tiles of ``tile_um``."""
    frames = {
        name: replace(frame, patient=_patient_or_slide(name, frame))
        for name, frame in train.frames.items()
    }
    if len({frame.patient for frame in frames.values()}) > 1:
        groups = "patient"
    else:
        groups = "slide" if len(frames) > 1 else "block"
    return make_folds(
        frames,
        groups,
        n_splits,
        # Slides of one patient are all that such a training side has to choose on.
        allow_leaks=["patient"],
        seed=train.seed,
        tile_um=tile_um,
        normalization=train.normalization,
    )


def _truth(
    train: TrainingData, fold: Fold
) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.object_]]:
    frames = held_out_frames(train.frames, fold)
    values = [expression_of(frame, train.genes, train.normalization) for frame in frames.values()]
    sizes = [len(part) for part in values]
    slides = np.repeat(np.arange(len(values)), sizes)
    owners = np.array([_patient_or_slide(name, frame) for name, frame in frames.items()], object)
    return np.concatenate(values), slides, np.repeat(owners, sizes)


def _patient_or_slide(name: str, frame: SpotFrame) -> str:
    """Name the patient; a slide whose patient is not known is a patient of its own."""
    return patient_of(frame) or f"slide {name}"


class _Chosen:
    """A predictor that says how it was chosen."""

    def __init__(self, predictor: Predictor, note: str) -> None:
        self.predictor = predictor
        self.note = note

    def __call__(self, test: TestData) -> NDArray[np.floating]:
        return self.predictor(test)


def _in_words(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {score:.3f}" for name, score in scores.items())
