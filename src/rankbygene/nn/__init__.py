"""Image encoders, heads and losses."""

from __future__ import annotations

from rankbygene.nn import losses
from rankbygene.nn._attention import CrossAttention
from rankbygene.nn._heads import ExpressionMLP, FeatureScaling, ResidualMLP
from rankbygene.nn._hypergraph import HypergraphConv, HypergraphEncoder, similarity_hypergraph
from rankbygene.nn._mil import (
    GatedAttention,
    MaxPooling,
    MeanPooling,
    Pooling,
    SeedAttention,
    build_pooling,
)
from rankbygene.nn._statistics import N_STATISTICS, color_statistics, color_texture_statistics
from rankbygene.nn.encoders._backbone import BackboneSpec, build_backbone
from rankbygene.nn.encoders._fine_tune import FineTune, set_fine_tuning
from rankbygene.nn.encoders._orientations import orientations
from rankbygene.nn.encoders._pathology import PATHOLOGY_BACKBONES, PathologyBackbone
from rankbygene.nn.encoders._pixels import normalize_pixels
from rankbygene.nn.encoders._weights import read_tensors

__all__ = [
    "N_STATISTICS",
    "color_statistics",
    "color_texture_statistics",
    "BackboneSpec",
    "CrossAttention",
    "ExpressionMLP",
    "FeatureScaling",
    "FineTune",
    "GatedAttention",
    "HypergraphConv",
    "HypergraphEncoder",
    "MaxPooling",
    "MeanPooling",
    "PATHOLOGY_BACKBONES",
    "PathologyBackbone",
    "Pooling",
    "ResidualMLP",
    "SeedAttention",
    "build_backbone",
    "build_pooling",
    "losses",
    "normalize_pixels",
    "orientations",
    "read_tensors",
    "set_fine_tuning",
    "similarity_hypergraph",
]
