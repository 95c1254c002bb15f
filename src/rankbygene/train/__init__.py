"""Training: plans, views, the teacher's moving average, callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankbygene._lazy import lazily

if TYPE_CHECKING:
    from rankbygene.base.slides._plan import SlidePlan
    from rankbygene.base.spots._plan import SpotPlan
    from rankbygene.methods.nh2st._plan import NH2ST_RELEASED, NH2STPlan
    from rankbygene.methods.rankbygene._head import fit_head
    from rankbygene.methods.rankbygene._plan import RELEASED, RankByGenePlan
    from rankbygene.methods.simclr._plan import SimCLRPlan
    from rankbygene.train._batch_plan import BatchPlan
    from rankbygene.train._batch_size import find_batch_size
    from rankbygene.train._callbacks import BestWeights, FiniteLoss
    from rankbygene.train._ema import default_momentum, momentum_schedule, update_teacher
    from rankbygene.train._encoder import encoders_for_training
    from rankbygene.train._resume import Resume, read_checkpoint
    from rankbygene.train._shard import shard, whole_state
    from rankbygene.train._statistics import fit_statistics
    from rankbygene.train._sync_batchnorm import SyncBatchNorm
    from rankbygene.train._views import strong_view, weak_view
    from rankbygene.train._watched_plan import WatchedPlan

_WHERE = {
    "SlidePlan": "rankbygene.base.slides._plan",
    "SpotPlan": "rankbygene.base.spots._plan",
    "NH2STPlan": "rankbygene.methods.nh2st._plan",
    "NH2ST_RELEASED": "rankbygene.methods.nh2st._plan",
    "fit_head": "rankbygene.methods.rankbygene._head",
    "RELEASED": "rankbygene.methods.rankbygene._plan",
    "RankByGenePlan": "rankbygene.methods.rankbygene._plan",
    "SimCLRPlan": "rankbygene.methods.simclr._plan",
    "BatchPlan": "rankbygene.train._batch_plan",
    "find_batch_size": "rankbygene.train._batch_size",
    "BestWeights": "rankbygene.train._callbacks",
    "FiniteLoss": "rankbygene.train._callbacks",
    "default_momentum": "rankbygene.train._ema",
    "momentum_schedule": "rankbygene.train._ema",
    "update_teacher": "rankbygene.train._ema",
    "encoders_for_training": "rankbygene.train._encoder",
    "Resume": "rankbygene.train._resume",
    "read_checkpoint": "rankbygene.train._resume",
    "shard": "rankbygene.train._shard",
    "whole_state": "rankbygene.train._shard",
    "fit_statistics": "rankbygene.train._statistics",
    "SyncBatchNorm": "rankbygene.train._sync_batchnorm",
    "strong_view": "rankbygene.train._views",
    "weak_view": "rankbygene.train._views",
    "WatchedPlan": "rankbygene.train._watched_plan",
}

__all__ = [
    "BatchPlan",
    "BestWeights",
    "FiniteLoss",
    "NH2STPlan",
    "NH2ST_RELEASED",
    "RELEASED",
    "RankByGenePlan",
    "Resume",
    "SimCLRPlan",
    "SlidePlan",
    "SpotPlan",
    "SyncBatchNorm",
    "WatchedPlan",
    "default_momentum",
    "encoders_for_training",
    "find_batch_size",
    "fit_head",
    "fit_statistics",
    "momentum_schedule",
    "read_checkpoint",
    "shard",
    "strong_view",
    "update_teacher",
    "weak_view",
    "whole_state",
]

__getattr__, __dir__ = lazily(__name__, lambda: _WHERE)
