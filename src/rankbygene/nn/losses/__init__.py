"""Losses of gene-guided image representations, and of censored times.

Notation: a batch of ``N`` spots, ``S`` a matrix of similarities ``[N, N]`` within one modality.
"""

from __future__ import annotations

from rankbygene.nn.losses._cox import Ties, cox_loss
from rankbygene.nn.losses._discrete_time import discrete_time_loss
from rankbygene.nn.losses._info_nce import info_nce
from rankbygene.nn.losses._nt_xent import nt_xent
from rankbygene.nn.losses._ranking_consistency import (
    RankingReduction,
    RankingVariant,
    ranking_consistency,
)
from rankbygene.nn.losses._similarity import Similarity, similarity
from rankbygene.nn.losses._soft_target_contrast import soft_target_contrast

__all__ = [
    "RankingReduction",
    "RankingVariant",
    "Similarity",
    "Ties",
    "cox_loss",
    "discrete_time_loss",
    "info_nce",
    "nt_xent",
    "ranking_consistency",
    "similarity",
    "soft_target_contrast",
]
