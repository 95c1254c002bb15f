"""Image encoders, heads and losses."""

from __future__ import annotations

from rankbygene.nn import losses
from rankbygene.nn._backbone import BackboneSpec, build_backbone
from rankbygene.nn._heads import ExpressionMLP, FeatureScaling, ResidualMLP
from rankbygene.nn._orientations import orientations
from rankbygene.nn._pathology import PATHOLOGY_BACKBONES, PathologyBackbone
from rankbygene.nn._pixels import normalize_pixels
from rankbygene.nn._weights import read_tensors

__all__ = [
    "PATHOLOGY_BACKBONES",
    "BackboneSpec",
    "ExpressionMLP",
    "FeatureScaling",
    "PathologyBackbone",
    "ResidualMLP",
    "build_backbone",
    "losses",
    "normalize_pixels",
    "orientations",
    "read_tensors",
]
