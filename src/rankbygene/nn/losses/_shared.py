"""What losses share: cosines of rows, and checks of what they compare."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rankbygene.errors import InputValueError

__all__ = [
    "check_choice",
    "check_pair",
    "check_same_shape",
    "check_temperature",
    "check_vectors",
    "cosine",
]


def cosine(rows: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """Cosine of every row of a matrix with every row of another, or of itself.

    In single precision at least, within autocast too: the products of half precision are off by more
    than temperatures tell apart.
    """
    with torch.autocast(rows.device.type, enabled=False):
        unit = _unit(rows)
        return unit @ (unit if others is None else _unit(others)).T


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=1)


def check_same_shape(a: torch.Tensor, b: torch.Tensor, name_a: str, name_b: str) -> None:
    if a.shape != b.shape:
        msg = f"{name_a} {tuple(a.shape)} and {name_b} {tuple(b.shape)} must have the same shape"
        raise InputValueError(msg)


def check_pair(a: torch.Tensor, b: torch.Tensor, name_a: str, name_b: str) -> None:
    check_same_shape(a, b, name_a, name_b)
    if a.ndim != 2 or not len(a):
        msg = f"{name_a} and {name_b} are {tuple(a.shape)}; [N, D] with N >= 1 is needed"
        raise InputValueError(msg)


def check_temperature(temperature: float) -> None:
    if not temperature > 0:
        msg = f"temperature is {temperature}; a positive number is needed, such as 0.1"
        raise InputValueError(msg)


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        msg = f"{name}={value!r} is not known; choose {' or '.join(map(repr, allowed))}"
        raise InputValueError(msg)


def check_vectors(values: torch.Tensor, time: torch.Tensor, event: torch.Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (values, time, event)]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1:
        msg = f"predictions, times and events have the shapes {shapes}; one value per row is needed"
        raise InputValueError(msg)
