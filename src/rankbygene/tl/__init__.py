"""Judging models: held-out scores with baselines beside them."""

from __future__ import annotations

from rankbygene.data import patient_folds
from rankbygene.tl._evaluate import Evaluation, evaluate
from rankbygene.tl.cross_validation._cross_validate import cross_validate
from rankbygene.tl.cross_validation._data import TestData, TrainingData
from rankbygene.tl.cross_validation._ensemble import EnsembleMethod
from rankbygene.tl.cross_validation._methods import BASELINES, FeatureMethod, ModelMethod
from rankbygene.tl.cross_validation._references import noise_ceiling
from rankbygene.tl.cross_validation._result import CrossValidation
from rankbygene.tl.cross_validation._result_folder import load_result
from rankbygene.tl.cross_validation._selection import NestedSelection
from rankbygene.tl.hest._bench import hest_bench
from rankbygene.tl.hest._result import HestBench
from rankbygene.tl.slides._cross_validate import SlideEvaluation, cross_validate_slides

__all__ = [
    "BASELINES",
    "CrossValidation",
    "EnsembleMethod",
    "Evaluation",
    "FeatureMethod",
    "HestBench",
    "ModelMethod",
    "NestedSelection",
    "SlideEvaluation",
    "TestData",
    "TrainingData",
    "cross_validate",
    "cross_validate_slides",
    "evaluate",
    "hest_bench",
    "load_result",
    "noise_ceiling",
    "patient_folds",
]
