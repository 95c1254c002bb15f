"""Judging models: held-out scores with baselines beside them."""

from __future__ import annotations

from rankbygene.tl._evaluate import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
