"""The door of every public function: what is handed in is checked, and made plain, by its annotation.

``@checked`` reads a function's signature. The annotation of a parameter says its kind, ``BOUNDS`` says
what arguments of that name may be everywhere in the package, and the decorator takes what holds for
one function alone. Kinds that are not known here are left to the function.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, overload

import numpy as np

from rankbygene._checks import (
    check_bag,
    check_callable,
    check_choice,
    check_colormap,
    check_flag,
    check_frame,
    check_image,
    check_key,
    check_keywords,
    check_list_of,
    check_mapping,
    check_path,
    check_real,
    check_sdata,
    check_sdatas,
    check_slides,
    check_text,
    check_tiles,
    check_whole,
    nearest,
    shown,
)
from rankbygene._docstrings import with_parameters
from rankbygene._renamed import by_names_of_today
from rankbygene.errors import InputTypeError, InputValueError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)
Check = Callable[[Any, str], Any]
Bounds = Mapping[str, float]

SHARE: Bounds = {"at_least": 0, "at_most": 1}
POSITIVE: Bounds = {"above": 0}
NOT_NEGATIVE: Bounds = {"at_least": 0}
ONE_OR_MORE: Bounds = {"at_least": 1}
# What Python puts before names where it shows an annotation that was not kept as text.
_ELSEWHERE = re.compile(r"\b(?:collections\.abc|pathlib|typing)\.")
# Every generator of random numbers takes these.
SEED: Bounds = {"at_least": 0, "at_most": 2**32 - 1}

# What arguments of a name may be, wherever they occur. Whole numbers called n_... are at least 1.
_POSITIVE = """
at context_um data_range mlp_ratio patch_size pitch_um pixel_std sigma spot_diameter_um spot_um
std step_um target_sum tau temperature temperature_neighbour temperature_query tile_um um_per_px
um_per_unit
"""
_NOT_NEGATIVE = """
buffer_um cache_limit gene_lr jitter lr memory_limit negative_logit_scale noise step weight_decay
"""
_SHARES = "alpha ema_end ema_start end grayscale min_tissue momentum start warmup"
_COUNTS = """
batch_size chunk_size depth early_stopping_patience every genes group_size k largest max_epochs max_slides max_spots
max_tiles n patience px scale_factors shuffle_window side size smallest tile_px together workers
"""
BOUNDS: dict[str, Bounds | Check] = {
    **dict.fromkeys(_POSITIVE.split(), POSITIVE),
    **dict.fromkeys(_NOT_NEGATIVE.split(), NOT_NEGATIVE),
    **dict.fromkeys(_SHARES.split(), SHARE),
    **dict.fromkeys(_COUNTS.split(), ONE_OR_MORE),
    "patch_size": POSITIVE,
    "crop": {"above": 0, "at_most": 1},
    "dropout": {"at_least": 0, "below": 1},
    "validation_size": {"at_least": 0, "below": 1},
    "level": {"above": 0, "below": 1},
    "fill": {"at_least": 0, "at_most": 255},
    "seed": SEED,
    "seeds": SEED,
    "tta": {"at_least": 1, "at_most": 8},
    "key_added": check_key,
    "cmap": check_colormap,
}
# Lists and mappings that mean something else, or nothing, where they are empty.
_FILLED = {"bags", "features", "frames", "gene_list", "methods", "metric", "parts", "times"}
# Axes of arrays that are of one shape wherever they occur; None is any length.
_SHAPES: dict[str, tuple[int | None, ...]] = {
    "centers": (None, 2), "points": (None, 2), "tiles": (None, None, None, None),
}  # fmt: skip
# Sizes in bytes are larger than any other count.
_BYTES = {"cache_limit", "memory_limit"}


@dataclass(frozen=True)
class _Kind:
    """A kind of value: in words, and the check that lets it pass."""

    words: str
    check: Check


@overload
def checked(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def checked(**special: Bounds | Check | None) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def checked(function: Callable[..., Any] | None = None, /, **special: Bounds | Check | None) -> Any:
    """Check the arguments of a function, and hand them on as plain values.

    Parameters
    ----------
    function
        What to guard; its signature stays as it is.
    **special
        Bounds, or a check of its own, for parameters that ``BOUNDS`` does not describe rightly; None
        where the function itself judges the value.
    """
    if function is None:
        return functools.partial(_guard, special=special)
    return _guard(function, special={})


@overload
def checked_fields(cls: C, /) -> C: ...
@overload
def checked_fields(**special: Bounds | Check | None) -> Callable[[C], C]: ...
def checked_fields(cls: Any = None, /, **special: Bounds | Check | None) -> Any:
    """Check the fields of a dataclass when an object is made; ``special`` as for :func:`checked`."""
    if cls is None:
        return functools.partial(_guard_fields, special=special)
    return _guard_fields(cls, special={})


def taking(
    options: type, defaults: Mapping[str, Any]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check a function whose ``**options`` are those of a typed mapping, and say so in its signature.

    Parameters
    ----------
    options
        A ``TypedDict``, in ``Unpack[...]`` of the function's signature.
    defaults
        What its entries are by default.
    """
    annotations = {name: _text(hint) for name, hint in options.__annotations__.items()}
    more = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotation
        )
        for name, annotation in annotations.items()
    ]
    of_options = functools.cache(lambda: _kinds_of(options.__module__, inspect.Signature(more), {}))
    return lambda function: _widened(function, {}, more, of_options)


