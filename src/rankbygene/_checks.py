"""One validator per kind of argument: each gives the plain value, or says what is wrong with it.

What comes out is made of Python's own types, so that files, tables and comparisons never meet a scalar
of NumPy. Every message says what was found, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
import inspect
import numbers
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rankbygene.errors import InputKeyError, InputTypeError, InputValueError

T = TypeVar("T")

# Larger counts are a mistake, and more than several libraries below can hold.
LARGEST = 2**31 - 1
LARGEST_REAL = 1e15
# What most file systems take.
_LONGEST_NAME = 255


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
        raise _wrong_value(name, value, f"a whole number{_range(at_least, None, at_most, None)}")
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
        abs(number) <= LARGEST_REAL  # neither NaN nor infinite
        and (at_least is None or number >= at_least)
        and (above is None or number > above)
        and (at_most is None or number <= at_most)
        and (below is None or number < below)
    )
    if LARGEST_REAL < abs(number) < float("inf"):
        wanted += f" that is not beyond {LARGEST_REAL:g}"
    if not inside:
        raise _wrong_value(name, value, wanted)
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


def check_string(value: object, name: str) -> str:
    """Return a text, which may be empty."""
    return "" if isinstance(value, str) and not value else check_text(value, name)


def check_choice(value: object, name: str, allowed: Collection[T]) -> T:
    """Return the one of ``allowed`` that was asked for: texts, whole numbers, flags or None."""
    plain = value.item() if isinstance(value, np.generic) else value
    for option in allowed:
        if plain is option or (_same_kind(plain, option) and plain == option):
            return option
    texts = [option for option in allowed if isinstance(option, str)]
    if isinstance(plain, str):
        msg = f"{name} is {shown(value)}; allowed are {_options(allowed)}{nearest(plain, texts)}"
        raise InputValueError(msg)
    kinds_match = any(_same_kind(plain, option) for option in allowed)
    raise (_wrong_value if kinds_match else _wrong_type)(name, value, f"one of {_options(allowed)}")


def check_path(value: object, name: str) -> Path:
    """Return a path; whether something is there is another question."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise _wrong_type(name, value, "a path: a text or a pathlib.Path")
    text = os.fspath(value)
    if not text.strip() or "\0" in text:
        raise _wrong_value(name, value, "a path that is not empty")
    path = Path(text)
    try:
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    except UnicodeEncodeError as error:
        raise _wrong_value(name, value, "a path of letters that a file can be called by") from error
    if longest > _LONGEST_NAME:
        raise _wrong_value(name, value, f"a path of names of at most {_LONGEST_NAME} bytes")
    return path


def check_key(value: object, name: str) -> str:
    """Return a name that can be written into a table and into a store of SpatialData."""
    key = check_text(value, name)
    fits = all(letter.isalnum() or letter in "_-." for letter in key)
    if not fits or key.startswith((".", "__")):
        msg = (
            f"{name} is {shown(value)}, which cannot be stored; use letters, digits, '_', '-' and '.', and begin "
            "with neither '.' nor '__'"
        )
        raise InputValueError(msg)
    return key


def check_colormap(value: object, name: str) -> str:
    """Return the name of a colour map of matplotlib."""
    from matplotlib import colormaps

    text = check_text(value, name)
    if text not in colormaps:
        msg = f"{name} is {text!r}, which is no colour map of matplotlib{nearest(text, colormaps)}"
        raise InputValueError(msg)
    return text


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
    such = f", such as [{shown(value)}]," if isinstance(value, str) and value.strip() else ""
    raise _wrong_type(name, value, f"a list of {of}{such}")


def check_list_of(
    check: Callable[[Any, str], T], value: object, name: str, *, of: str = "values", least: int = 0
) -> list[T]:
    """Return a list of at least so many elements, each of which ``check`` accepts."""
    listed = check_list(value, name, of)
    if len(listed) < least:
        raise _wrong_value(name, value, f"a list of at least {least} of the {of}")
    return [check(element, f"{name}[{i}]") for i, element in enumerate(listed)]


