"""Right-censored times: how they are read, and how censoring is weighed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.metrics._inputs import as_matrix, check_same_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Censoring:
    """Kaplan-Meier estimate of the probability of staying uncensored.

    Parameters
    ----------
    times, events
        The data that are scored.
    train_time, train_event
        The data to estimate from; None for those that are scored.

    Raises
    ------
    InputValueError
        If one of the last two is given alone, or holds what a time or an event cannot be.
    """

    def __init__(
        self,
        times: NDArray[np.float64],
        events: NDArray[np.bool_],
        train_time: ArrayLike | None,
        train_event: ArrayLike | None,
    ) -> None:
        if (train_time is None) != (train_event is None):
            msg = "train_time and train_event belong together; pass both or none"
            raise InputValueError(msg)
        if train_time is not None and train_event is not None:
            times, events = read_outcome(train_time, train_event, "train_")
        self._moments = np.unique(times[~events])
        n_censored = np.array([np.sum(~events & (times == t)) for t in self._moments])
        # whoever has the event at that time cannot be censored any more
        n_at_risk = np.array([np.sum(times >= t) for t in self._moments])
        n_events = np.array([np.sum(events & (times == t)) for t in self._moments])
        steps = 1 - n_censored / np.maximum(n_at_risk - n_events, 1)
        self._survival = np.concatenate([[1.0], np.cumprod(steps)])
        self._last = times.max()

    def before(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of being uncensored until just before each time."""
        return self._at(times, "left")

    def after(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of being uncensored beyond each time."""
        return self._at(times, "right")

    def _at(
        self, times: NDArray[np.float64], side: Literal["left", "right"]
    ) -> NDArray[np.float64]:
        survival = self._survival[np.searchsorted(self._moments, times, side=side)]
        if n_unknown := int(np.sum(survival <= 0)):
            msg = (
                f"{n_unknown} times lie where nobody was followed any more (last follow-up: "
                f"{self._last:g}); choose earlier times or a smaller tau"
            )
            raise InputValueError(msg)
        return np.asarray(survival)


def read_outcome(
    time: ArrayLike, event: ArrayLike, prefix: str = ""
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read times, and whether each ends with the event.

    Raises
    ------
    InputValueError
        If the lengths differ, a value is missing, a time is negative, or an event is not 0 or 1.
    """
    check_same_rows(**{f"{prefix}time": time, f"{prefix}event": event})
    times = complete_column(time, f"{prefix}time")
    events = read_flags(event, f"{prefix}event", len(times), ("seen", "censored"))
    if (times < 0).any():
        msg = f"{prefix}time holds {(times < 0).sum()} negative values; time since the start is needed"
        raise InputValueError(msg)
    return times, events


def read_flags(
    values: ArrayLike, name: str, n_rows: int | None, meaning: tuple[str, str] = ("yes", "no")
) -> NDArray[np.bool_]:
    """Read whether something holds, coded as bool or as 1 and 0.

    Raises
    ------
    InputTypeError
        There is text.
    InputValueError
        The shape does not fit, a value is missing, or the code is another.
    """
    texts = [value for value in np.ravel(np.asarray(values, object)) if isinstance(value, str)]
    yes, no = meaning
    needed = f"True or 1 ({yes}) and False or 0 ({no}) are needed"
    if texts:
        msg = f"{name} holds text ({texts[0]!r}); {needed}, such as `{name} == {texts[0]!r}`"
        raise InputTypeError(msg)
    flags = complete_column(values, name, n_rows)
    if not np.isin(flags, (0, 1)).all():
        found = np.unique(flags)
        msg = f"{name} holds {found[:5].tolist()}; {needed}, such as `{name} == {found[-1]:g}`"
        raise InputValueError(msg)
    return flags.astype(bool)


def complete_column(values: ArrayLike, name: str, n_rows: int | None = None) -> NDArray[np.float64]:
    """Read one number per row, none missing.

    Raises
    ------
    InputValueError
        If the shape does not fit or a value is missing.
    """
    if isinstance(values, pd.Series) and pd.api.types.is_extension_array_dtype(values.dtype):
        # Nullable columns: numpy would not know what to make of a missing value.
        values = np.array([np.nan if pd.isna(value) else value for value in values], object)
    return complete_matrix(values, name, n_rows, 1)[:, 0]


def complete_matrix(
    values: ArrayLike, name: str, n_rows: int | None, n_columns: int
) -> NDArray[np.float64]:
    """Read a matrix of a given shape, no value missing.

    Raises
    ------
    InputValueError
        If the shape does not fit or a value is missing.
    """
    matrix = as_matrix(values, name)
    if np.isnan(matrix).any():
        msg = f"{name} holds {np.isnan(matrix).sum()} NaN values; leave those patients out"
        raise InputValueError(msg)
    expected = (len(matrix) if n_rows is None else n_rows, n_columns)
    if matrix.shape != expected:
        msg = f"{name} has the shape {matrix.shape}; {expected} is needed"
        raise InputValueError(msg)
    return matrix
