"""Judging models: held-out scores with baselines beside them."""

from __future__ import annotations

from rankbygene.tl._evaluate import Evaluation, evaluate
from rankbygene.tl._hest_bench import hest_bench
from rankbygene.tl._hest_result import HestBench

__all__ = ["Evaluation", "HestBench", "evaluate", "hest_bench"]
