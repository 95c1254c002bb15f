"""One definition of each score; plain arrays in, float64 out."""

from __future__ import annotations

from rankbygene.metrics._agreement import RankAgreement, rank_agreement
from rankbygene.metrics._bootstrap import (
    BootstrapInterval,
    bootstrap_interval,
    bootstrap_mean,
    paired_bootstrap,
)
from rankbygene.metrics._clustering import VMeasure, v_measure, v_measure_of_labels
from rankbygene.metrics._correlation import pearson, spearman
from rankbygene.metrics._distance import distance_r2
from rankbygene.metrics._error import mae, mse

__all__ = [
    "BootstrapInterval",
    "RankAgreement",
    "VMeasure",
    "bootstrap_interval",
    "bootstrap_mean",
    "distance_r2",
    "mae",
    "mse",
    "paired_bootstrap",
    "pearson",
    "rank_agreement",
    "spearman",
    "v_measure",
    "v_measure_of_labels",
]
