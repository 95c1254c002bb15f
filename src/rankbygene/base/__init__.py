"""What the models of all methods share, and what a method of your own is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankbygene._lazy import lazily

if TYPE_CHECKING:
    from rankbygene.base.spots._model import SpotModel as SpotModel
    from rankbygene.base.spots._module import SpotModule as SpotModule
    from rankbygene.base.spots._options import SpotOptions as SpotOptions
    from rankbygene.base.spots._options import own_options as own_options
    from rankbygene.base.spots._plan import SpotPlan as SpotPlan

_WHERE = {
    "SpotModel": "rankbygene.base.spots._model",
    "SpotModule": "rankbygene.base.spots._module",
    "SpotOptions": "rankbygene.base.spots._options",
    "SpotPlan": "rankbygene.base.spots._plan",
    "own_options": "rankbygene.base.spots._options",
}

__all__ = sorted(_WHERE)

__getattr__, __dir__ = lazily(__name__, _WHERE)