def check_mapping(value: object, name: str, of: str = "{name: value}") -> dict[str, Any]:
    """Return a mapping by names as a dict."""
    if not isinstance(value, Mapping):
        raise _wrong_type(name, value, f"a mapping {of}")
    for key in value:
        if not isinstance(key, str):
            msg = f"{name} maps names; found the key {shown(key)}; use texts"
            raise InputTypeError(msg)
    return {str(key): element for key, element in value.items()}


def check_weights(value: object, name: str, *, terms: Collection[str]) -> dict[str, float]:
    """Return weights of named terms, each a number of at least 0."""
    given = check_mapping(value, name, "{term: weight}")
    for term in given:
        if term not in terms:
            msg = f"{name} has no term {term!r}; the terms are {', '.join(terms)}{nearest(term, terms)}"
            raise InputKeyError(msg)
    return {
        term: check_real(weight, f"{name}[{term!r}]", at_least=0) for term, weight in given.items()
    }


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
                f"{name} has no argument {key!r}; it takes {', '.join(known)}{nearest(key, known)}"
            )
            raise InputTypeError(msg)
    return given


def check_one_of_names(value: object, name: str, known: Iterable[str], what: str) -> str:
    """Return a name that the input holds, such as a table's or a column's."""
    text = check_text(value, name)
    there = [str(option) for option in known]
    if text not in there:
        msg = f"{name} is {text!r}, which is no {what}; there are {there}{nearest(text, there)}"
        raise InputKeyError(msg)
    return text


def check_regressor(value: object, name: str) -> Any:
    """Return an object that can be fitted and then predicts, as those of scikit-learn."""
    fits = hasattr(value, "fit") and hasattr(value, "predict")
    if fits and isinstance(value, type):
        msg = f"{name} is the class {value.__name__}; pass an object of it, {value.__name__}()"
        raise InputTypeError(msg)
    if not fits:
        raise _wrong_type(name, value, "a regressor with `fit` and `predict`")
    return value


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


def check_same_length(**arrays: Any) -> None:
    """Check that arrays of one dimension belong together element by element."""
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        found = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
        msg = f"found {found}; they belong together and have to be of one dimension and one length"
        raise InputValueError(msg)


def check_places(rows: Any, n_rows: int, name: str = "rows") -> NDArray[np.intp]:
    """Return places of rows, each counted from the first; of flags those that are set.

    Raises
    ------
    InputTypeError, InputValueError
        It is no list of whole numbers or of flags, or a place lies outside of the rows.
    """
    places = np.asarray(rows)
    if places.ndim != 1 or len(places) and places.dtype.kind not in "iub":
        raise _wrong_type(name, rows, "places of rows: a list of whole numbers, or of flags,")
    if places.dtype == bool:
        fits = len(places) == n_rows
    else:
        fits = not len(places) or (places.min() >= -n_rows and places.max() < n_rows)
    if not fits:
        msg = f"{name} has places outside of the {n_rows} rows that there are"
        raise InputValueError(msg)
    if places.dtype == bool:
        return np.flatnonzero(places)
    return places.astype(np.intp) % max(n_rows, 1)


def check_rows_of(rows: Mapping[str, Any] | None, slides: Sequence[str]) -> None:
    """Check that rows are given for every slide, where any are given."""
    missing = [] if rows is None else [slide for slide in slides if slide not in rows]
    if missing:
        msg = f"rows has no entry for slide {missing[0]!r}; its keys are {list(rows or ())}"
        raise InputKeyError(msg)


def check_folds(value: object, name: str) -> list[tuple[Any, Any]]:
    """Return pairs of places of rows: those to fit on, those to judge on."""
    pairs = check_list(value, name, "pairs of rows")
    for pair in pairs:
        fits = isinstance(pair, (tuple, list)) and len(pair) == 2
        if not fits or any(np.asarray(rows).dtype.kind not in "iub" for rows in pair):
            raise _wrong_value(name, pair, "a list of pairs of rows, (fit, judged),")
    return [(np.asarray(fit), np.asarray(judged)) for fit, judged in pairs]


