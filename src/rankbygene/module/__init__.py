"""Networks of the methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankbygene._lazy import lazily

if TYPE_CHECKING:
    from rankbygene.base.slides._module import SlideModule
    from rankbygene.base.spots._module import SpotModule
    from rankbygene.methods.nh2st._module import NH2ST_RELEASED, Encoded, NH2STModule, NH2STOutput
    from rankbygene.methods.rankbygene._module import ImageBranch, RankByGeneModule
    from rankbygene.methods.rankbygene._released import load_released_checkpoint
    from rankbygene.methods.simclr._module import SimCLRModule

_WHERE = {
    "SlideModule": "rankbygene.base.slides._module",
    "SpotModule": "rankbygene.base.spots._module",
    "Encoded": "rankbygene.methods.nh2st._module",
    "NH2STModule": "rankbygene.methods.nh2st._module",
    "NH2STOutput": "rankbygene.methods.nh2st._module",
    "NH2ST_RELEASED": "rankbygene.methods.nh2st._module",
    "ImageBranch": "rankbygene.methods.rankbygene._module",
    "RankByGeneModule": "rankbygene.methods.rankbygene._module",
    "load_released_checkpoint": "rankbygene.methods.rankbygene._released",
    "SimCLRModule": "rankbygene.methods.simclr._module",
}

__all__ = [
    "Encoded",
    "ImageBranch",
    "NH2STModule",
    "NH2STOutput",
    "NH2ST_RELEASED",
    "RankByGeneModule",
    "SimCLRModule",
    "SlideModule",
    "SpotModule",
    "load_released_checkpoint",
]

__getattr__, __dir__ = lazily(__name__, lambda: _WHERE)
