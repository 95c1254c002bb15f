"""Telling methods by what they compute: settings, code, weights, files and versions."""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import json
import sys
import types
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rankbygene._version import SOURCE
from rankbygene.base._record import package_versions
from rankbygene.io._checksums import file_checksum
from rankbygene.nn.encoders._weights import hash_weights
from rankbygene.tl.cross_validation._methods import ModelMethod

__all__ = ["digest", "is_file_name", "library_versions", "tell"]

# Where tiles are kept and what is shown does not decide what is computed.
_WITHOUT_EFFECT = {"cache_dir", "cache_limit", "enable_progress_bar"}
# What Python itself writes into classes; the code that it stands for is told.
_OF_PYTHON = {
    "__abstractmethods__", "__annotations__", "__dataclass_fields__", "__dataclass_params__", "__dict__",
    "__doc__", "__firstlineno__", "__module__", "__static_attributes__", "__weakref__", "_abc_impl",
}  # fmt: skip
# Packages whose objects are what pickle keeps of them, the same in every session.
_PICKLED_WHOLE = {"numpy", "pandas", "rankbygene", "scipy", "sklearn"}
_DEEPEST = 100


def tell(value: Any) -> tuple[Any, list[str]]:
    """Describe a value so that the text is equal for equal values, in every session, and for no others.

    Functions count with their code, closures, defaults and the globals that they use, estimators and other
    objects with their class and what pickle keeps of them, networks with their weights, files with
    their contents, what comes with an installed package with its version.

    Returns
    -------
    Values that JSON keeps, without paths; and the types of what cannot be told from another.
    """
    teller = _Teller()
    told = teller.tell(value, 0)
    return told, sorted(set(teller.untold))


