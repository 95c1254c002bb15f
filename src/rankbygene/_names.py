"""Names of slides, patients, spots and classes as text: one rule for all joins."""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rankbygene.errors import InputTypeError, InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What becomes of a missing value that somebody turned into text; no patient is called so.
_MISSING_TEXTS = frozenset({"", "nan", "NaN", "<NA>", "None", "NaT"})
# Beyond, a float does not hold every whole number, so that two ids may have become one.
_EXACT = 2**53
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def read_names(values: Any, what: str) -> NDArray[np.object_]:
    """Read ids of slides or patients as text, None where there is none.

    A column of whole numbers becomes one of floats once a row is missing; its ids are whole numbers
    all the same: ``7`` and ``7.0`` are ``"7"``.

    Parameters
    ----------
    values
        One id per row.
    what
        What they are, for messages, such as ``"patients"``.

    Raises
    ------
    InputTypeError
        An id is neither text nor a number.
    InputValueError
        An id is a number with a fraction or of more digits than a float holds; or two ids are
        spellings of one.
    """
    names: list[str | None] = []
    for value in _items(values, what):
        text = None if _is_missing(value) else _text(value, what)
        if text is not None and isinstance(value, numbers.Real) and _is_inexact(value):
            msg = (
                f"{what} hold the number {value!r}, which is no safe name (12.1 and 12.10 are one "
                "number); read that column as text (`dtype=str`)"
            )
            raise InputValueError(msg)
        names.append(text)
    _check_one_spelling({name for name in names if name is not None}, what)
    found: NDArray[np.object_] = np.array([*names, None], dtype=object)[:-1]
    return found


def read_patients(values: Any, what: str) -> NDArray[np.object_]:
    """Read patients as :func:`read_names` does; ``"nan"`` and empty text are no patient.

    Raises
    ------
    InputTypeError, InputValueError
        As for :func:`read_names`.
    """
    names = read_names(values, what)
    for i, name in enumerate(names):
        if name is not None and name.strip() in _MISSING_TEXTS:
            names[i] = None
    return names


def require_names(
    values: Any,
    what: str,
    rows: Iterable[Any] | None = None,
    *,
    read: Callable[[Any, str], NDArray[np.object_]] = read_names,
) -> NDArray[np.object_]:
    """Read ids, by default as :func:`read_names` does, where none may be missing.

    ``rows`` names the rows in the message, by default their numbers from 0 on.

    Raises
    ------
    InputTypeError, InputValueError
        As for :func:`read_names`, or an id is missing.
    """
    names = read(values, what)
    missing = [i for i, name in enumerate(names) if name is None]
    if missing:
        labels = missing if rows is None else [list(rows)[i] for i in missing]
        first = ", ".join(str(label) for label in labels[:5])
        msg = (
            f"{len(missing):,} of {len(names):,} {what} are missing (rows {first}"
            f"{', ...' if len(missing) > 5 else ''}); name each or leave these rows out"
        )
        raise InputValueError(msg)
    return names


def label_texts(values: Any, what: str = "labels") -> NDArray[np.object_]:
    """Read labels of classes or groups as text, None where there is none.

    Numbers may have fractions; whole ones are written without.

    Raises
    ------
    InputTypeError
        A label is neither text nor a number.
    """
    texts = [None if _is_missing(value) else _text(value, what) for value in _items(values, what)]
    found: NDArray[np.object_] = np.array([*texts, None], dtype=object)[:-1]
    return found


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names as a reader would: numbers by value, and ``"grade 2"`` before ``"grade 10"``."""
    unique = sorted(set(names))
    if all(_NUMBER.fullmatch(name) for name in unique):
        return sorted(unique, key=float)
    return sorted(unique, key=_parts)


def class_order(values: Any, texts: Iterable[str]) -> list[str]:
    """Order the classes that occur in ``texts``: as their categories say, else naturally.

    Categories that pandas made have the order of text, which nobody chose.
    """
    present = {text for text in texts if text is not None}
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype):
        given = [str(text) for text in label_texts(dtype.categories)]
        plain = list(dtype.categories)
        if dtype.ordered or not _is_sorted(plain):
            return [name for name in given if name in present]
    return natural_order(present)


def number_text(value: float) -> str:
    """Write a number so that equal numbers, and only those, have one text."""
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < _EXACT else repr(number)


def _items(values: Any, what: str) -> list[Any]:
    if isinstance(values, pd.MultiIndex):
        msg = f"{what} are named by {values.nlevels} columns; one is needed"
        raise InputTypeError(msg)
    items: list[Any] = pd.Series(values, dtype=object).tolist()
    return items


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (isinstance(value, numbers.Real) and bool(np.isnan(float(value))))
    )


def _text(value: Any, what: str) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return number_text(float(value))
    msg = f"{what} hold a {type(value).__name__} ({value!r}); text or numbers are needed"
    raise InputTypeError(msg)


def _is_inexact(value: numbers.Real) -> bool:
    if isinstance(value, numbers.Integral):
        return False
    number = float(value)
    return not number.is_integer() or abs(number) >= _EXACT


def _check_one_spelling(names: set[str], what: str) -> None:
    for name in sorted(names):
        plain = re.sub(r"^([+-]?\d+)\.0+$", r"\1", name.strip())
        if plain != name and plain in names:
            msg = f"{what} hold both {plain!r} and {name!r}; are they one? Write them alike"
            raise InputValueError(msg)


def _is_sorted(values: list[Any]) -> bool:
    try:
        return values == sorted(values)
    except TypeError:
        return False


def _parts(name: str) -> list[Any]:
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]
