"""Pictures: training curves, tiles, gene maps, scores, image features."""

from __future__ import annotations

from rankbygene.pl._attention import attention_map, top_tiles
from rankbygene.pl._features import distance_agreement, embedding_clusters
from rankbygene.pl._genes import gene_scatter
from rankbygene.pl._history import history
from rankbygene.pl._maps import gene_maps
from rankbygene.pl._outcomes import calibration, kaplan_meier
from rankbygene.pl._scores import scores
from rankbygene.pl._spatial import spatial_expression
from rankbygene.pl._tiles import tiles

__all__ = [
    "attention_map",
    "calibration",
    "distance_agreement",
    "embedding_clusters",
    "gene_maps",
    "gene_scatter",
    "history",
    "kaplan_meier",
    "scores",
    "spatial_expression",
    "tiles",
    "top_tiles",
]
