"""What every score accepts, and how scores within groups become one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene.errors import InputTypeError, InputValueError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Score = Callable[["NDArray[np.float64]", "NDArray[np.float64]"], "NDArray[np.float64]"]


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
    y_true: ArrayLike, y_pred: ArrayLike, names: tuple[str, str] = ("y_true", "y_pred")
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read two matrices of one shape; a value missing in one is missing in both.

    Raises
    ------
    InputValueError
        If the shapes differ, or both are tables whose rows or columns have different names.
    """
    for axis in ("index", "columns"):
        names_true, names_pred = getattr(y_true, axis, None), getattr(y_pred, axis, None)
        # lists have a method called index
        labelled = hasattr(names_true, "tolist") and hasattr(names_pred, "tolist")
        if labelled and names_true.tolist() != names_pred.tolist():  # type: ignore[union-attr]
            msg = f"{names[0]} and {names[1]} are tables with different {axis}; reindex one like the other"
            raise InputValueError(msg)
    true, pred = as_matrix(y_true, names[0]), as_matrix(y_pred, names[1])
    if true.shape != pred.shape:
        msg = f"{names[0]} has the shape {true.shape} and {names[1]} {pred.shape}; they have to be equal"
        raise InputValueError(msg)
    missing = np.isnan(true) | np.isnan(pred)
    return np.where(missing, np.nan, true), np.where(missing, np.nan, pred)


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
    true: NDArray[np.float64],
    pred: NDArray[np.float64],
    groups: ArrayLike | None,
) -> NDArray[np.float64]:
    """Score every group of rows on its own and average the groups where the score exists.

    Raises
    ------
    InputValueError
        If there is not one group per spot.
    """
    if groups is None:
        return score(true, pred)
    codes = group_codes(groups, len(true))
    scores = [score(true[codes == i], pred[codes == i]) for i in range(codes.max() + 1)]
    return nanmean(np.stack(scores))


def group_codes(groups: ArrayLike, n_rows: int, name: str = "groups") -> NDArray[np.int64]:
    """Number the groups of rows from 0 on, in the order of their sorted names.

    Raises
    ------
    InputValueError
        If there is not one group per row.
    """
    labels: NDArray[Any] = np.asarray(groups)
    if labels.shape != (n_rows,):
        msg = f"{name} has the shape {labels.shape}; one value for each of {n_rows} spots is needed"
        raise InputValueError(msg)
    names = labels.astype(str) if labels.dtype == object else labels
    codes: NDArray[np.int64] = np.unique(names, return_inverse=True)[1]
    return codes


def nanmean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis of the values that exist; NaN where none does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        means: NDArray[np.float64] = np.nanmean(values, axis=0)
    return means
