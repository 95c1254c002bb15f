"""What every score accepts, and how scores within groups become one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from rankbygene.errors import InputTypeError, InputValueError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Score = Callable[..., "NDArray[np.float64]"]
Average = Literal["patients", "slides", "pooled"]


def as_matrix(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Read values as float64 ``[n_spots, n_columns]``; one dimension is one column.

    Raises
    ------
    InputTypeError
        If the values are not numbers.
    InputValueError
        If there are more than two dimensions, no spot, or an infinite value.
    """
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"{name} does not hold numbers but {type(values).__name__}; pass a dense array"
        raise InputTypeError(msg) from error
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2 or matrix.shape[0] == 0:
        msg = f"{name} has the shape {matrix.shape}; [n_spots, n_columns] with spots is needed"
        raise InputValueError(msg)
    if np.isinf(matrix).any():
        msg = f"{name} holds {np.isinf(matrix).sum()} infinite values; NaN marks a missing value"
        raise InputValueError(msg)
    return matrix


def as_pair(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    names: tuple[str, str] = ("y_true", "y_pred"),
    **labels: ArrayLike | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read two matrices of one shape; a value missing in one is missing in both.

    ``labels`` are those of their rows, such as the slides.

    Raises
    ------
    InputValueError
        If the shapes differ, both are tables whose rows or columns have different names, or labels
        are named as other rows are.
    """
    check_same_names(y_true, y_pred, names)
    check_same_rows(**{names[0]: y_true, names[1]: y_pred}, **labels)
    true, pred = as_matrix(y_true, names[0]), as_matrix(y_pred, names[1])
    if true.shape != pred.shape:
        msg = f"{names[0]} has the shape {true.shape} and {names[1]} {pred.shape}; they have to be equal"
        raise InputValueError(msg)
    missing = np.isnan(true) | np.isnan(pred)
    return np.where(missing, np.nan, true), np.where(missing, np.nan, pred)


def check_same_names(first: ArrayLike, second: ArrayLike, names: tuple[str, str]) -> None:
    """Check that two tables, where both are, name their rows and columns alike.

    Raises
    ------
    InputValueError
        If they do not.
    """
    for axis in ("index", "columns"):
        found = getattr(first, axis, None), getattr(second, axis, None)
        # lists have a method called index
        labelled = all(hasattr(labels, "tolist") for labels in found)
        if labelled and found[0].tolist() != found[1].tolist():  # type: ignore[union-attr]
            msg = f"{names[0]} and {names[1]} are tables with different {axis}; reindex one like the other"
            raise InputValueError(msg)


def check_same_rows(**columns: ArrayLike | None) -> None:
    """Check that columns which are Series or tables name the same rows in the same order.

    Raises
    ------
    InputValueError
        They do not: values would be taken of different rows.
    """
    named = {
        name: values.index
        for name, values in columns.items()
        if isinstance(values, (pd.Series, pd.DataFrame))
    }
    first = next(iter(named), "")
    for name, index in named.items():
        if not index.equals(named[first]):
            msg = (
                f"{first} and {name} have different rows, or the same in another order; bring them into "
                f"one (`{name}.loc[{first}.index]`), or pass arrays"
            )
            raise InputValueError(msg)


def as_features(
    first: ArrayLike, second: ArrayLike, names: tuple[str, str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read two complete matrices about the same spots.

    Raises
    ------
    InputValueError
        If the numbers of spots differ or a value is missing.
    """
    matrices = as_matrix(first, names[0]), as_matrix(second, names[1])
    if len(matrices[0]) != len(matrices[1]):
        msg = (
            f"{names[0]} has {len(matrices[0])} spots and {names[1]} {len(matrices[1])}; "
            "they have to be the same spots"
        )
        raise InputValueError(msg)
    for matrix, name in zip(matrices, names, strict=True):
        if np.isnan(matrix).any():
            msg = f"{name} holds {np.isnan(matrix).sum()} NaN values; leave those spots out"
            raise InputValueError(msg)
    return matrices


def mean_over_groups(
    score: Score,
    arrays: tuple[NDArray[Any], ...],
    groups: ArrayLike | None,
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    """Score every slide on its own, average slides within each patient, then the patients.

    Means are over the slides, or patients, where the score exists.

    Parameters
    ----------
    score
        Called with the rows of one slide of each array; returns one number per gene.
    arrays
        Arrays with one row per spot.
    groups, patients
        Slide and patient of each spot.
    average
        The last step: ``"pooled"`` takes all spots as one slide, ``"slides"`` averages slides,
        ``"patients"`` their patients. None: as far as labels are given.

    Raises
    ------
    InputValueError
        If there is not one label per spot, a label that ``average`` needs is missing, or a slide
        belongs to several patients.
    """
    level = _level(groups, patients, average)
    n_rows = len(arrays[0])
    codes = np.zeros(n_rows, dtype=np.int64) if groups is None else group_codes(groups, n_rows)
    if level == "pooled":
        return score(*arrays)
    per_slide = np.stack(
        [score(*(array[codes == i] for array in arrays)) for i in range(codes.max() + 1)]
    )
    if patients is None or level == "slides":
        return nanmean(per_slide)
    owners = _patient_of_slide(codes, group_codes(patients, n_rows, "patients"))
    return nanmean(np.stack([nanmean(per_slide[owners == i]) for i in range(owners.max() + 1)]))


def _level(
    groups: ArrayLike | None, patients: ArrayLike | None, average: Average | None
) -> Average:
    given: list[Average] = ["pooled"]
    if groups is not None:
        given.append("slides")
        if patients is not None:
            given.append("patients")
    elif patients is not None:
        msg = "patients are given without groups; pass the slide of each spot as groups"
        raise InputValueError(msg)
    if average is None:
        return given[-1]
    if average not in given:
        msg = (
            f"average is {average!r}; with the labels given, allowed are "
            f"{', '.join(map(repr, given))}: slides need groups, patients need groups and patients"
        )
        raise InputValueError(msg)
    return average


def _patient_of_slide(slides: NDArray[np.int64], patients: NDArray[np.int64]) -> NDArray[np.int64]:
    pairs = np.unique(np.column_stack([slides, patients]), axis=0)
    if len(pairs) > slides.max() + 1:
        msg = f"{len(pairs) - slides.max() - 1} slides in groups belong to several patients; check both"
        raise InputValueError(msg)
    return pairs[:, 1]


def group_codes(groups: ArrayLike, n_rows: int, name: str = "groups") -> NDArray[np.int64]:
    """Number the groups of rows from 0 on, in the order of their sorted names.

    Raises
    ------
    InputValueError
        If there is not one group per row.
    """
    labels = as_labels(groups, name)
    if len(labels) != n_rows:
        msg = f"{name} has the shape {labels.shape}; one value for each of {n_rows} spots is needed"
        raise InputValueError(msg)
    names = labels.astype(str) if labels.dtype == object else labels
    codes: NDArray[np.int64] = np.unique(names, return_inverse=True)[1]
    return codes


def as_labels(values: ArrayLike, name: str) -> NDArray[Any]:
    """Read one label per row.

    Raises
    ------
    InputValueError
        If there is not one dimension, no row, or a label is missing.
    """
    labels: NDArray[Any] = np.asarray(values)
    if labels.ndim != 1 or labels.size == 0:
        msg = f"{name} has the shape {labels.shape}; one value per row is needed"
        raise InputValueError(msg)
    # As objects, since numpy makes the text "nan" of a NaN among texts.
    if n_missing := int(np.sum(pd.isna(np.asarray(values, dtype=object)))):
        msg = f"{name} holds {n_missing} missing values; leave those rows out"
        raise InputValueError(msg)
    return labels


def value_range(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest minus smallest value of each column; minus infinity where none is known."""
    high = np.where(np.isnan(values), -np.inf, values).max(axis=0)
    low = np.where(np.isnan(values), np.inf, values).min(axis=0)
    return np.asarray(high - low)


def varies(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which columns have two different values, without the rounding of a mean."""
    return value_range(values) > 0


def divide(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], where: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Divide where a score exists; NaN elsewhere."""
    result: NDArray[np.float64] = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=result, where=where)


def nanmean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis of the values that exist; NaN where none does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        means: NDArray[np.float64] = np.nanmean(values, axis=0)
    return means
