"""Judging models: held-out scores with baselines beside them."""

from __future__ import annotations

from rankbygene.data import patient_folds
from rankbygene.tl._evaluate import Evaluation, evaluate
from rankbygene.tl._slides import SlideEvaluation, cross_validate_slides

__all__ = [
    "Evaluation",
    "SlideEvaluation",
    "cross_validate_slides",
    "evaluate",
    "patient_folds",
]