def digest(value: Any) -> str:
    """Hash what :func:`tell` says of plain values and arrays."""
    return _hash(json.dumps(tell(value)[0], sort_keys=True))


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of what results depend on, and a hash of the source of this package."""
    sources = [
        part
        for path in sorted(SOURCE.rglob("*.py"))
        for part in (path.relative_to(SOURCE).as_posix(), path.read_bytes())
    ]
    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        **package_versions(),
        **{name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
        "source of rankbygene": _hash(*sources),
    }


def is_file_name(value: str | Path) -> bool:
    """Whether something names a file that is there; a bare word, such as that of a model, does not."""
    try:
        path = Path(value)
        named = isinstance(value, Path) or bool(path.suffix) or len(path.parts) > 1
        return named and path.is_file()
    except (OSError, ValueError):  # too long for a name, or with characters that none has
        return False


class _Teller:
    """Describes values of any kind, functions, classes and modules once each.

    Attributes
    ----------
    untold
        Types of what could not be described.
    """

    def __init__(self) -> None:
        self.untold: list[str] = []
        self._numbers: dict[int, int] = {}
        self._above: set[int] = set()
        # An address is that of one object for as long as the object is kept.
        self._kept: list[Any] = []

    def tell(self, value: Any, depth: int) -> Any:
        """Describe one value."""
        if value is None or isinstance(value, enum.Enum):
            return None if value is None else f"{type(value).__name__}.{value.name}"
        if type(value) in (bool, int, float):
            return value
        if isinstance(value, str | Path):
            return self._text(value)
        if id(value) in self._above:
            return "itself"  # told by the rest of it
        if depth > _DEEPEST:
            return self._cannot(value)
        self._kept.append(value)
        self._above.add(id(value))
        try:
            return self._describe(value, depth + 1)
        # Foreign objects may raise anything when they are looked at.
        except Exception:  # noqa: BLE001
            return self._cannot(value)
        finally:
            self._above.discard(id(value))

    def _describe(self, value: Any, depth: int) -> Any:
        if isinstance(value, types.FunctionType | types.ModuleType | type):
            if id(value) in self._numbers:
                return f"number {self._numbers[id(value)]}"
            self._numbers[id(value)] = len(self._numbers)
        for kinds, describe in _KINDS:
            if isinstance(value, kinds):
                return describe(self, value, depth)
        if type(value) in (list, tuple):
            return [self.tell(item, depth) for item in value]
        if type(value) in (set, frozenset):
            return sorted(json.dumps(self.tell(item, depth), sort_keys=True) for item in value)
        if type(value) in (dict, types.MappingProxyType):
            return self._mapping(value, depth)
        return self._object(value, depth)

    def _cannot(self, value: Any) -> str:
        kind = type(value)
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        self.untold.append(name)
        return f"some {name}"

    def _text(self, value: str | Path) -> Any:
        if is_file_name(value):
            return {"file": file_checksum(Path(value))}
        text = str(value)
        try:
            if Path(value).is_absolute() and Path(value).is_dir():
                self.untold.append("folder")
                return "some folder"
        except (OSError, ValueError):
            pass
        # Two places differ, but where things lie is nobody's business.
        return {"place": _hash(text)} if text.startswith(("/", "~", "\\")) else text

    def _array(self, value: Any, depth: int) -> Any:
        if isinstance(value, torch.Tensor):
            plain = value.detach().cpu().to_dense().contiguous()
            data = plain.flatten().view(torch.uint8).numpy().tobytes()
            return {"tensor": _hash(str(plain.dtype), str(tuple(plain.shape)), data)}
        if value.dtype.hasobject:
            return [list(value.shape), self.tell(value.ravel().tolist(), depth)]
        data = np.ascontiguousarray(value).tobytes()
        return {"array": _hash(str(value.dtype), str(value.shape), data)}

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        if all(type(key) is str for key in value):
            return {key: self.tell(item, depth) for key, item in value.items()}
        return [[self.tell(key, depth), self.tell(item, depth)] for key, item in value.items()]

    def _function(self, value: types.FunctionType, depth: int) -> Any:
        cells = [self._cell(cell, depth) for cell in value.__closure__ or ()]
        given = [self.tell(part, depth) for part in (value.__defaults__, value.__kwdefaults__)]
        if _is_library(value.__module__):
            return {"function": _library_name(value), "given": given, "closure": cells}
        codes = list(_codes(value.__code__))
        used = sorted({name for code in codes for name in code.co_names} & set(value.__globals__))
        return {
            "code": _hash(*[part for code in codes for part in self._code(code, depth)]),
            "given": given,
            "closure": cells,
            "globals": {name: self.tell(value.__globals__[name], depth) for name in used},
            "imports": {name: self._imported(name) for name in sorted(_imports(codes))},
        }

    def _cell(self, cell: types.CellType, depth: int) -> Any:
        try:
            return self.tell(cell.cell_contents, depth)
        except ValueError:  # not filled yet
            return "empty"

    def _code(self, code: types.CodeType, depth: int) -> Iterator[Any]:
        yield from (code.co_code, code.co_exceptiontable)
        names = (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars)
        counts = (code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags)
        yield from (str(names), str(counts))
        for constant in code.co_consts:
            if not isinstance(constant, types.CodeType):
                told = json.dumps(self.tell(constant, depth), sort_keys=True)
                yield f"{type(constant).__name__} {told}"

    def _imported(self, name: str) -> str:
        """Tell a module that a function imports when it runs."""
        if _is_library(name):
            return _with_version(name)
        found = find_spec(name) if name else None
        if found is None or found.origin is None or not Path(found.origin).is_file():
            self.untold.append(f"import of {name!r}")
            return "some module"
        return file_checksum(Path(found.origin))

    def _module(self, value: types.ModuleType, depth: int) -> Any:
        if _is_library(value.__name__):
            return _with_version(value.__name__)
        file = getattr(value, "__file__", None)
        if file is None:
            return self._cannot(value)
        others = {
            name: self.tell(item, depth)
            for name, item in vars(value).items()
            if isinstance(item, types.ModuleType | types.FunctionType | type)
        }
        return {"source": file_checksum(Path(file)), "uses": others}

    def _class(self, value: type, depth: int) -> Any:
        if _is_library(value.__module__):
            return _library_name(value)
        own = {k: self.tell(v, depth) for k, v in vars(value).items() if k not in _OF_PYTHON}
        bases = [self.tell(base, depth) for base in value.__bases__]
        return {"class": value.__name__, "bases": bases, "own": own}

    def _descriptor(self, value: Any, depth: int) -> Any:
        parts = [getattr(value, name, None) for name in ("fget", "fset", "func", "__func__")]
        return [type(value).__name__, *[self.tell(part, depth) for part in parts]]

    def _method(self, value: types.MethodType, depth: int) -> Any:
        return {
            "of": self.tell(value.__self__, depth),
            "function": self.tell(value.__func__, depth),
        }

    def _partial(self, value: functools.partial[Any], depth: int) -> Any:
        parts = (value.func, value.args, value.keywords)
        return {"partial": [self.tell(part, depth) for part in parts]}

    def _wrapped(self, value: Any, depth: int) -> Any:
        return {"cached": self.tell(value.__wrapped__, depth)}

    def _network(self, value: torch.nn.Module, depth: int) -> Any:
        parts = []
        for part in value.modules():
            if part._forward_hooks or part._forward_pre_hooks:
                self.untold.append("hook of a network")
            foreign = not _is_library(type(part).__module__)
            own = {
                name: self.tell(item, depth)
                for name, item in vars(part).items()
                if not name.startswith("_") and (foreign or _is_plain(item))
            }
            parts.append([self.tell(type(part), depth), own])
        return {
            "layout": _hash(repr(value)),
            "weights": hash_weights(value),
            "buffers": {name: self._array(item, depth) for name, item in value.named_buffers()},
            "parts": parts,
        }

    def _builtin(self, value: Any, depth: int) -> Any:
        owner = getattr(value, "__self__", None)
        if isinstance(value, types.BuiltinFunctionType) and not isinstance(
            owner, types.ModuleType | type | None
        ):
            return {"of": self.tell(owner, depth), "function": value.__name__}
        return _library_name(value) if _is_library(_module_of(value)) else self._cannot(value)

    def _object(self, value: Any, depth: int) -> Any:
        """Describe an object by its class and what pickle would keep of it."""
        if type(value).__name__ == "cython_function_or_method":
            return self._builtin(value, depth)
        root = type(value).__module__.split(".")[0]
        if _is_library(root) and root not in _PICKLED_WHOLE | sys.stdlib_module_names:
            return self._cannot(value)
        if isinstance(value, ModelMethod):
            own = {key: _effective(item) for key, item in vars(value).items()}
            return {"ModelMethod": self.tell(own, depth)}
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):  # a name under which pickle would look for it
            return _library_name(value) if _is_library(root) else self._cannot(value)
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        parts = (make, arguments, state, list(items or ()), dict(pairs or ()))
        # The class is told apart from how it is made, which may leave it out.
        return {"object": [self.tell(part, depth) for part in (type(value), *parts)]}


_KINDS: tuple[tuple[Any, Any], ...] = (
    (np.ndarray | torch.Tensor, _Teller._array),
    (torch.nn.Module, _Teller._network),
    (types.FunctionType, _Teller._function),
    (types.MethodType, _Teller._method),
    (functools.partial, _Teller._partial),
    (functools._lru_cache_wrapper, _Teller._wrapped),
    (types.ModuleType, _Teller._module),
    (type, _Teller._class),
    (property | functools.cached_property | classmethod | staticmethod, _Teller._descriptor),
    (
        types.BuiltinFunctionType
        | types.MethodDescriptorType
        | types.WrapperDescriptorType
        | np.ufunc
        | torch.dtype
        | torch.device,
        _Teller._builtin,
    ),
    (types.MemberDescriptorType | types.GetSetDescriptorType, lambda _, value, __: value.__name__),
    (
        bytes | complex | range | slice | types.EllipsisType | types.GenericAlias | types.UnionType,
        lambda _, value, __: repr(value),
    ),
)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Give the code of a function and of all that is written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _imports(codes: list[types.CodeType]) -> set[str]:
    return {
        str(step.argval)
        for code in codes
        for step in dis.get_instructions(code)
        if step.opname == "IMPORT_NAME"
    }


def _effective(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: item for key, item in value.items() if key not in _WITHOUT_EFFECT}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _module_of(value: Any) -> str:
    return getattr(value, "__module__", None) or type(value).__module__


def _library_name(value: Any) -> str:
    return f"{_with_version(_module_of(value))} {getattr(value, '__qualname__', value)}"


@functools.cache
def _with_version(module: str) -> str:
    """Name a module with the version of its package; those of Python and of this one are kept beside."""
    root = module.split(".")[0]
    if root == "rankbygene" or root in sys.stdlib_module_names:
        return module
    names = sorted(set(packages_distributions().get(root, ())))
    return " ".join([module, *[f"{name} {version(name)}" for name in names]])


@functools.cache
def _is_library(module: str | None) -> bool:
    """Whether code comes with an installed package, which its version tells, or with this one."""
    root = (module or "").split(".")[0]
    if root == "rankbygene" or (root in sys.stdlib_module_names and root != "__main__"):
        return True
    try:
        found = find_spec(root) if root else None
    except (ValueError, ImportError):
        return False
    origin = Path(found.origin) if found is not None and found.origin else Path()
    return bool({"site-packages", "dist-packages"} & set(origin.parts))


def _hash(*parts: Any) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        hashed.update(f"{len(data)}:".encode() + data)
    return hashed.hexdigest()[:32]
