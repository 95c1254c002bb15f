"""Networks of the methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankbygene._lazy import lazily
from rankbygene.methods._registry import public_names

if TYPE_CHECKING:
    from rankbygene.base.slides._module import SlideModule as SlideModule
    from rankbygene.base.spots._module import SpotModule as SpotModule
    from rankbygene.methods.nh2st._module import NH2ST_RELEASED_MODULE as NH2ST_RELEASED_MODULE
    from rankbygene.methods.nh2st._module import Encoded as Encoded
    from rankbygene.methods.nh2st._module import NH2STModule as NH2STModule
    from rankbygene.methods.nh2st._module import NH2STOutput as NH2STOutput
    from rankbygene.methods.rankbygene._module import ImageBranch as ImageBranch
    from rankbygene.methods.rankbygene._module import RankByGeneModule as RankByGeneModule
    from rankbygene.methods.rankbygene._released import (
        load_released_checkpoint as load_released_checkpoint,
    )
    from rankbygene.methods.simclr._module import SimCLRModule as SimCLRModule

_WHERE = {
    "SlideModule": "rankbygene.base.slides._module",
    "SpotModule": "rankbygene.base.spots._module",
    "Encoded": "rankbygene.methods.nh2st._module",
    "NH2STOutput": "rankbygene.methods.nh2st._module",
    "NH2ST_RELEASED_MODULE": "rankbygene.methods.nh2st._module",
    "ImageBranch": "rankbygene.methods.rankbygene._module",
    "load_released_checkpoint": "rankbygene.methods.rankbygene._released",
    "SimCLRModule": "rankbygene.methods.simclr._module",
}

_WHERE |= public_names("module")

__all__ = sorted(_WHERE)

__getattr__, __dir__ = lazily(__name__, _WHERE, before={"NH2ST_RELEASED": "NH2ST_RELEASED_MODULE"})
