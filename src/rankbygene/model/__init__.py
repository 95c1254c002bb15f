"""Models that work on SpatialData objects."""

from __future__ import annotations

from rankbygene.model._fit import fit
from rankbygene.model._pretrain import PretrainedBackbone, pretrain
from rankbygene.model._rankbygene import RankByGene

__all__ = ["PretrainedBackbone", "RankByGene", "fit", "pretrain"]
