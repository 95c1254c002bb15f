"""Models that work on SpatialData objects."""

from __future__ import annotations

from rankbygene.model._fit import fit
from rankbygene.model._rankbygene import RankByGene

__all__ = ["RankByGene", "fit"]
