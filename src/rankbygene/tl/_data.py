"""What a method gets to see: slides to train on, and slides of which only the image is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import TableModel

from rankbygene.data import Normalization, SpotFrame, TileReader, expression_matrix, resolve_slides
from rankbygene.model._inference import choose_device, run_over_tiles
from rankbygene.model._random import forked_rng
from rankbygene.model._setup import recall_setup, remember_setup
from rankbygene.nn import build_backbone, color_texture_statistics, normalize_pixels
from rankbygene.pp import choose_panel
from rankbygene.tl._folds import Fold, patient_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rankbygene.pp import PanelMethod

__all__ = [
    "ImageSettings",
    "TestData",
    "TileFeatures",
    "TrainingData",
    "expression_of",
    "held_out_frames",
    "light_copy",
    "sides",
]

FeatureKind = Literal["color_texture", "backbone"]

_BATCH_SIZE = 64


@dataclass(frozen=True)
class ImageSettings:
    """The image encoder and the tiles, the same for every method.

    Attributes
    ----------
    backbone, pretrained, weights
        As in :class:`rankbygene.model.RankByGene`.
    tile_um, tile_px
        Width of a tile in micrometres and in pixels.
    """

    backbone: str | torch.nn.Module
    pretrained: bool
    weights: str | Path | None
    tile_um: float
    tile_px: int


class TileFeatures:
    """Descriptions of tiles that learn nothing from the data, computed once per slide."""

    def __init__(self, frames: Mapping[str, SpotFrame], image: ImageSettings) -> None:
        self.frames = frames
        self.image = image
        self._known: dict[tuple[FeatureKind, str, int], NDArray[np.float32]] = {}
        self._backbones: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {}

    def get(
        self, kind: FeatureKind, rows: Mapping[str, NDArray[np.intp]], seed: int
    ) -> NDArray[np.float32]:
        """Describe some rows of some slides, one slide after the other ``[n, n_features]``."""
        # Only an encoder from random weights depends on the seed.
        seed = seed if kind == "backbone" else 0
        for slide in rows:
            if (kind, slide, seed) not in self._known:
                self._known[kind, slide, seed] = self._compute(kind, slide, seed)
        return np.concatenate([self._known[kind, slide, seed][own] for slide, own in rows.items()])

    def _compute(self, kind: FeatureKind, slide: str, seed: int) -> NDArray[np.float32]:
        frame = self.frames[slide]
        reader = TileReader(frame, tile_um=self.image.tile_um, tile_px=self.image.tile_px)
        device = choose_device()
        extract: Callable[[torch.Tensor], torch.Tensor] = color_texture_statistics
        if kind == "backbone":
            if seed not in self._backbones:
                self._backbones[seed] = frozen_backbone(self.image, seed, device)
            extract = self._backbones[seed]
        return run_over_tiles(
            lambda images: {"features": extract(images)},
            reader.stream(np.arange(frame.n_obs)),
            frame.n_obs,
            device=device,
            batch_size=_BATCH_SIZE,
        )["features"]


def frozen_backbone(
    image: ImageSettings, seed: int, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Build the encoder as it is before any training."""
    with forked_rng(seed):
        network, spec = build_backbone(
            image.backbone,
            pretrained=image.pretrained,
            weights=image.weights,
            tile_px=image.tile_px,
        )
    network = network.to(device).eval()
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (spec.mean, spec.std))

    def extract(images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = network(normalize_pixels(images, mean, std))
        return features

    return extract


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The training side of a fold: all that a method may learn from.

    Attributes
    ----------
    slides
        SpatialData of each training slide, holding only the training spots.
    genes
        The panel, chosen on these slides or given by the user.
    normalization
        How counts become the scale of the scores.
    image
        Encoder and tile size.
    seed
        Seed of this run.
    """

    slides: dict[str, SpatialData]
    genes: list[str]
    normalization: Normalization
    image: ImageSettings
    seed: int
    frames: dict[str, SpotFrame] = field(repr=False)
    rows: dict[str, NDArray[np.intp]] = field(repr=False)
    tiles: TileFeatures = field(repr=False)

    def features(self, kind: FeatureKind) -> NDArray[np.float32]:
        """Describe every training tile ``[n_spots, n_features]``, slide after slide."""
        return self.tiles.get(kind, self.rows, self.seed)

    def expression(self) -> NDArray[np.float32]:
        """Measured expression ``[n_spots, n_genes]``, NaN for genes that a slide lacks."""
        return np.concatenate(
            [expression_of(frame, self.genes, self.normalization) for frame in self.frames.values()]
        )


@dataclass(frozen=True, eq=False)
class TestData:
    """The held-out side of a fold, without its counts.

    Attributes
    ----------
    slides
        SpatialData of each held-out slide; image, spots and array indices are there, all counts
        are zero and other annotations are gone.
    seed
        Seed of this run.
    """

    __test__ = False  # pytest takes classes called Test... for its own

    slides: dict[str, SpatialData]
    seed: int
    rows: dict[str, NDArray[np.intp]] = field(repr=False)
    tiles: TileFeatures = field(repr=False)

    def features(self, kind: FeatureKind) -> NDArray[np.float32]:
        """Describe every held-out tile ``[n_spots, n_features]``, slide after slide."""
        return self.tiles.get(kind, self.rows, self.seed)


def sides(
    frames: Mapping[str, SpotFrame],
    fold: Fold,
    tiles: TileFeatures,
    *,
    genes: int | Sequence[str],
    panel_method: PanelMethod,
    normalization: Normalization,
    image: ImageSettings,
    seed: int,
) -> tuple[TrainingData, TestData]:
    """Take the two sides of a fold apart; the panel is chosen on the training side."""
    slides = {
        name: light_copy(frames[name], rows, patient=patient_of(frames[name]), with_counts=True)
        for name, rows in fold.train.items()
    }
    copies = resolve_slides(slides, recall_setup)
    panel = (
        choose_panel(list(copies.values()), genes, method=panel_method)
        if isinstance(genes, int)
        else list(genes)
    )
    train = TrainingData(
        slides, panel, normalization, image, seed, frames=copies, rows=fold.train, tiles=tiles
    )
    blind = {
        name: light_copy(frames[name], rows, patient=patient_of(frames[name]), with_counts=False)
        for name, rows in fold.test.items()
    }
    return train, TestData(blind, seed, rows=fold.test, tiles=tiles)


def expression_of(
    frame: SpotFrame, genes: list[str], normalization: Normalization
) -> NDArray[np.float32]:
    """Measured expression of one slide ``[n_obs, n_genes]``, NaN for genes that it lacks."""
    values, measured = expression_matrix(frame, genes, normalization)
    return np.where(measured, values, np.float32(np.nan))


def held_out_frames(frames: Mapping[str, SpotFrame], fold: Fold) -> dict[str, SpotFrame]:
    """Frames of the held-out spots alone, counts included: their smoothing uses no training spot."""
    copies = {
        name: light_copy(frames[name], rows, patient=None, with_counts=True)
        for name, rows in fold.test.items()
    }
    return resolve_slides(copies, recall_setup)


def light_copy(
    frame: SpotFrame, rows: NDArray[np.intp], *, patient: str | None, with_counts: bool
) -> SpatialData:
    """Give a SpatialData of one slide that holds some of its spots and shares its image.

    Parameters
    ----------
    frame
        The slide.
    rows
        Rows of the frame to keep.
    patient
        Its patient; becomes ``obs["patient"]``, where splits within training find it.
    with_counts
        False replaces the counts by zeros and drops every annotation, so that nothing that is
        given the copy can learn from them.
    """
    link = frame.table.uns[TableModel.ATTRS_KEY]
    region_key, instance_key = link[TableModel.REGION_KEY_KEY], link[TableModel.INSTANCE_KEY]
    selected = frame.rows[rows]
    if with_counts:
        table = frame.table[selected].copy()
    else:
        kept = [region_key, instance_key, "array_row", "array_col"]
        obs = frame.table.obs.iloc[selected]
        table = ad.AnnData(
            sparse.csr_matrix((len(selected), frame.table.n_vars), dtype=np.float32),
            obs=obs[[column for column in kept if column in obs]].copy(),
            var=pd.DataFrame(index=frame.table.var_names),
        )
    table.obs[region_key] = pd.Categorical([frame.region] * len(selected))
    if patient is not None:
        table.obs["patient"] = pd.Categorical([patient] * len(selected))
    table.uns.pop(TableModel.ATTRS_KEY, None)
    table = TableModel.parse(
        table, region=frame.region, region_key=region_key, instance_key=instance_key
    )
    names = [frame.image_key, frame.region]
    elements = {
        name: element for _, name, element in frame.sdata.gen_spatial_elements() if name in names
    }
    copy = SpatialData.init_from_elements({**elements, frame.setup.table_key: table})
    setup = replace(
        frame.setup,
        image_key=frame.image_key,
        coordinate_system=frame.coordinate_system,
        patient_key=None if patient is None else "patient",
        layer=frame.setup.layer if with_counts else None,
    )
    remember_setup(copy, setup)
    return copy
