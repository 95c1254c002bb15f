"""Networks of the methods."""

from __future__ import annotations

from rankbygene.module._nh2st import NH2ST_RELEASED, Encoded, NH2STModule, NH2STOutput
from rankbygene.module._rankbygene import ImageBranch, RankByGeneModule
from rankbygene.module._released import load_released_checkpoint
from rankbygene.module._simclr import SimCLRModule
from rankbygene.module._slide import SlideModule
from rankbygene.module._spots import SpotModule

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
