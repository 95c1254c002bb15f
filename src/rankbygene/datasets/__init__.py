"""Ready SpatialData objects, and the outcomes of published slide cohorts."""

from __future__ import annotations

from rankbygene.datasets._cohort import SyntheticCohort, synthetic_cohort
from rankbygene.datasets._cohorts import bcnb_labels, tcga_case, tcga_clinical
from rankbygene.datasets._real import her2st, olfactory_bulb
from rankbygene.datasets._synthetic import synthetic

__all__ = [
    "SyntheticCohort",
    "bcnb_labels",
    "her2st",
    "olfactory_bulb",
    "synthetic",
    "synthetic_cohort",
    "tcga_case",
    "tcga_clinical",
]
