"""Docstrings of what takes the arguments of something else: described there once, shown here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

__all__ = ["with_parameters"]

_HEADING = re.compile(r"(?m)^(\w[\w ]*)\n-{3,}\n")


def with_parameters(text: str | None, described: str | None, order: Iterable[str]) -> str:
    """Add the parameters that another docstring describes.

    Parameters
    ----------
    text
        A numpydoc docstring, with or without parameters of its own.
    described
        One that describes more of them; what ``text`` describes itself is left out. What follows its
        parameters, such as what is raised, is taken where ``text`` has nothing there.
    order
        Names of all parameters, in the order of the signature.

    Returns
    -------
    The docstring with one section of parameters.
    """
    before, own, after = _divided(inspect.cleandoc(text or ""))
    _, more, rest = _divided(inspect.cleandoc(described or ""))
    after = after or rest
    places = {name: place for place, name in enumerate(order)}
    entries = {_names(entry): entry for entry in more if _names(entry)[0] in places}
    for entry in own:
        entries = {names: e for names, e in entries.items() if names[0] not in _names(entry)}
        entries[_names(entry)] = entry
    if not entries:
        return f"{before}{after}"
    ranked = sorted(entries, key=lambda names: places.get(names[0], len(places)))
    section = "".join(f"{entries[names].rstrip()}\n" for names in ranked)
    return f"{before.rstrip()}\n\nParameters\n----------\n{section}\n{after}".rstrip() + "\n"


def _divided(text: str) -> tuple[str, list[str], str]:
    """Cut a docstring into what comes before its parameters, these one by one, and the rest."""
    headings = list(_HEADING.finditer(text))
    for place, heading in enumerate(headings):
        if heading[1] != "Parameters":
            continue
        end = headings[place + 1].start() if place + 1 < len(headings) else len(text)
        entries = re.split(r"(?m)^(?=\S)", text[heading.end() : end])
        return text[: heading.start()], [entry for entry in entries if entry.strip()], text[end:]
    first = headings[0].start() if headings else len(text)
    return text[:first], [], text[first:]


def _names(entry: str) -> tuple[str, ...]:
    """Names that an entry of a section describes."""
    line = entry.partition("\n")[0]
    return tuple(name.strip().lstrip("*") for name in line.split(","))
