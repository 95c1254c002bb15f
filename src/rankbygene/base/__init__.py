"""What the models of all methods share, and what a method of your own is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankbygene._lazy import lazily

if TYPE_CHECKING:
    from rankbygene.base.spots._context import Alone as Alone
    from rankbygene.base.spots._context import Context as Context
    from rankbygene.base.spots._context import Neighbours as Neighbours
    from rankbygene.base.spots._context import WholeSlide as WholeSlide
    from rankbygene.base.spots._context import Widths as Widths
    from rankbygene.base.spots._model import SpotModel as SpotModel
    from rankbygene.base.spots._module import SpotModule as SpotModule
    from rankbygene.base.spots._module import TileModule as TileModule
    from rankbygene.base.spots._options import SpotOptions as SpotOptions
    from rankbygene.base.spots._options import own_options as own_options
    from rankbygene.base.spots._plan import SpotPlan as SpotPlan
    from rankbygene.base.spots._surroundings import SlideFeatures as SlideFeatures
    from rankbygene.base.spots._surroundings import Surroundings as Surroundings
    from rankbygene.base.spots._tile_plan import SingleTilePlan as SingleTilePlan

_WHERE = {
    "Alone": "rankbygene.base.spots._context",
    "Context": "rankbygene.base.spots._context",
    "Neighbours": "rankbygene.base.spots._context",
    "SlideFeatures": "rankbygene.base.spots._surroundings",
    "SpotModel": "rankbygene.base.spots._model",
    "SpotModule": "rankbygene.base.spots._module",
    "SpotOptions": "rankbygene.base.spots._options",
    "SpotPlan": "rankbygene.base.spots._plan",
    "TileModule": "rankbygene.base.spots._module",
    "SingleTilePlan": "rankbygene.base.spots._tile_plan",
    "Surroundings": "rankbygene.base.spots._surroundings",
    "WholeSlide": "rankbygene.base.spots._context",
    "Widths": "rankbygene.base.spots._context",
    "own_options": "rankbygene.base.spots._options",
}

__all__ = sorted(_WHERE)

__getattr__, __dir__ = lazily(__name__, _WHERE)
