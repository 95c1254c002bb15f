"""Ready SpatialData objects."""

from __future__ import annotations

from rankbygene.datasets._synthetic import synthetic

__all__ = ["synthetic"]
