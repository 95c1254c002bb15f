"""Models that work on SpatialData objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankbygene._lazy import lazily

if TYPE_CHECKING:
    from rankbygene.methods.mil._classifier import SlideClassifier
    from rankbygene.methods.mil._survival import SlideSurvival
    from rankbygene.methods.nh2st._model import NH2ST
    from rankbygene.methods.rankbygene._model import RankByGene
    from rankbygene.methods.simclr._pretrain import PretrainedBackbone, pretrain
    from rankbygene.model._fit import fit, load

_WHERE = {
    "SlideClassifier": "rankbygene.methods.mil._classifier",
    "SlideSurvival": "rankbygene.methods.mil._survival",
    "NH2ST": "rankbygene.methods.nh2st._model",
    "RankByGene": "rankbygene.methods.rankbygene._model",
    "PretrainedBackbone": "rankbygene.methods.simclr._pretrain",
    "pretrain": "rankbygene.methods.simclr._pretrain",
    "fit": "rankbygene.model._fit",
    "load": "rankbygene.model._fit",
}

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

__getattr__, __dir__ = lazily(__name__, lambda: _WHERE)
