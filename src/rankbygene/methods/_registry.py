"""Which methods there are: those of this package, of installed packages, and the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from rankbygene.errors import InputTypeError, InputValueError

if TYPE_CHECKING:
    from rankbygene.base.spots._model import SpotModel

__all__ = ["GROUP", "class_of", "known_class", "names", "public_names", "register"]

M = TypeVar("M", bound="type[SpotModel]")

# The folder of a method, and what its classes are called: `X`, its networks `XModule`, its training `XPlan`.
_METHODS = {
    "rankbygene": "RankByGene",
    "nh2st": "NH2ST",
    "stnet": "STNet",
    "bleep": "BLEEP",
}
# Packages name theirs here: ``name = "package.module:Class"``.
GROUP = "rankbygene.methods"

_registered: dict[str, type[SpotModel]] = {}


def names() -> list[str]:
    """Names of all methods, those of this package first."""
    return list(dict.fromkeys([*_METHODS, *_registered, *_installed()]))


def public_names(of: str) -> dict[str, str]:
    """Classes of the methods of this package and the modules they are in.

    Parameters
    ----------
    of
        ``"model"``, ``"module"`` or ``"plan"``.
    """
    suffix = {"model": "", "module": "Module", "plan": "Plan"}[of]
    return {
        f"{title}{suffix}": f"rankbygene.methods.{folder}._{of}"
        for folder, title in _METHODS.items()
    }


def class_of(method: str) -> type[SpotModel]:
    """Find the class of a method.

    Raises
    ------
    InputValueError
        There is no such method, or a package's cannot be loaded.
    """
    if method in _METHODS:
        found: Any = import_module(f"rankbygene.methods.{method}._model")
        cls: type[SpotModel] = getattr(found, _METHODS[method])
        return cls
    if method in _registered:
        return _registered[method]
    if method in _installed():
        return _loaded(_installed()[method])
    near = get_close_matches(str(method), names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    msg = f"method={method!r} is not known; choose from {', '.join(map(repr, names()))}{hint}"
    raise InputValueError(msg)


def known_class(class_name: str) -> type[SpotModel] | None:
    """Find the class of a method by its own name, as it stands in a saved model; None if there is none."""
    for folder, title in _METHODS.items():
        if title == class_name:
            return class_of(folder)
    others = [cls for cls in _registered.values() if cls.__name__ == class_name]
    for name, entry in _installed().items():
        if not others and entry.attr == class_name:
            others.append(class_of(name))
    return others[0] if others else None


def register(cls: M) -> M:
    """Make a method known by its name: to ``fit``, ``load``, ``cross_validate`` and the command line.

    Parameters
    ----------
    cls
        A subclass of :class:`rankbygene.base.SpotModel` with a ``method`` of its own, in lower case.

    Returns
    -------
    The class, so that this can decorate it.

    Raises
    ------
    InputTypeError
        It is no such class, or an abstract one.
    InputValueError
        Another class has that name.
    """
    from rankbygene.base.spots._model import SpotModel

    if not (inspect.isclass(cls) and issubclass(cls, SpotModel)):
        msg = f"register takes a subclass of rankbygene.base.SpotModel; found {cls!r}"
        raise InputTypeError(msg)
    missing = sorted(cls.__abstractmethods__)
    if "plan_kwargs" not in cls._settings_of:
        missing.append("_plan_class")
    if missing:
        msg = f"{cls.__name__} does not define {', '.join(missing)}, which every method has to"
        raise InputTypeError(msg)
    name = getattr(cls, "method", None)
    if not isinstance(name, str) or not name.isidentifier() or name != name.lower():
        msg = f"{cls.__name__}.method is {name!r}; a name in lower case is needed, such as 'stnet'"
        raise InputValueError(msg)
    other = _registered.get(name)
    # A cell of a notebook that is run again defines the same class anew.
    same = other is None or (other.__module__, other.__qualname__) == (
        cls.__module__,
        cls.__qualname__,
    )
    if name in _METHODS or not same:
        msg = f"a method named {name!r} is there already; give {cls.__name__}.method another name"
        raise InputValueError(msg)
    _registered[name] = cls
    return cls


@cache
def _installed() -> dict[str, EntryPoint]:
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {name: entry for name, entry in found.items() if name not in _METHODS}


@cache
def _loaded(entry: EntryPoint) -> type[SpotModel]:
    try:
        load: Callable[[], type[SpotModel]] = entry.load
        return register(load())
    except Exception as error:
        msg = f"the method {entry.name!r} of the installed package ({entry.value}) cannot be loaded: {error}"
        raise InputValueError(msg) from error
