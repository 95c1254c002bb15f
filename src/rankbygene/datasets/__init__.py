"""Ready SpatialData objects."""

from __future__ import annotations

from rankbygene.datasets._real import her2st, olfactory_bulb
from rankbygene.datasets._synthetic import synthetic

__all__ = ["her2st", "olfactory_bulb", "synthetic"]