def check_tiles(value: object, name: str) -> Any:
    """Return what holds one tile, or its features, per row."""
    holds = hasattr(type(value), "__len__") and hasattr(type(value), "__getitem__")
    plain = (str, bytes, list, tuple, Mapping, np.generic)
    if not holds or isinstance(value, plain) or is_a(value, "SpatialData", "Series"):
        raise _wrong_type(name, value, "a TileBank, a FeatureBank or an array of tiles")
    if isinstance(value, np.ndarray) and value.ndim < 4:
        raise _wrong_value(name, value, "an array [n, 3, px, px]")
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


def check_sdata(sdata: object) -> Any:
    """Return SpatialData; the text says how to get it from something else.

    Classes are told by their names, so that this needs no other package.
    """
    if is_a(sdata, "SpatialData"):
        return sdata
    msg = (
        f"needs a SpatialData object, found {type(sdata).__name__}; read one with "
        "`spatialdata.read_zarr(path)` or a reader of `spatialdata_io`"
    )
    if is_a(sdata, "AnnData"):
        msg += " (an AnnData has no image; it goes into SpatialData as a table, beside image and shapes)"
    raise InputTypeError(msg)


def check_sdatas(value: object, name: str) -> Any:
    """Return SpatialData, or a list or mapping of different SpatialData objects."""
    return _check_objects(value, name, check_sdata)


def check_slides(value: object, name: str) -> Any:
    """Return SpatialData or bags of tiles: one, or a list or mapping of different ones."""
    return _check_objects(value, name, _check_slide)


def check_bag(value: object, name: str) -> Any:
    """Return a bag of tiles: what has the parts of one."""
    # Of the class: asking an object would read its file.
    if hasattr(type(value), "read") and hasattr(type(value), "n_tiles"):
        return value
    raise _wrong_type(name, value, "a bag of tiles, such as rankbygene.data.ArrayBag,")


def _check_slide(value: object) -> Any:
    try:
        return check_bag(value, "slide")
    except InputTypeError:
        return check_sdata(value)


def _check_objects(value: object, name: str, check: Callable[[object], Any]) -> Any:
    if isinstance(value, Mapping):
        items = list(value.values())
        for key in value:
            check_text(key, f"a key of {name}")
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        items = list(value)
    else:
        return check(value)
    places = list(value) if isinstance(value, Mapping) else range(len(items))
    for place, item in zip(places, items, strict=True):
        try:
            check(item)
        except InputTypeError as error:
            what = "slide" if isinstance(value, Mapping) else "object"
            msg = f"{what} {place!r}: {error}"
            raise InputTypeError(msg) from None
    if not items:
        msg = f"{name} holds no SpatialData object; pass at least one"
        raise InputValueError(msg)
    check_distinct(value, name)
    return value


def check_frame(value: object, name: str) -> Any:
    """Return one slide whose spots are found; anything that has the parts of one is one."""
    if hasattr(value, "slide"):
        return value
    raise _wrong_type(name, value, "a SpotFrame, such as resolve_slides gives,")


def check_image(value: object, name: str) -> Any:
    """Return an image element of SpatialData."""
    if not is_a(value, "DataArray", "DataTree"):
        raise _wrong_type(name, value, "an image of SpatialData, such as sdata.images[key]")
    return value


def is_a(value: object, *class_names: str) -> bool:
    """Whether an object is of a class, told by its name."""
    return any(cls.__name__ in class_names for cls in type(value).__mro__)


def keywords_of(function: Callable[..., Any]) -> list[str]:
    """Names that a function or class takes as keywords."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.kind in kinds]


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


def nearest(text: str, known: Iterable[str]) -> str:
    """Give the end of a message: which known name was probably meant."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(text.lower(), list(names), n=1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def shown(value: object) -> str:
    """Show a value on one short line, whatever its own text does."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - the repr of a stranger's object is not ours to fail on
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _wrong_type(name: str, value: object, wanted: str) -> InputTypeError:
    return InputTypeError(
        f"{name} is {shown(value)} of type {type(value).__name__}; {wanted} is needed"
    )


def _wrong_value(name: str, value: object, wanted: str) -> InputValueError:
    return InputValueError(f"{name} is {shown(value)}; {wanted} is needed")


def _options(allowed: Iterable[object]) -> str:
    return ", ".join(repr(option) for option in allowed)
