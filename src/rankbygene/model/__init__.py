"""Models that work on SpatialData objects."""

from __future__ import annotations

from rankbygene.model._fit import fit, load
from rankbygene.model._nh2st import NH2ST
from rankbygene.model._pretrain import PretrainedBackbone, pretrain
from rankbygene.model._rankbygene import RankByGene

__all__ = ["NH2ST", "PretrainedBackbone", "RankByGene", "fit", "load", "pretrain"]
