"""Gene-guided histology representations and spatial gene expression from H&E, on SpatialData."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rankbygene._version import __version__

if TYPE_CHECKING:
    from rankbygene import (
        base,
        data,
        datasets,
        errors,
        io,
        metrics,
        model,
        module,
        nn,
        pl,
        pp,
        testing,
        tl,
        train,
    )

# Subpackages load torch, scanpy or spatialdata; each is imported when it is first used.
_SUBPACKAGES = frozenset(
    {
        "base",
        "data",
        "datasets",
        "errors",
        "io",
        "metrics",
        "model",
        "module",
        "nn",
        "pl",
        "pp",
        "testing",
        "tl",
        "train",
    }
)

__all__ = ["__version__", *sorted(_SUBPACKAGES)]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBPACKAGES})
