"""One validator per kind of argument: each gives the plain value, or says what is wrong with it.

What comes out is made of Python's own types, so that files, tables and comparisons never meet a scalar
of NumPy. Every message says what was found, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
import inspect
import numbers
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rankbygene.errors import InputKeyError, InputTypeError, InputValueError

T = TypeVar("T")

# Larger counts are a mistake, and more than several libraries below can hold.
LARGEST = 2**31 - 1
N_SEEDS = 2**32


def check_whole(
    value: object, name: str, *, at_least: int | None = None, at_most: int = LARGEST
) -> int:
    """Return a whole number. Booleans and floats are none, whatever they are equal to."""
    if _is_bool(value) or _is_many(value) or not hasattr(value, "__index__"):
        raise _wrong_type(name, value, f"a whole number{_range(at_least, None, at_most, None)}")
    try:
        number = value.__index__()
    except (TypeError, ValueError) as error:
        raise _wrong_type(name, value, "a whole number") from error
    if (at_least is not None and number < at_least) or number > at_most:
        raise _wrong_value(name, number, f"a whole number{_range(at_least, None, at_most, None)}")
    return int(number)


def check_real(
    value: object,
    name: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> float:
    """Return a finite number inside its bounds. Booleans are none."""
    wanted = f"a number{_range(at_least, above, at_most, below)}"
    if _is_bool(value) or _is_many(value) or not _is_real(value):
        raise _wrong_type(name, value, wanted)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong_type(name, value, wanted) from error
    inside = (
        np.isfinite(number)
        and (at_least is None or number >= at_least)
        and (above is None or number > above)
        and (at_most is None or number <= at_most)
        and (below is None or number < below)
    )
    if not inside:
        raise _wrong_value(name, number, wanted)
    return number


def check_flag(value: object, name: str) -> bool:
    """Return True or False. Numbers and texts are neither."""
    if not _is_bool(value) or _is_many(value):
        raise _wrong_type(name, value, "True or False")
    return bool(value)


def check_text(value: object, name: str) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str):
        raise _wrong_type(name, value, "a text")
    if not value.strip():
        raise _wrong_value(name, value, "a text that is not empty")
    return str(value)


def check_choice(value: object, name: str, allowed: Collection[T]) -> T:
    """Return the one of ``allowed`` that was asked for: texts, whole numbers, flags or None."""
    plain = value.item() if isinstance(value, np.generic) else value
    for option in allowed:
        if plain is option or (_same_kind(plain, option) and plain == option):
            return option
    options = ", ".join(repr(option) for option in allowed)
    texts = [option for option in allowed if isinstance(option, str)]
    if isinstance(plain, str):
        msg = f"{name}={_shown(value)} is not known; choose from {options}{_nearest(plain, texts)}"
        raise InputValueError(msg)
    kinds_match = any(_same_kind(plain, option) for option in allowed)
    raise (_wrong_value if kinds_match else _wrong_type)(name, value, f"one of {options}")


def check_optional(check: Callable[..., T], value: object, name: str, **bounds: Any) -> T | None:
    """Return None where nothing was given, else what ``check`` returns."""
    return None if value is None else check(value, name, **bounds)


def check_seed(value: object, name: str = "seed") -> int:
    """Return a number that every generator of random numbers takes."""
    return check_whole(value, name, at_least=0, at_most=N_SEEDS - 1)


def check_path(value: object, name: str) -> Path:
    """Return a path; whether something is there is another question."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise _wrong_type(name, value, "a path: a text or a pathlib.Path")
    text = os.fspath(value)
    if not text.strip() or "\0" in text:
        raise _wrong_value(name, value, "a path that is not empty")
    return Path(text)


def check_key(value: object, name: str) -> str:
    """Return a name that can be written into a table and into a store of SpatialData."""
    key = check_text(value, name)
    fits = all(letter.isalnum() or letter in "_-." for letter in key)
    if not fits or key.startswith((".", "__")):
        msg = (
            f"{name}={_shown(value)} cannot be stored; use letters, digits, '_', '-' and '.', and begin "
            "with neither '.' nor '__'"
        )
        raise InputValueError(msg)
    return key


def check_list(value: object, name: str, of: str = "values") -> list[Any]:
    """Return the elements of a list, tuple, array, Series or Index of one dimension.

    A text is no list of its letters, a set has no order, and a generator can be read only once.
    """
    if isinstance(value, np.ndarray) or hasattr(value, "to_numpy"):
        array = np.asarray(value)
        if array.ndim == 1:
            return list(array.tolist())
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return list(value)
    raise _wrong_type(name, value, f"a list of {of}")


def check_list_of(
    check: Callable[..., T],
    value: object,
    name: str,
    *,
    of: str = "values",
    unique: bool = False,
    min_length: int = 0,
    **bounds: Any,
) -> list[T]:
    """Return a list, each of whose elements ``check`` accepts."""
    found = [
        check(element, f"{name}[{i}]", **bounds)
        for i, element in enumerate(check_list(value, name, of))
    ]
    if len(found) < min_length:
        least = f"at least {min_length} of the {of}"
        raise _wrong_value(name, value, least)
    if unique:
        _check_unique(found, name)
    return found


