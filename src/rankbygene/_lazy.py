"""Faces: packages whose public names live elsewhere and are loaded when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazily"]


def lazily(
    package: str, where: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Give ``__getattr__`` and ``__dir__`` of a face.

    Parameters
    ----------
    package
        Its ``__name__``.
    where
        The module of every public name.
    """

    def get(name: str) -> Any:
        if name in where:
            return getattr(import_module(where[name]), name)
        msg = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(msg)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *where})

    return get, names
