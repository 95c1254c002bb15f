"""SpatialData to tensors: slides, tiles and expression."""

from __future__ import annotations

from rankbygene._lazy import lazily
from rankbygene.data.bags._bag_module import BagDataModule
from rankbygene.data.bags._bags import ArrayBag, Bag, BagSetup, PooledBag, TableBag, read_tiles
from rankbygene.data.bags._cohort import Cohort, join_clinical, resolve_bags, sample_bags
from rankbygene.data.batches._datamodule import SpatialDataModule, TileDataModule
from rankbygene.data.batches._neighbourhoods import NeighbourhoodDataModule
from rankbygene.data.expression._expression import ExpressionBank, Normalization, expression_matrix
from rankbygene.data.expression._neighbors import (
    lattice_kind,
    local_places,
    nearest_spots,
    neighbour_graph,
    smoothing_operator,
    spot_spacing,
)
from rankbygene.data.slides._frame import SpatialSetup, SpotFrame
from rankbygene.data.slides._geometry import TilePlan, plan_tiles
from rankbygene.data.slides._groups import compact_groups
from rankbygene.data.slides._images import level_array, level_to_system, n_levels
from rankbygene.data.slides._samples import resolve
from rankbygene.data.slides._shapes import frame_from_shapes
from rankbygene.data.slides._slides import resolve_slides
from rankbygene.data.splits._folds import patient_folds
from rankbygene.data.splits._split import SpotSplit, split_spots
from rankbygene.data.tiles._bank import TileBank
from rankbygene.data.tiles._features import FeatureBank
from rankbygene.data.tiles._tiles import TileReader, crop_tiles, resize_tiles, stream_tiles

__all__ = [
    "ArrayBag",
    "Bag",
    "BagDataModule",
    "BagSetup",
    "Cohort",
    "ExpressionBank",
    "FeatureBank",
    "NeighbourhoodDataModule",
    "Normalization",
    "PooledBag",
    "SpatialDataModule",
    "SpatialSetup",
    "SpotFrame",
    "SpotSplit",
    "TableBag",
    "TileBank",
    "TileDataModule",
    "TilePlan",
    "TileReader",
    "compact_groups",
    "crop_tiles",
    "expression_matrix",
    "frame_from_shapes",
    "join_clinical",
    "lattice_kind",
    "level_array",
    "level_to_system",
    "local_places",
    "n_levels",
    "nearest_spots",
    "neighbour_graph",
    "patient_folds",
    "plan_tiles",
    "read_tiles",
    "resize_tiles",
    "resolve",
    "resolve_bags",
    "resolve_slides",
    "sample_bags",
    "smoothing_operator",
    "split_spots",
    "spot_spacing",
    "stream_tiles",
]

_WHERE = {"compact_groups": "rankbygene.data.slides._groups"}

__getattr__, __dir__ = lazily(__name__, _WHERE, before={"compact_patches": "compact_groups"})