def check_texts(
    value: object, name: str, *, of: str = "names", unique: bool = True, min_length: int = 1
) -> list[str]:
    """Return a list of texts, by default without repetition and not empty."""
    return check_list_of(check_text, value, name, of=of, unique=unique, min_length=min_length)


def check_mapping(value: object, name: str, of: str = "{name: value}") -> dict[str, Any]:
    """Return a mapping by names as a dict."""
    if not isinstance(value, Mapping):
        raise _wrong_type(name, value, f"a mapping {of}")
    for key in value:
        if not isinstance(key, str):
            msg = f"{name} maps names; found the key {_shown(key)}; use texts"
            raise InputTypeError(msg)
    return {str(key): element for key, element in value.items()}


def check_keywords(
    value: object, name: str, allowed: Callable[..., Any] | Iterable[str]
) -> dict[str, Any]:
    """Return keyword arguments, all of which ``allowed`` takes.

    Parameters
    ----------
    value
        Mapping of keyword arguments.
    name
        What the mapping is called.
    allowed
        The names, or the function that is to take them.
    """
    given = check_mapping(value, name, "{argument: value}")
    known = keywords_of(allowed) if callable(allowed) else list(allowed)
    for key in given:
        if key not in known:
            msg = (
                f"{name} has no argument {key!r}; it takes {', '.join(known)}{_nearest(key, known)}"
            )
            raise InputTypeError(msg)
    return given


def check_one_of_names(value: object, name: str, known: Iterable[str], what: str) -> str:
    """Return a name that the input holds, such as a table's or a column's."""
    text = check_text(value, name)
    there = [str(option) for option in known]
    if text not in there:
        msg = f"{name}={text!r} is no {what}; there are {there}{_nearest(text, there)}"
        raise InputKeyError(msg)
    return text


def check_instance(value: object, name: str, kind: type[T], hint: str = "") -> T:
    """Return an object of one class."""
    if not isinstance(value, kind):
        raise _wrong_type(name, value, f"an object of {kind.__name__}{hint and '; '}{hint}")
    return value


def check_callable(value: object, name: str, what: str = "a function") -> Callable[..., Any]:
    """Return something that can be called."""
    if not callable(value):
        raise _wrong_type(name, value, what)
    return value


def check_distinct(objects: Mapping[str, object] | Sequence[object], name: str) -> None:
    """Refuse one object that was handed in twice: it would count as two.

    Raises
    ------
    InputValueError
        An object is there twice; the text names both places.
    """
    named = objects.items() if isinstance(objects, Mapping) else enumerate(objects)
    first: dict[int, object] = {}
    for place, value in named:
        if id(value) in first:
            msg = (
                f"{name}[{first[id(value)]!r}] and {name}[{place!r}] are one and the same object; hand in "
                "every object once"
            )
            raise InputValueError(msg)
        first[id(value)] = place


def keywords_of(function: Callable[..., Any]) -> list[str]:
    """Names that a function or class takes as keywords."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.kind in kinds]


def _check_unique(values: Sequence[Hashable], name: str) -> None:
    if len(set(values)) == len(values):
        return
    twice = list(dict.fromkeys(value for value in values if values.count(value) > 1))
    msg = (
        f"{name} has {len(twice):,} values more than once (first: {', '.join(map(repr, twice[:5]))}); "
        "give each once"
    )
    raise InputValueError(msg)


def _is_bool(value: object) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(value, (bool, np.bool_)) or str(dtype) in ("bool", "torch.bool")


def _is_many(value: object) -> bool:
    """Whether a value is an array or tensor with axes, even if it holds one number."""
    ndim = getattr(value, "ndim", 0)
    return isinstance(value, (str, bytes)) or not isinstance(ndim, int) or ndim > 0


def _is_real(value: object) -> bool:
    if isinstance(value, numbers.Real):
        return True
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    # Tensors have a dtype without a kind.
    return kind in ("i", "u", "f") or (kind is None and hasattr(value, "is_floating_point"))


def _same_kind(value: object, option: object) -> bool:
    """Whether two values may be compared as the same kind: True is not 1."""
    if isinstance(option, bool) or isinstance(value, bool):
        return isinstance(option, bool) and isinstance(value, bool)
    if isinstance(option, numbers.Real):
        return isinstance(value, numbers.Real)
    return isinstance(option, str) and isinstance(value, str)


def _range(
    at_least: float | None, above: float | None, at_most: float | None, below: float | None
) -> str:
    parts = [
        f"{word} {bound:,}"
        for word, bound in (
            ("of at least", at_least),
            ("above", above),
            ("of at most", None if at_most == LARGEST else at_most),
            ("below", below),
        )
        if bound is not None
    ]
    return f" {' and '.join(parts)}" if parts else ""


def _nearest(text: str, known: Iterable[str]) -> str:
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(text.lower(), list(names), n=1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def _shown(value: object) -> str:
    """Show a value on one short line, whatever its own text does."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - the repr of a stranger's object is not ours to fail on
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _wrong_type(name: str, value: object, wanted: str) -> InputTypeError:
    return InputTypeError(
        f"{name} has to be {wanted}; found {_shown(value)} of type {type(value).__name__}"
    )


def _wrong_value(name: str, value: object, wanted: str) -> InputValueError:
    return InputValueError(f"{name} has to be {wanted}; found {_shown(value)}")
