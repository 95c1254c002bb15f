"""Training: plans, views, the teacher's moving average, callbacks."""

from __future__ import annotations

from rankbygene.train._batch_plan import BatchPlan
from rankbygene.train._batch_size import find_batch_size
from rankbygene.train._callbacks import BestWeights, FiniteLoss
from rankbygene.train._ema import default_momentum, momentum_schedule, update_teacher
from rankbygene.train._encoder import encoders_for_training
from rankbygene.train._head import fit_head
from rankbygene.train._nh2st_plan import NH2ST_RELEASED, NH2STPlan
from rankbygene.train._plan import RELEASED, RankByGenePlan
from rankbygene.train._pretrain_plan import SimCLRPlan
from rankbygene.train._resume import Resume, read_checkpoint
from rankbygene.train._shard import shard, whole_state
from rankbygene.train._slide_plan import SlidePlan
from rankbygene.train._spot_plan import SpotPlan
from rankbygene.train._statistics import fit_statistics
from rankbygene.train._sync_batchnorm import SyncBatchNorm
from rankbygene.train._views import strong_view, weak_view
from rankbygene.train._watched_plan import WatchedPlan

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
