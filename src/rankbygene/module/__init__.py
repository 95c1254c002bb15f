"""Networks of the methods."""

from __future__ import annotations

from rankbygene.module._rankbygene import ImageBranch, RankByGeneModule
from rankbygene.module._released import load_released_checkpoint
from rankbygene.module._slide import SlideModule

__all__ = ["ImageBranch", "RankByGeneModule", "SlideModule", "load_released_checkpoint"]
