"""Pictures: training curves, tiles, gene maps, scores, attention, outcomes."""

from __future__ import annotations

from rankbygene.pl._attention import attention_map, top_tiles
from rankbygene.pl._history import history
from rankbygene.pl._outcomes import calibration, kaplan_meier
from rankbygene.pl._scores import scores
from rankbygene.pl._spatial import spatial_expression
from rankbygene.pl._tiles import tiles

__all__ = [
    "attention_map",
    "calibration",
    "history",
    "kaplan_meier",
    "scores",
    "spatial_expression",
    "tiles",
    "top_tiles",
]
