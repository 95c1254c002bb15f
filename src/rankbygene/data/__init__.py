"""SpatialData to tensors: slides, tiles and expression."""

from __future__ import annotations

from rankbygene.data._geometry import TilePlan, plan_tiles
from rankbygene.data._samples import (
    SpatialSetup,
    SpotFrame,
    frame_from_shapes,
    resolve,
    resolve_slides,
)

__all__ = [
    "SpatialSetup",
    "SpotFrame",
    "TilePlan",
    "frame_from_shapes",
    "plan_tiles",
    "resolve",
    "resolve_slides",
]
