"""Training: plans, views, the teacher's moving average, callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankbygene._lazy import lazily
from rankbygene.methods._registry import public_names

if TYPE_CHECKING:
    from rankbygene.base.slides._plan import SlidePlan as SlidePlan
    from rankbygene.base.spots._plan import SpotPlan as SpotPlan
    from rankbygene.methods.nh2st._plan import NH2ST_RELEASED_PLAN as NH2ST_RELEASED_PLAN
    from rankbygene.methods.nh2st._plan import NH2STPlan as NH2STPlan
    from rankbygene.methods.rankbygene._head import fit_head as fit_head
    from rankbygene.methods.rankbygene._plan import RELEASED as RELEASED
    from rankbygene.methods.rankbygene._plan import RankByGenePlan as RankByGenePlan
    from rankbygene.methods.simclr._plan import SimCLRPlan as SimCLRPlan
    from rankbygene.train._batch_plan import BatchPlan as BatchPlan
    from rankbygene.train._batch_size import find_batch_size as find_batch_size
    from rankbygene.train._callbacks import BestWeights as BestWeights
    from rankbygene.train._callbacks import FiniteLoss as FiniteLoss
    from rankbygene.train._ema import default_momentum as default_momentum
    from rankbygene.train._ema import momentum_schedule as momentum_schedule
    from rankbygene.train._ema import update_teacher as update_teacher
    from rankbygene.train._encoder import encoders_for_training as encoders_for_training
    from rankbygene.train._resume import Resume as Resume
    from rankbygene.train._resume import read_checkpoint as read_checkpoint
    from rankbygene.train._shard import shard as shard
    from rankbygene.train._shard import whole_state as whole_state
    from rankbygene.train._statistics import fit_statistics as fit_statistics
    from rankbygene.train._sync_batchnorm import SyncBatchNorm as SyncBatchNorm
    from rankbygene.train._views import strong_view as strong_view
    from rankbygene.train._views import weak_view as weak_view
    from rankbygene.train._watched_plan import WatchedPlan as WatchedPlan

_WHERE = {
    "SlidePlan": "rankbygene.base.slides._plan",
    "SpotPlan": "rankbygene.base.spots._plan",
    "NH2ST_RELEASED_PLAN": "rankbygene.methods.nh2st._plan",
    "fit_head": "rankbygene.methods.rankbygene._head",
    "RELEASED": "rankbygene.methods.rankbygene._plan",
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

_WHERE |= public_names("plan")

__all__ = sorted(_WHERE)

__getattr__, __dir__ = lazily(__name__, _WHERE, before={"NH2ST_RELEASED": "NH2ST_RELEASED_PLAN"})