def extending(
    base: Callable[..., Any], **special: Bounds | Check | None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check a method that takes the arguments of ``base`` as ``**options``, and say so in its signature."""
    parameters = inspect.signature(base).parameters.values()
    more = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    guarded: Any = base

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        extended = _widened(function, special, more, guarded.__kinds__)
        order = inspect.signature(extended).parameters
        extended.__doc__ = with_parameters(function.__doc__, base.__doc__, order)
        return extended

    return decorate


def _widened(
    function: Callable[P, R],
    special: Mapping[str, Bounds | Check | None],
    more: Sequence[inspect.Parameter],
    kinds_of_more: Callable[[], Mapping[str, _Kind]],
) -> Callable[P, R]:
    """Guard a function whose last parameter, ``**options``, stands for more of them."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
    names = {p.name for p in own}
    signature = inspect.Signature([*own, *(p for p in more if p.name not in names)])
    guarded = _guard(function, special, signature, kinds_of_more)
    guarded.__signature__ = signature  # type: ignore[attr-defined]
    return guarded


def _text(hint: Any) -> str:
    """Give an annotation as it was written, also where Python has made an object of it."""
    written = getattr(hint, "__forward_arg__", hint)
    if isinstance(written, str):
        return written
    return _ELSEWHERE.sub("", inspect.formatannotation(written))


def _guard_fields(cls: C, special: Mapping[str, Bounds | Check | None]) -> C:
    init: Callable[..., Any] = vars(cls)["__init__"]
    init.__module__ = cls.__module__
    type.__setattr__(cls, "__init__", _guard(init, special))
    return cls


def check_settings(
    function: Callable[..., Any], value: object, name: str, *, owned: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Check keyword arguments before the function that they are for is called.

    Parameters
    ----------
    function
        A function or class that is :func:`checked`.
    value
        The mapping; None is an empty one.
    name
        What the mapping is called.
    owned
        Arguments that the caller gives itself.

    Returns
    -------
    The arguments as plain values.

    Raises
    ------
    InputTypeError, InputValueError
        A name is not known, or a value cannot be used.
    """
    if value is None:
        return {}
    signature = inspect.signature(function)
    guarded = getattr(function, "__init__", function) if inspect.isclass(function) else function
    today = by_names_of_today(guarded, check_mapping(value, name, "{argument: value}"), name)
    given = today.given
    if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        known = [p for p in _names(signature) if p not in (*owned, "self")]
        given = check_keywords(given, name, known)
    for key in owned:
        if key in given:
            msg = f"{name} has the argument {key!r}, which is given elsewhere; leave it out here"
            raise InputTypeError(msg)
    kinds: Mapping[str, _Kind] = getattr(guarded, "__kinds__", dict)()
    plain = {
        key: kinds[key].check(element, f"{name}[{key!r}]") if key in kinds else element
        for key, element in given.items()
    }
    today.warn()
    return plain


def _guard(
    function: Callable[..., Any],
    special: Mapping[str, Bounds | Check | None],
    signature: inspect.Signature | None = None,
    kinds_of_more: Callable[[], Mapping[str, _Kind]] = dict,
) -> Callable[..., Any]:
    """Guard a function; ``signature`` has more parameters where it takes those of another."""
    own = inspect.signature(function)
    signature = signature or own

    @functools.cache
    def kinds() -> dict[str, _Kind]:
        return {**kinds_of_more(), **_kinds_of(function.__module__, own, special)}

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        today = by_names_of_today(function, kwargs)
        try:
            bound = signature.bind(*args, **today.given)
        except TypeError as error:
            raise _misfit(function, signature, today.given, error) from None
        for name, kind in kinds().items():
            if name in bound.arguments:
                bound.arguments[name] = kind.check(bound.arguments[name], name)
        today.warn()
        return function(*bound.args, **bound.kwargs)

    guarded.__kinds__ = kinds  # type: ignore[attr-defined]
    return guarded


def _misfit(
    function: Callable[..., Any],
    signature: inspect.Signature,
    given: Mapping[str, Any],
    error: TypeError,
) -> InputTypeError:
    """Say what does not fit the signature; the nearest argument where a name is not known."""
    name = function.__qualname__.removesuffix(".__init__")
    known = [p for p in _names(signature) if p != "self"]
    unknown = [key for key in given if key not in known]
    if not unknown:
        return InputTypeError(f"{name}: {error}; it takes {', '.join(known)}")
    return InputTypeError(
        f"{name} has no argument {unknown[0]!r}; it takes {', '.join(known)}"
        f"{nearest(unknown[0], known)}"
    )


def _names(signature: inspect.Signature) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in signature.parameters.values() if p.kind in kinds]


# ---- from an annotation to a kind ----------------------------------------------------------------


def _kinds_of(
    module: str, signature: inspect.Signature, special: Mapping[str, Bounds | Check | None]
) -> dict[str, _Kind]:
    scope = {**_typing_names(module), **vars(sys.modules[module])}
    kinds = {}
    for name, parameter in signature.parameters.items():
        if (
            parameter.kind is parameter.VAR_KEYWORD
            or name in ("self", "cls")
            or parameter.annotation is parameter.empty
        ):
            continue
        if special.get(name, ()) is None:
            continue
        kind = _Reader(name, scope, special.get(name) or BOUNDS.get(name, {})).read(
            _text(parameter.annotation)
        )
        if kind is not None:
            kinds[name] = _each(kind) if parameter.kind is parameter.VAR_POSITIONAL else kind
    return kinds


def _each(kind: _Kind) -> _Kind:
    def check(values: Any, name: str) -> Any:
        return tuple(kind.check(value, f"{name}[{i}]") for i, value in enumerate(values))

    return _Kind(kind.words, check)


@functools.cache
def _typing_names(module: str) -> dict[str, Any]:
    """Find what a module imports for its annotations alone, where that is loaded."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, SyntaxError):
        return {}
    blocks = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name: getattr(sys.modules[node.module], alias.name, None)
        for node in imports
        for alias in node.names
        if node.module in sys.modules
    }


class _Reader:
    """Makes the kind of one parameter from its annotation."""

    # Classes that are told by their name, so that the libraries they come from need not be there.
    _classes: ClassVar[dict[str, str]] = {
        "AnnData": "AnnData",
        "pd.DataFrame": "DataFrame",
        "torch.Tensor": "Tensor",
        "torch.Generator": "Generator",
        "np.random.Generator": "Generator",
        "nn.Module": "Module",
        "torch.nn.Module": "Module",
        "nn.Linear": "Linear",
        "torch.device": "device",
        "torch.dtype": "dtype",
        "Axes": "Axes",
        "pl.Callback": "Callback",
        "pl.loggers.Logger": "Logger",
        "da.Array": "Array",
        "pd.Series": "Series",
        "sparse.csr_array": "csr_array",
    }

    def __init__(self, name: str, scope: Mapping[str, Any], bounds: Bounds | Check) -> None:
        self.name, self.scope, self.bounds = name, scope, bounds

    def read(self, annotation: str) -> _Kind | None:
        """Give the kind, or None where it is not known."""
        try:
            written = ast.parse(annotation, mode="eval").body
        except SyntaxError:  # an object that does not show itself as code
            return None
        parts = [ast.unparse(part) for part in _alternatives(written)]
        if parts[:3] == ["SpatialData", "Sequence[SpatialData]", "Mapping[str, SpatialData]"]:
            parts = ["SpatialDatas", *parts[3:]]
        if callable(self.bounds) and "str" not in parts:
            return _one_of([_Kind("", self.bounds), *([_NONE] if "None" in parts else [])])
        if {"str", "Path"} <= set(parts):
            parts = ["path", *(part for part in parts if part not in ("str", "Path"))]
        found = [self._simple(part) for part in parts]
        return None if None in found else _one_of([kind for kind in found if kind is not None])

    def _simple(self, part: str) -> _Kind | None:
        if part.partition("[")[0] in self._classes:
            return _instance(self._classes[part.partition("[")[0]], part.partition("[")[0])
        if part in _SLIDES:
            return _SLIDES[part]
        if part == "str" and callable(self.bounds):
            return _Kind("a name", self.bounds)
        plain = {
            "None": _NONE,
            "bool": _Kind("True or False", check_flag),
            "str": _Kind("a text", check_text),
            "path": _Kind("a path", _path),
            "Path": _Kind("a pathlib.Path", check_path),
        }
        if part in plain:
            return plain[part]
        if part in ("int", "float"):
            return self._number(part)
        head, _, _ = part.partition("[")
        return self._compound(head, ast.parse(part, mode="eval").body)

    def _number(self, part: str) -> _Kind:
        bounds: dict[str, Any] = {} if callable(self.bounds) else dict(self.bounds)
        if part == "float":
            return _Kind("a number", functools.partial(check_real, **bounds))
        if not bounds and self.name.startswith("n_"):
            bounds = {"at_least": 1}
        whole: dict[str, Any] = {
            key: int(bound) for key, bound in bounds.items() if key[:2] == "at"
        }
        if "above" in bounds:
            whole["at_least"] = int(bounds["above"]) + 1
        if self.name in _BYTES:
            whole["at_most"] = 2**62
        return _Kind("a whole number", functools.partial(check_whole, **whole))

    def _compound(self, head: str, node: ast.expr) -> _Kind | None:
        if head in ("Callable", "Encoder"):
            return _Kind("a function", check_callable)
        if head in ("ArrayLike", "NDArray"):
            shape = _SHAPES.get(self.name) if head == "NDArray" else None
            return _Kind("an array", functools.partial(_array, of=ast.unparse(node), shape=shape))
        if not isinstance(node, ast.Subscript):
            return self._named(head)
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        texts = [ast.unparse(element) for element in inside]
        if head == "Literal":
            return _choice(tuple(ast.literal_eval(element) for element in inside))
        if head == "Iterable":
            return self._iterable(texts[0])
        if head in ("Sequence", "list"):
            return self._list(texts[0], list)
        if head == "tuple":
            length = None if texts[-1] == "..." else len(texts)
            return self._list(texts[0], tuple, length)
        if head in ("Mapping", "dict"):
            return self._mapping(texts[1])
        return None

    def _named(self, head: str) -> _Kind | None:
        """Look a name up: an alias of choices, or a class of the package."""
        found = self.scope.get(head)
        if get_origin(found) in (types.UnionType, Union):
            return self._union(get_args(found))
        if get_origin(found) is Literal:
            return _choice(get_args(found))
        if get_origin(found) is Callable:
            return _Kind("a function", check_callable)
        if get_origin(found) in (tuple, Sequence):
            return self.read(str(found).replace("collections.abc.", ""))
        if not inspect.isclass(found) or getattr(found, "_is_protocol", False):
            return None
        if found.__module__.startswith("rankbygene."):
            return _Kind(f"an object of {head}", functools.partial(_check_class, kind=found))
        return None

    def _union(self, options: tuple[Any, ...]) -> _Kind | None:
        """Read an alias of several kinds."""
        found: list[_Kind | None] = []
        literals = [option for option in options if get_origin(option) is Literal]
        if literals:  # one choice: a value that is in none of them is told all
            found.append(_choice(tuple(one for option in literals for one in get_args(option))))
        for option in options:
            if option in literals:
                continue
            if option is type(None):
                found.append(_NONE)
            elif get_origin(option) is Mapping:
                of = get_args(option)[1]
                found.append(self._mapping(getattr(of, "__name__", str(of))))
            elif inspect.isclass(option):
                found.append(_Reader("", {option.__name__: option}, {})._named(option.__name__))
            else:
                found.append(None)
        return None if None in found else _one_of([kind for kind in found if kind is not None])

    def _list(self, of: str, make: type, length: int | None = None) -> _Kind:
        element = self.read(of)
        least = 1 if self.name in _FILLED else 0

        def check(value: Any, name: str) -> Any:
            found = check_list_of(
                _as_it_is if element is None else element.check,
                value, name, of=_plural(of), least=least,
            )  # fmt: skip
            if length is not None and len(found) != length:
                msg = f"{name} is {shown(value)}; {length} {_plural(of)} are needed"
                raise InputTypeError(msg)
            return make(found)

        return _Kind(f"a list of {_plural(of)}", check)

    def _iterable(self, of: str) -> _Kind | None:
        element = self.read(of)

        def check(value: Any, name: str) -> Any:
            wrong = isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable)
            # An array without an axis says that it can be iterated over.
            if wrong or getattr(value, "ndim", 1) == 0:
                msg = f"{name} is {shown(value)}; several values are needed"
                raise InputTypeError(msg)
            if element is None:
                return value
            return [element.check(one, f"{name}[{i}]") for i, one in enumerate(value)]

        return _Kind("several values", check)

    def _mapping(self, of: str) -> _Kind:
        element = self.read(of)

        def check(value: Any, name: str) -> Any:
            found = check_mapping(value, name)
            if self.name in _FILLED and not found:
                msg = f"{name} is empty; at least one {{name: value}} is needed"
                raise InputValueError(msg)
            if element is None:
                return value
            return {key: element.check(one, f"{name}[{key!r}]") for key, one in found.items()}

        return _Kind("a mapping by names", check)


