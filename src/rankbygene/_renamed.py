"""Names of before: still taken, with one warning that says the name of today."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

from rankbygene._checks import shown
from rankbygene.errors import InputTypeError

__all__ = ["Today", "by_names_of_today", "renamed", "warn_of_name"]

F = TypeVar("F", bound=Callable[..., Any])


def renamed(**today: str | tuple[str, str]) -> Callable[[F], F]:
    """Let a checked function take keyword arguments by names of before.

    Parameters
    ----------
    **today
        ``before="today"``, or ``before=("mapping", "entry")`` where the value is today an entry of the
        argument ``mapping``.
    """

    def mark(function: F) -> F:
        function.__renamed__ = today  # type: ignore[attr-defined]
        return function

    return mark


@dataclass
class Today:
    """Keyword arguments by the names of today.

    Attributes
    ----------
    given
        The arguments.
    note
        What to say of names of before; empty where there was none.
    """

    given: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def warn(self) -> None:
        """Say it, where there is something to say."""
        if self.note:
            warn_of_name(self.note)


def by_names_of_today(
    function: Callable[..., Any], given: Mapping[str, Any], name: str = ""
) -> Today:
    """Read keyword arguments of a function, some of which may be called as before.

    Parameters
    ----------
    function
        The function; what is not :func:`renamed` has no names of before.
    given
        The arguments.
    name
        What the mapping of arguments is called; empty where they are given directly.

    Raises
    ------
    InputTypeError
        An argument is given by both names.
    """
    names: Mapping[str, str | tuple[str, str]] = getattr(function, "__renamed__", {})
    before = [key for key in given if key in names]
    if not before:
        return Today(dict(given))
    told: dict[str, Any] = {}
    for key in before:
        today = names[key]
        own, *entry = (today,) if isinstance(today, str) else today
        if own in given or (own in told and not entry):
            msg = (
                f"{_place(name)}{key} is the name of before for what {own} says today, and both are given; "
                f"leave out {key}"
            )
            raise InputTypeError(msg)
        if entry:
            told.setdefault(own, {})[entry[0]] = given[key]
        else:
            told[own] = given[key]
    words = ", ".join(f"{key}={shown(value)}" for key, value in told.items())
    note = f"{_place(name)}{', '.join(before)} will go in a later version; write {words}"
    rest = {key: value for key, value in given.items() if key not in names}
    return Today({**rest, **told}, note)


def warn_of_name(text: str) -> None:
    """Warn of a name of before, at the line outside this package that it comes from."""
    frame = _outside(sys._getframe(1))
    warnings.warn_explicit(
        text,
        DeprecationWarning,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=frame.f_globals.get("__name__") or "__main__",
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _outside(frame: FrameType) -> FrameType:
    inside = ("rankbygene", "importlib", "dataclasses", "functools")
    while frame.f_back and str(frame.f_globals.get("__name__")).split(".")[0] in inside:
        frame = frame.f_back
    return frame


def _place(name: str) -> str:
    return f"{name}: " if name else ""
