"""Ridge regression with a penalty that whole patients, slides or blocks choose."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rankbygene.errors import InputValueError

__all__ = ["RIDGE_PENALTIES", "Linear", "fit_ridge"]

Folds: TypeAlias = Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]

RIDGE_PENALTIES = np.logspace(-2, 7, 19)
# A column whose spread is less than this share of the usual one is a constant that happens to move:
# scaled to unit variance, it would move by thousands on the next slide.
_LEAST_SPREAD = 0.01


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear map of many inputs to many targets.

    Attributes
    ----------
    weight, bias
        ``[n_targets, n_inputs]`` and ``[n_targets]``.
    penalty
        What the map was fitted with, on inputs of unit variance.
    errors
        For each penalty of the grid the mean squared error on what was left out, in units of the
        targets' variance. NaN where nothing could be left out.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    penalty: float
    errors: NDArray[np.float64]

    def __call__(self, inputs: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map ``[n, n_inputs]`` to ``[n, n_targets]``."""
        mapped: NDArray[np.float64] = inputs.astype(np.float64) @ self.weight.T + self.bias
        return mapped


def fit_ridge(
    inputs: NDArray[np.floating],
    targets: NDArray[np.floating],
    folds: Folds,
    *,
    n_components: int | None = None,
    penalties: NDArray[np.float64] = RIDGE_PENALTIES,
) -> Linear:
    """Fit a ridge regression, its penalty chosen on rows that are left out in groups.

    Inputs are scaled to unit variance, but for those that hardly vary. Of each fold and each set of
    rows that have a target, one eigendecomposition serves all penalties. All targets share one
    penalty; each counts the same.

    Parameters
    ----------
    inputs
        ``[n, n_inputs]``.
    targets
        ``[n, n_targets]``, NaN where one was not measured; such rows take no part in its fit.
    folds
        Pairs of rows to fit on and rows to judge on, see :class:`rankbygene.data.splits._row_groups.RowGroups`.
    n_components
        Largest number of principal components of the scaled inputs to regress on.
    penalties
        To choose from, in increasing order.

    Raises
    ------
    InputValueError
        There are fewer than two rows, or a target was measured nowhere.

    Warns
    -----
    UserWarning
        The best penalty is the smallest or the largest one, or nothing could be left out; it is then
        the number of rows.
    """
    x, y = inputs.astype(np.float64), targets.astype(np.float64)
    known = ~np.isnan(y)
    if len(x) < 2 or not known.any(axis=0).all():
        msg = (
            f"a regression needs at least two spots and every gene measured in one; found {len(x)} "
            f"spots, and {int((~known.any(axis=0)).sum())} genes that were not measured"
        )
        raise InputValueError(msg)
    center, scale = x.mean(0), _spread(x)
    x = (x - center) / scale
    axes = _axes(x, n_components)
    if axes is not None:
        x = x @ axes
    errors = _errors(x, y, known, folds, penalties)
    penalty = _choose(errors, penalties, len(x))
    weight = np.empty((y.shape[1], x.shape[1]))
    bias = np.empty(y.shape[1])
    for rows, columns in _patterns(known):
        fit = _Decomposed(x[rows], y[np.ix_(rows, columns)])
        weight[columns] = fit.weights(penalty).T
        bias[columns] = fit.mean_y - weight[columns] @ fit.mean_x
    if axes is not None:
        weight = weight @ axes.T
    weight = weight / scale
    return Linear(weight, bias - weight @ center, penalty, errors)


def _spread(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of each column, but not much less than usual."""
    spread: NDArray[np.float64] = x.std(0)
    least = _LEAST_SPREAD * float(np.sqrt(np.mean(spread**2)))
    return np.maximum(spread, least) if least > 0 else np.ones_like(spread)


def _axes(x: NDArray[np.float64], n_components: int | None) -> NDArray[np.float64] | None:
    """Directions of most variance ``[n_inputs, n]``; None where all are kept, which changes nothing."""
    if n_components is None or x.shape[1] <= n_components:
        return None
    centered = x - x.mean(0)
    if len(x) < x.shape[1]:
        _, _, directions = np.linalg.svd(centered, full_matrices=False)
        return np.ascontiguousarray(directions[:n_components].T)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    return np.ascontiguousarray(vectors[:, ::-1][:, :n_components])


class _Decomposed:
    """Rows and their targets, ready to be regressed with any penalty."""

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        self.mean_x, self.mean_y = x.mean(0), y.mean(0)
        centered = x - self.mean_x
        values, self._vectors = np.linalg.eigh(centered.T @ centered)
        # Rounding makes small ones negative.
        self._values = np.maximum(values, 0)
        self._projected = self._vectors.T @ (centered.T @ (y - self.mean_y))

    def weights(self, penalty: float) -> NDArray[np.float64]:
        """Weights ``[n_inputs, n_targets]``."""
        weights: NDArray[np.float64] = self._vectors @ (
            self._projected / (self._values + penalty)[:, None]
        )
        return weights

    def errors(
        self, x: NDArray[np.float64], y: NDArray[np.float64], penalties: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Mean squared errors on other rows ``[n_penalties, n_targets]``."""
        rotated, residual = (x - self.mean_x) @ self._vectors, y - self.mean_y
        return np.stack(
            [
                np.mean(
                    (residual - rotated @ (self._projected / (self._values + penalty)[:, None]))
                    ** 2,
                    axis=0,
                )
                for penalty in penalties
            ]
        )


def _errors(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    known: NDArray[np.bool_],
    folds: Folds,
    penalties: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean error of each penalty over folds, in units of each target's variance."""
    variance = np.nanvar(y, axis=0)
    by_fold = []
    for fit_rows, held_rows in folds:
        parts = []
        for rows, columns in _patterns(known):
            columns = columns[variance[columns] > 0]
            fit, held = fit_rows[rows[fit_rows]], held_rows[rows[held_rows]]
            if len(fit) > 1 and len(held) and len(columns):
                decomposed = _Decomposed(x[fit], y[np.ix_(fit, columns)])
                found = decomposed.errors(x[held], y[np.ix_(held, columns)], penalties)
                parts.append(found / variance[columns])
        if parts:
            by_fold.append(np.concatenate(parts, axis=1).mean(axis=1))
    return np.mean(by_fold, axis=0) if by_fold else np.full(len(penalties), np.nan)


def _patterns(
    known: NDArray[np.bool_],
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """Sets of rows, and the targets that were measured in just these."""
    patterns, of_target = np.unique(known, axis=1, return_inverse=True)
    for i in range(patterns.shape[1]):
        yield patterns[:, i], np.flatnonzero(of_target.ravel() == i)


def _choose(errors: NDArray[np.float64], penalties: NDArray[np.float64], n_rows: int) -> float:
    if np.isnan(errors).all():
        text = (
            "no patient, slide or block could be left out to choose the penalty of a ridge regression; "
            f"it is the number of spots, {n_rows}"
        )
        warnings.warn(text, UserWarning, stacklevel=4)
        return float(n_rows)
    best = int(np.nanargmin(errors))
    if best in (0, len(penalties) - 1):
        text = (
            f"the penalty of a ridge regression was chosen at the end of its grid ({penalties[best]:g}"
            f" of {penalties[0]:g} to {penalties[-1]:g}): "
            + (
                "what is left out is predicted best by the mean, so that its scores are those of noise"
                if best
                else "the features predict what is left out almost without error"
            )
        )
        warnings.warn(text, UserWarning, stacklevel=4)
    return float(penalties[best])
