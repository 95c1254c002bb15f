"""Models that work on SpatialData objects."""

from __future__ import annotations

from rankbygene.model._fit import fit, load
from rankbygene.model._nh2st import NH2ST
from rankbygene.model._pretrain import PretrainedBackbone, pretrain
from rankbygene.model._rankbygene import RankByGene
from rankbygene.model._slide_classifier import SlideClassifier
from rankbygene.model._slide_survival import SlideSurvival

__all__ = [
    "NH2ST",
    "PretrainedBackbone",
    "RankByGene",
    "SlideClassifier",
    "SlideSurvival",
    "fit",
    "load",
    "pretrain",
]
