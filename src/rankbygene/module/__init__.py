"""Networks of the methods."""

from __future__ import annotations

from rankbygene.module._rankbygene import ImageBranch, RankByGeneModule

__all__ = ["ImageBranch", "RankByGeneModule"]
