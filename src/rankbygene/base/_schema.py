"""The form of ``model.json``, held against what is read before anything is built from it.

The folder may come from anyone: every leaf has a type, numbers have bounds that memory can take, and
all that is wrong is reported at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from rankbygene.errors import InputValueError, Problems
from rankbygene.nn._statistics import STATISTICS_VERSION

__all__ = ["MAX_BYTES", "SLIDE_RECORD", "SPOT_RECORD", "check_record"]

# Problems of a value at a place; each raises for its own.
Check: TypeAlias = Callable[[Any, str, Problems], None]

# Bytes of a record; that of 100,000 genes takes 4 MB.
MAX_BYTES = 1 << 26
_MAX_WIDTH, _MAX_PX, _MAX_UM = 1 << 16, 1 << 13, 1e6
_MAX_DEPTH, _MAX_TEXT, _MAX_ITEMS = 12, 1 << 16, 1 << 22


def check_record(record: Any, form: Check, place: str) -> None:
    """Refuse a record that does not have a form.

    Raises
    ------
    InputValueError
        All places that are wrong, with what was found and what is needed.
    """
    problems = Problems(place)
    form(record, "", problems)
    problems.raise_if_any()


def _wrong(problems: Problems, place: str, found: Any, needed: str) -> None:
    text = repr(found)
    msg = f"{place or 'the record'} is {text[:60]}{'...' * (len(text) > 60)}; {needed} is needed"
    problems.found.append(InputValueError(msg))


def text(value: Any, place: str, problems: Problems) -> None:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        _wrong(problems, place, value, "text")


def flag(value: Any, place: str, problems: Problems) -> None:
    if not isinstance(value, bool):
        _wrong(problems, place, value, "true or false")


def whole(low: int, high: int) -> Check:
    def check(value: Any, place: str, problems: Problems) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            _wrong(problems, place, value, f"a whole number from {low} to {high}")

    return check


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """Accept a finite number in ``(low, high]``."""

    def check(value: Any, place: str, problems: Problems) -> None:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (is_number and math.isfinite(value) and low < value <= high):
            _wrong(problems, place, value, f"a number above {low:g} and up to {high:g}")

    return check


def optional(form: Check) -> Check:
    def check(value: Any, place: str, problems: Problems) -> None:
        if value is not None:
            form(value, place, problems)

    return check


def either(needed: str, *forms: Check) -> Check:
    def check(value: Any, place: str, problems: Problems) -> None:
        for form in forms:
            attempt = Problems()
            form(value, place, attempt)
            if not attempt.found:
                return
        _wrong(problems, place, value, needed)

    return check


def choice(*allowed: str) -> Check:
    def check(value: Any, place: str, problems: Problems) -> None:
        if not isinstance(value, str) or value not in allowed:
            _wrong(problems, place, value, f"one of {', '.join(map(repr, allowed))}")

    return check


def items(form: Check, *, least: int = 0, most: int = _MAX_ITEMS, unique: bool = False) -> Check:
    """Accept a list whose items have a form."""

    def check(value: Any, place: str, problems: Problems) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            _wrong(problems, place, value, f"a list of {least} to {most} items")
            return
        for i, item in enumerate(value):
            form(item, f"{place}[{i}]", problems)
        if unique and not problems.found and len(set(value)) < len(value):
            _wrong(problems, place, value, "a list without repetitions")

    return check


def entries(form: Check) -> Check:
    """Accept an object with any names, whose values have a form."""

    def check(value: Any, place: str, problems: Problems) -> None:
        if not isinstance(value, dict):
            _wrong(problems, place, value, "an object")
            return
        for name, item in value.items():
            form(item, f"{place}.{name}", problems)

    return check


def fields(forms: Mapping[str, Check], *, may_lack: frozenset[str] = frozenset()) -> Check:
    """Accept an object that has certain fields; others are left to whoever reads them."""

    def check(value: Any, place: str, problems: Problems) -> None:
        if not isinstance(value, dict):
            _wrong(problems, place, value, "an object")
            return
        for name, form in forms.items():
            inner = f"{place}.{name}" if place else name
            if name in value:
                form(value[name], inner, problems)
            elif name not in may_lack:
                problems.found.append(InputValueError(f"{inner} is missing"))

    return check


def plain(value: Any, place: str, problems: Problems, depth: int = 0) -> None:
    """Accept nested plain values of bounded depth; numbers are finite."""
    if depth > _MAX_DEPTH:
        _wrong(problems, place, "a deeper value", f"at most {_MAX_DEPTH} levels")
    elif isinstance(value, dict):
        for name, item in value.items():
            plain(item, f"{place}.{name}", problems, depth + 1)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            plain(item, f"{place}[{i}]", problems, depth + 1)
    elif isinstance(value, float):
        number()(value, place, problems)
    elif isinstance(value, str):
        text(value, place, problems)


_WIDTH, _PX, _UM = whole(1, _MAX_WIDTH), whole(1, _MAX_PX), number(0, _MAX_UM)
_PER_REGION = "text, or text for each region"
_SEED = whole(0, (1 << 32) - 1)

_COMMON: dict[str, Check] = {
    "class": text,
    "method": text,
    "versions": entries(text),
    "seed": _SEED,
    "training": plain,
    "is_trained": flag,
}

SPOT_RECORD = fields(
    {
        **_COMMON,
        "setup": fields(
            {
                "table_key": text,
                "image_key": optional(either(_PER_REGION, text, entries(text))),
                "layer": optional(text),
                "coordinate_system": optional(text),
                "patient_key": optional(text),
                "um_per_px": optional(
                    either("a number, or one for each region", _UM, entries(_UM))
                ),
            }
        ),
        "backbone": fields(
            {
                "name": text,
                "n_features": _WIDTH,
                "mean": items(number(), least=3, most=3),
                "std": items(number(0), least=3, most=3),
                "tile_um": _UM,
                "tile_px": _PX,
                "pretrained": flag,
                "weights": optional(text),
                "weights_hash": text,
                "architecture": optional(fields({"name": text, "args": entries(plain)})),
                "images_seen": entries(items(text)),
            },
            may_lack=frozenset({"architecture", "images_seen"}),
        ),
        "tile": fields({"um": _UM, "px": _PX, "widths_um": items(_UM, least=1, most=16)}),
        "normalization": fields(
            {
                "target_sum": number(0),
                "library": text,
                "log_base": text,
                "neighbourhood": text,
                "n_neighbors": whole(1, 1 << 16),
            }
        ),
        "panel_method": text,
        "genes": items(text, least=1, unique=True),
        "module": entries(plain),
        "statistics": optional(whole(1, STATISTICS_VERSION)),
        "fine_tuning": fields(
            {
                "fine_tune": choice("full", "last_n", "lora", "none"),
                "n_last": optional(whole(1, _MAX_WIDTH)),
                "lora_kwargs": optional(entries(plain)),
            },
            may_lack=frozenset({"fine_tune", "n_last", "lora_kwargs"}),
        ),
        "split": text,
        "scores": entries(number()),
        "validation_pearson": items(optional(number(-1.0001, 1.0001))),
    },
    # The first models could not be fine-tuned in part, and knew one kind of statistics.
    may_lack=frozenset({"fine_tuning", "statistics"}),
)

SLIDE_RECORD = fields(
    {
        **_COMMON,
        "unit": choice("patient", "slide"),
        "on_error": choice("raise", "warn"),
        "columns": entries(text),
        "patient_key": optional(text),
        "slide_key": optional(text),
        "setup": fields(
            {
                "table_key": text,
                "feature_key": optional(text),
                "layer": optional(text),
                "genes": optional(items(text, unique=True)),
            }
        ),
        "n_features": _WIDTH,
        "network": entries(plain),
        "outcome": entries(plain),
        "split": entries(text),
    }
)
