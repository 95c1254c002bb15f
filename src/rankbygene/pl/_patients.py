"""Values of patients brought into one order: outcomes, risks, groups."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from rankbygene._names import class_order, label_texts
from rankbygene.errors import InputValueError
from rankbygene.metrics._censoring import read_outcome
from rankbygene.metrics._inputs import as_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Missing values in an array of text.
_MISSING_TEXTS = frozenset({"nan", "NaN", "<NA>", "NaT"})


def align_patients(**columns: Any) -> dict[str, Any]:
    """Bring columns ``[n]`` into the order of the first; those that are None stay away.

    Series are joined by their index. Arrays have no names, so that they go together with Series
    only where these number their rows from 0.

    Raises
    ------
    InputValueError
        Series and arrays are mixed, or the indices repeat a name or name different patients.
    """
    given = {name: values for name, values in columns.items() if values is not None}
    named = {name: _series(values, name) for name, values in given.items() if _has_index(values)}
    if not named:
        return given
    first, leader = next(iter(named.items()))
    if all(values.index.equals(leader.index) for values in named.values()):
        _check_mixture(given, named)
        return given
    if len(named) < len(given):
        bare = ", ".join(name for name in given if name not in named)
        msg = (
            f"{', '.join(named)} are Series of different index and {bare} is none, so that nobody knows "
            "which values belong together; pass Series for all, or arrays in one order"
        )
        raise InputValueError(msg)
    keys = {name: _keys(values, name) for name, values in named.items()}
    for name, key in keys.items():
        if set(key) != set(keys[first]):
            lost = [label for label in keys[first] if label not in set(key)]
            extra = [label for label in key if label not in set(keys[first])]
            msg = (
                f"{first} and {name} are Series of different patients: {len(lost)} are only in {first} "
                f"({lost[:3]}), {len(extra)} only in {name} ({extra[:3]}); select the same ones"
            )
            raise InputValueError(msg)
    return {
        name: values.iloc[pd.Index(keys[name]).get_indexer(pd.Index(keys[first]))]
        for name, values in named.items()
    }


def read_survival(time: Any, event: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read times above 0, and whether the event was seen at each.

    Raises
    ------
    InputTypeError, InputValueError
        As for :func:`rankbygene.metrics.logrank`, or a time is 0.
    """
    times, events = read_outcome(time, event)
    if not (times > 0).all():
        msg = f"time holds {int((times <= 0).sum())} values that are not above 0; correct them"
        raise InputValueError(msg)
    return times, events


def read_numbers(values: Any, name: str, n: int) -> NDArray[np.float64]:
    """Read one number per patient, NaN where there is none.

    Raises
    ------
    InputTypeError, InputValueError
        There are no numbers, not one per patient, or none at all.
    """
    numbers = as_matrix(values, name)
    if numbers.shape != (n, 1):
        msg = (
            f"{name} has the shape {np.shape(values)}; one value for each of {n} patients is needed"
        )
        raise InputValueError(msg)
    if np.isnan(numbers).all():
        msg = f"{name} is missing for all {n} patients; predict them first"
        raise InputValueError(msg)
    return numbers[:, 0]


def read_groups(values: Any, n: int) -> tuple[NDArray[np.object_], list[str]]:
    """Read the group of each patient, None where there is none, and the groups in order.

    Raises
    ------
    InputTypeError, InputValueError
        A group is neither text nor a number, there is not one per patient, or none at all.
    """
    if np.ndim(values) != 1 or len(values) != n:
        msg = (
            f"groups has the shape {np.shape(values)}; one value for each of {n} patients is needed"
        )
        raise InputValueError(msg)
    texts = label_texts(values, "groups")
    texts[[text in _MISSING_TEXTS for text in texts]] = None
    kinds = class_order(values, texts)
    if not kinds:
        msg = f"groups is missing for all {n} patients; name their groups"
        raise InputValueError(msg)
    return texts, kinds


def equal_groups(values: NDArray[np.float64], n_groups: int) -> NDArray[np.int64]:
    """Cut values into ``n_groups`` of nearly equal size, ``[n]`` from 0 on.

    Equal values stay together: they go where the middle of them falls. A group may be empty then.
    """
    twice_rank = np.rint(2 * rankdata(values)).astype(np.int64)
    return np.asarray(((twice_rank - 1) * n_groups - 1) // (2 * len(values)))


def leave_out(known: NDArray[np.bool_], what: str) -> str:
    """Warn of patients who are not drawn, and give the note for the picture."""
    n_lost = int((~known).sum())
    if not n_lost:
        return ""
    msg = f"{n_lost} of {len(known)} patients have no {what} and are left out"
    warnings.warn(msg, UserWarning, stacklevel=3)
    return f"{n_lost} without {what} left out"


def _has_index(values: Any) -> bool:
    return isinstance(values, (pd.Series, pd.DataFrame))


def _series(values: Any, name: str) -> pd.Series[Any]:
    if isinstance(values, pd.Series):
        return values
    if values.shape[1] != 1:
        msg = f"{name} is a table of {values.shape[1]} columns; pass one of them"
        raise InputValueError(msg)
    column: pd.Series[Any] = values.iloc[:, 0]
    return column


def _check_mixture(given: Mapping[str, Any], named: Mapping[str, pd.Series[Any]]) -> None:
    index = next(iter(named.values())).index
    if len(named) < len(given) and not index.equals(pd.RangeIndex(len(index))):
        bare = ", ".join(name for name in given if name not in named)
        msg = (
            f"{', '.join(named)} have an index and {bare} has none, so that nobody knows which values "
            "belong together; pass Series for all, or arrays in one order (`.to_numpy()`)"
        )
        raise InputValueError(msg)


def _keys(values: pd.Series[Any], name: str) -> list[str]:
    keys = label_texts(values.index, f"the index of {name}").tolist()
    if None in keys or len(set(keys)) < len(keys):
        msg = (
            f"the index of {name} repeats or lacks names, so that it cannot be joined to the others; "
            "give each patient one row"
        )
        raise InputValueError(msg)
    return list(keys)
