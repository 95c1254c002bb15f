"""Scores of models that tell the class of a slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    recall_score,
    roc_auc_score,
)

from rankbygene._arguments import checked
from rankbygene._names import class_order, label_texts
from rankbygene.errors import InputValueError
from rankbygene.metrics._inputs import as_labels, as_matrix, check_same_rows, nanmean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@checked
def balanced_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    r"""Share of slides of a class that are found, averaged over classes.

    .. math:: \frac{1}{C} \sum_c \frac{|\{i : \hat y_i = y_i = c\}|}{|\{i : y_i = c\}|}

    over the classes in ``y_true`` :cite:p:`brodersen2010balanced`. Guessing scores
    :math:`1/C` whatever the sizes of the classes.

    Parameters
    ----------
    y_true, y_pred
        Class of each slide and predicted class, ``[n_slides]``.

    Returns
    -------
    Between 0 and 1; NaN where ``y_true`` holds one class only.

    Raises
    ------
    InputValueError
        If the lengths differ or a label is missing.
    """
    true, pred = _labels(y_true, y_pred)
    if len(np.unique(true)) < 2:
        return float("nan")
    # the mean recall of the classes that are there; a class that is only predicted has none
    return float(recall_score(true, pred, labels=np.unique(true), average="macro"))


@checked
def macro_f1(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    r"""F1 score of each class, averaged over classes with equal weight.

    .. math:: \mathrm{F1}_c = \frac{2 \, \mathrm{TP}_c}
        {2 \, \mathrm{TP}_c + \mathrm{FP}_c + \mathrm{FN}_c}

    over the classes in ``y_true`` or ``y_pred``; a class that is never right scores 0. The mean
    of the F1 scores, not the F1 score of mean precision and recall :cite:p:`opitz2019macro`.

    Parameters
    ----------
    y_true, y_pred
        Class of each slide and predicted class, ``[n_slides]``.

    Returns
    -------
    Between 0 and 1; NaN where ``y_true`` holds one class only.

    Raises
    ------
    InputValueError
        If the lengths differ or a label is missing.
    """
    true, pred = _labels(y_true, y_pred)
    if len(np.unique(true)) < 2:
        return float("nan")
    return float(f1_score(true, pred, average="macro", zero_division=0))


@checked
def auroc(y_true: ArrayLike, y_score: ArrayLike, classes: Sequence[Any] | None = None) -> float:
    """Area under the ROC curve; over several classes the mean of each against the rest.

    The probability that a slide of the class scores above one of another; ties count one half
    :cite:p:`hanley1982auc`.

    Parameters
    ----------
    y_true
        Class of each slide ``[n_slides]``. With two classes the larger label (1, True, the
        larger number, or the later in the alphabet or among its categories) is the positive one, unless
        ``classes`` says otherwise.
    y_score
        Score of the positive class ``[n_slides]``, or of each class ``[n_slides, n_classes]``.
    classes
        The classes in the order of the columns, or ``(negative, positive)``. By default as the columns
        of a table are named (``probability_<class>``), else those in ``y_true``, sorted.

    Returns
    -------
    Between 0 and 1; 0.5 is chance. A class without slides, or with all of them, is left out; NaN
    where none is left.

    Raises
    ------
    InputValueError
        If the shapes or classes do not fit, or a value is missing.
    InputTypeError
        If the scores are not numbers.
    """
    return _one_against_rest(roc_auc_score, y_true, y_score, classes)


@checked
def auprc(y_true: ArrayLike, y_score: ArrayLike, classes: Sequence[Any] | None = None) -> float:
    r"""Average precision; over several classes the mean of each against the rest.

    .. math:: \mathrm{AP} = \sum_n (R_n - R_{n-1}) P_n

    over the thresholds of the score, without interpolation, which flatters
    :cite:p:`davis2006precision`. Chance is the share of positive slides: compare equal data only.

    Parameters
    ----------
    y_true, y_score, classes
        As in :func:`auroc`.

    Returns
    -------
    Between 0 and 1. A class without slides, or with all of them, is left out; NaN where none is
    left.

    Raises
    ------
    InputValueError, InputTypeError
        As in :func:`auroc`.
    """
    return _one_against_rest(average_precision_score, y_true, y_score, classes)


def _one_against_rest(
    score: Callable[..., float],
    y_true: ArrayLike,
    y_score: ArrayLike,
    classes: Sequence[Any] | None,
) -> float:
    check_same_rows(y_true=y_true, y_score=y_score)
    true, scores = as_labels(y_true, "y_true"), as_matrix(y_score, "y_score")
    if len(scores) != len(true) or np.isnan(scores).any():
        msg = (
            f"y_score has {len(scores)} rows, {int(np.isnan(scores).any(axis=1).sum())} of them "
            f"with NaN; one complete row for each of {len(true)} slides is needed"
        )
        raise InputValueError(msg)
    columns = _columns(true, scores, _class_names(y_true, true, y_score, classes))
    values = [np.nan]
    for name, column in columns:
        positive = true == name
        if positive.any() and not positive.all():
            values.append(float(score(positive, column)))
    return float(nanmean(np.array(values)))


def _columns(
    true: NDArray[Any], scores: NDArray[np.float64], names: list[Any]
) -> list[tuple[Any, NDArray[np.float64]]]:
    """Pair each class that is scored with its scores."""
    found = np.unique(true).tolist()
    if unknown := [name for name in found if name not in names]:
        msg = f"y_true holds {unknown[0]!r}, which is not among classes {names}"
        raise InputValueError(msg)
    if scores.shape[1] > 1:
        if len(names) != scores.shape[1]:
            msg = f"y_score has {scores.shape[1]} columns for {len(names)} classes; pass classes"
            raise InputValueError(msg)
        return list(zip(names, scores.T, strict=True))
    if len(names) > 2:
        msg = f"y_score has one column for {len(names)} classes; one for each class is needed"
        raise InputValueError(msg)
    return [(names[-1], scores[:, 0])]


def _class_names(
    y_true: ArrayLike, true: NDArray[Any], y_score: ArrayLike, classes: Sequence[Any] | None
) -> list[Any]:
    """Classes in the order of the columns: as asked, as a table names them, else in their order."""
    if classes is not None:
        return list(classes)
    named = dict(zip(label_texts(true).tolist(), true.tolist(), strict=True))
    if isinstance(y_score, pd.DataFrame) and y_score.shape[1] > 1:
        columns = [str(name).removeprefix("probability_") for name in y_score.columns]
        if set(named) <= set(columns):
            return [named.get(name, name) for name in columns]
    return [named[name] for name in class_order(y_true, named)]


def _labels(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    check_same_rows(y_true=y_true, y_pred=y_pred)
    true, pred = as_labels(y_true, "y_true"), as_labels(y_pred, "y_pred")
    if true.shape != pred.shape:
        msg = f"y_true has {len(true)} slides and y_pred {len(pred)}; they have to be the same"
        raise InputValueError(msg)
    return true, pred
