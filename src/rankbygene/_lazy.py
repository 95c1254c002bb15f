"""Faces: packages whose public names live elsewhere and are loaded when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazily"]


def lazily(
    package: str, where: Mapping[str, str], *, before: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Give ``__getattr__`` and ``__dir__`` of a face.

    Parameters
    ----------
    package
        Its ``__name__``.
    where
        The module of every public name.
    before
        Names of today by those of before, which are still given, with a warning.
    """
    today = dict(before or {})

    def get(name: str) -> Any:
        if name in today:
            # `from package import name` asks twice, first whether the name is there.
            if sys._getframe(1).f_code.co_name != "_handle_fromlist":
                from rankbygene._renamed import warn_of_name

                warn_of_name(
                    f"{package}.{name} will go in a later version; write {package}.{today[name]}"
                )
            name = today[name]
        if name in where:
            return getattr(import_module(where[name]), name)
        msg = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(msg)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *where})

    return get, names
