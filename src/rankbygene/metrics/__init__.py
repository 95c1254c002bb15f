"""One definition of each score; plain arrays in, float64 out."""

from __future__ import annotations

from rankbygene.metrics._agreement import RankAgreement, rank_agreement
from rankbygene.metrics._bootstrap import (
    BootstrapInterval,
    bootstrap_interval,
    bootstrap_mean,
    paired_bootstrap,
)
from rankbygene.metrics._clustering import VMeasure, ari, nmi, v_measure, v_measure_of_labels
from rankbygene.metrics._correlation import concordance, pearson, pearson_per_spot, spearman
from rankbygene.metrics._distance import distance_r2
from rankbygene.metrics._distribution import (
    auc_expressed,
    jensen_shannon,
    relative_variation_distance,
    variance_ratio,
)
from rankbygene.metrics._domains import chaos, pas
from rankbygene.metrics._error import mae, mse, nrmse, r2
from rankbygene.metrics._genes import gene_correlation_agreement, oracle_top_k_mean, top_k_mean
from rankbygene.metrics._moran import MoranAgreement, moran_agreement
from rankbygene.metrics._retrieval import RecallAtK, recall_at_k
from rankbygene.metrics._slides import auprc, auroc, balanced_accuracy, macro_f1
from rankbygene.metrics._ssim import ssim
from rankbygene.metrics._survival import (
    LogRank,
    brier_score,
    concordance_index,
    concordance_index_ipcw,
    integrated_brier_score,
    logrank,
    time_dependent_auc,
)

__all__ = [
    "BootstrapInterval",
    "LogRank",
    "MoranAgreement",
    "RankAgreement",
    "RecallAtK",
    "VMeasure",
    "ari",
    "auc_expressed",
    "auprc",
    "auroc",
    "balanced_accuracy",
    "bootstrap_interval",
    "bootstrap_mean",
    "brier_score",
    "chaos",
    "concordance",
    "concordance_index",
    "concordance_index_ipcw",
    "distance_r2",
    "gene_correlation_agreement",
    "integrated_brier_score",
    "jensen_shannon",
    "logrank",
    "macro_f1",
    "mae",
    "moran_agreement",
    "mse",
    "nmi",
    "nrmse",
    "oracle_top_k_mean",
    "paired_bootstrap",
    "pas",
    "pearson",
    "pearson_per_spot",
    "r2",
    "rank_agreement",
    "recall_at_k",
    "relative_variation_distance",
    "spearman",
    "ssim",
    "time_dependent_auc",
    "top_k_mean",
    "v_measure",
    "v_measure_of_labels",
    "variance_ratio",
]
