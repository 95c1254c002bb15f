"""Records in plain values: for ``model.json`` and for the provenance in a table."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("rankbygene", "torch", "timm", "lightning", "scvi-tools", "spatialdata", "anndata")


def package_versions() -> dict[str, str]:
    """Versions of the packages that a model depends on."""
    return {name: version(name) for name in PACKAGES}


def file_name(path: str | None) -> str | None:
    """Name of a file without its folder, which would tell of the machine and its user."""
    return None if path is None else Path(path).name


def plain(value: Any) -> Any:
    """Reduce to what anndata stores: numbers, text, nested dicts and flat lists of one type."""
    if isinstance(value, dict):
        return {str(key).replace("/", "_"): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
