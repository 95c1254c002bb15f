"""Models that work on SpatialData objects."""

from __future__ import annotations

from rankbygene.model._fit import fit
from rankbygene.model._rankbygene import RankByGene
from rankbygene.model._slide_classifier import SlideClassifier
from rankbygene.model._slide_survival import SlideSurvival

__all__ = ["RankByGene", "SlideClassifier", "SlideSurvival", "fit"]