def _alternatives(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_alternatives(node.left), *_alternatives(node.right)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _alternatives(ast.parse(node.value, mode="eval").body)
    return [node]


def _one_of(kinds: list[_Kind]) -> _Kind:
    """Let pass what one of the kinds lets pass; a value of a right kind is judged by that one."""
    if len(kinds) == 1:
        return kinds[0]
    words = " or ".join(kind.words for kind in kinds if kind.words)

    def check(value: Any, name: str) -> Any:
        refused: list[InputTypeError] = []
        for kind in kinds:
            try:
                return kind.check(value, name)
            except InputTypeError as error:
                refused.append(error)
        # What is wrong inside a list or mapping is told by its own place.
        inner = [
            error
            for error in refused
            if not str(error).startswith((f"{name} is ", "needs a SpatialData"))
        ]
        if inner or len(kinds) == 2 and _NONE in kinds:
            raise next(iter(inner), refused[0] if kinds[0] is not _NONE else refused[-1])
        msg = f"{name} is {shown(value)} of type {type(value).__name__}; {words} is needed"
        raise InputTypeError(msg)

    return _Kind(words, check)


def _as_it_is(value: Any, name: str) -> Any:
    return value


def _none(value: Any, name: str) -> None:
    if value is not None:
        msg = f"{name} is {shown(value)}; None is needed"
        raise InputTypeError(msg)


_NONE = _Kind("None", _none)


_SLIDES: dict[str, _Kind] = {
    "SpatialData": _Kind("a SpatialData object", lambda value, name: check_sdata(value)),
    "SpatialDatas": _Kind("SpatialData objects", check_sdatas),
    "Slides": _Kind("slides", check_slides),
    "Bag": _Kind("a bag of tiles", check_bag),
    "Tiles": _Kind("tiles", check_tiles),
    "SpotFrame": _Kind("a SpotFrame", check_frame),
    "Image": _Kind("an image of SpatialData", check_image),
}


def _choice(allowed: tuple[Any, ...]) -> _Kind:
    return _Kind(
        f"one of {', '.join(map(repr, allowed))}", functools.partial(check_choice, allowed=allowed)
    )


def _path(value: Any, name: str) -> Any:
    path = check_path(value, name)
    return str(value) if isinstance(value, str) else path


def _array(value: Any, name: str, *, of: str, shape: tuple[int | None, ...] | None = None) -> Any:
    """Let arrays with an axis pass; of what is annotated as one of numbers, lists become arrays."""
    array = _as_array(value, of)
    if array is None:
        msg = f"{name} is {shown(value)} of type {type(value).__name__}; an array is needed"
        raise InputTypeError(msg)
    return array if shape is None else _shaped(array, name, shape)


def _as_array(value: Any, of: str) -> Any:
    """Give an array of the kind that an annotation asks for; None where there is none."""
    if not isinstance(value, (list, tuple, range)) and not getattr(value, "ndim", 0) > 0:
        return None
    with contextlib.suppress(TypeError, ValueError):  # rows of unequal length
        array = np.asarray(value) if isinstance(value, (list, tuple, range)) else value
        if getattr(getattr(array, "dtype", None), "kind", "") == "c":
            return None
        if of == "ArrayLike":
            return value
        array = np.asarray(array)
        kinds = next((kinds for word, kinds in _DTYPES.items() if word in of), None)
        if kinds is None or array.dtype.kind in kinds:
            return array
        if not array.size:
            return array.astype(np.intp if kinds == "iu" else bool if kinds == "b" else float)
    return None


def _shaped(array: Any, name: str, shape: tuple[int | None, ...]) -> Any:
    """Check the axes of an array, and that places in the plane are finite."""
    fits = array.ndim == len(shape) and all(
        wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
    )
    if not fits:
        axes = ", ".join("any" if length is None else str(length) for length in shape)
        msg = f"{name} is an array of shape {array.shape}; one of shape [{axes}] is needed"
        raise InputValueError(msg)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        msg = f"{name} has values that are missing or infinite; leave them out"
        raise InputValueError(msg)
    return array


# Kinds of dtype that an annotation asks for.
_DTYPES = {"int": "iu", "float": "fiu", "bool": "b"}


def _instance(class_name: str, words: str) -> _Kind:
    def check(value: Any, name: str) -> Any:
        if any(cls.__name__ == class_name for cls in type(value).__mro__):
            return value
        msg = f"{name} is {shown(value)} of type {type(value).__name__}; a {words} is needed"
        raise InputTypeError(msg)

    return _Kind(f"a {words}", check)


def _check_class(value: Any, name: str, *, kind: type) -> Any:
    if isinstance(value, kind):
        return value
    msg = f"{name} is {shown(value)} of type {type(value).__name__}; an object of {kind.__name__} is needed"
    raise InputTypeError(msg)


def _plural(of: str) -> str:
    return {"str": "texts", "int": "whole numbers", "float": "numbers"}.get(of, "values")
