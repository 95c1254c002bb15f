"""Pictures: training curves, tiles, gene maps, scores."""

from __future__ import annotations

from rankbygene.pl._history import history
from rankbygene.pl._scores import scores
from rankbygene.pl._spatial import spatial_expression
from rankbygene.pl._tiles import tiles

__all__ = ["history", "scores", "spatial_expression", "tiles"]
