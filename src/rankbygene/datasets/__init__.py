"""Ready SpatialData objects."""

from __future__ import annotations

from rankbygene.datasets._cohort import SyntheticCohort, synthetic_cohort
from rankbygene.datasets._real import her2st, olfactory_bulb
from rankbygene.datasets._synthetic import synthetic

__all__ = ["SyntheticCohort", "her2st", "olfactory_bulb", "synthetic", "synthetic_cohort"]
