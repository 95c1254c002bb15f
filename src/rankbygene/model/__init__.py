"""Models that work on SpatialData objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankbygene._lazy import lazily
from rankbygene.methods._registry import public_names

if TYPE_CHECKING:
    from rankbygene.methods._registry import register as register
    from rankbygene.methods.mil._classifier import SlideClassifier as SlideClassifier
    from rankbygene.methods.mil._survival import SlideSurvival as SlideSurvival
    from rankbygene.methods.nh2st._model import NH2ST as NH2ST
    from rankbygene.methods.rankbygene._model import RankByGene as RankByGene
    from rankbygene.methods.simclr._pretrain import PretrainedBackbone as PretrainedBackbone
    from rankbygene.methods.simclr._pretrain import pretrain as pretrain
    from rankbygene.model._fit import fit as fit
    from rankbygene.model._fit import load as load

_WHERE = {
    "SlideClassifier": "rankbygene.methods.mil._classifier",
    "SlideSurvival": "rankbygene.methods.mil._survival",
    "PretrainedBackbone": "rankbygene.methods.simclr._pretrain",
    "pretrain": "rankbygene.methods.simclr._pretrain",
    "fit": "rankbygene.model._fit",
    "load": "rankbygene.model._fit",
    "register": "rankbygene.methods._registry",
}

_WHERE |= public_names("model")

__all__ = sorted(_WHERE)

__getattr__, __dir__ = lazily(__name__, _WHERE)
