"""What a method gets to see: slides to train on, and slides of which only the image is left."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from rankbygene._arguments import checked_fields
from rankbygene.base._inference import choose_device, run_over_tiles
from rankbygene.base._random import forked_rng
from rankbygene.base._setup import recall_setup
from rankbygene.data import Normalization, SpotFrame, TileReader, expression_matrix, resolve_slides
from rankbygene.data.splits._row_groups import RowGroups, row_groups
from rankbygene.nn import build_backbone, color_texture_statistics, normalize_pixels
from rankbygene.pp import choose_panel
from rankbygene.tl.cross_validation._copies import light_copy
from rankbygene.tl.cross_validation._folds import Fold, patient_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from rankbygene.pp import PanelMethod

__all__ = [
    "ImageSettings",
    "TestData",
    "TileFeatures",
    "TrainingData",
    "expression_of",
    "held_out_frames",
    "panel_of",
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
    """Descriptions of tiles that learn nothing from the data, computed once.

    It keeps numbers that were computed from pixels, and the untrained encoder; no slide.
    """

    def __init__(self, image: ImageSettings) -> None:
        self.image = image
        self._known: dict[tuple[FeatureKind, str, str, int], NDArray[np.float32]] = {}
        self._backbones: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {}

    def get(
        self, kind: FeatureKind, frames: Mapping[str, SpotFrame], seed: int
    ) -> NDArray[np.float32]:
        """Describe the spots of some frames, one slide after the other ``[n, n_features]``."""
        # Only an encoder from random weights depends on the seed.
        seed = seed if kind == "backbone" else 0
        parts = []
        for slide, frame in frames.items():
            # A slide has other spots on each side of a fold; places do not depend on the side. Spots
            # are always described in the same batches, so that no rounding depends on what came before.
            key = (kind, slide, hashlib.sha256(frame.centers.tobytes()).hexdigest(), seed)
            if key not in self._known:
                self._known[key] = self._compute(kind, frame, seed)
            parts.append(self._known[key])
        return np.concatenate(parts)

    def _compute(self, kind: FeatureKind, frame: SpotFrame, seed: int) -> NDArray[np.float32]:
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


@checked_fields
@dataclass(frozen=True, eq=False)
class TrainingData:
    """The training side of a fold: all that a method may learn from.

    Attributes
    ----------
    slides
        SpatialData of each training slide: image, training spots, their counts (``X``, and the layer
        they came from), array indices and patient. Other columns and tables are left out, as they may
        have been computed from all spots.
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
        return self.tiles.get(kind, self.frames, self.seed)

    def expression(self) -> NDArray[np.float32]:
        """Measured expression ``[n_spots, n_genes]``, NaN for genes that a slide lacks."""
        return np.concatenate(
            [expression_of(frame, self.genes, self.normalization) for frame in self.frames.values()]
        )

    @property
    def row_groups(self) -> RowGroups:
        """What is left out together when something is chosen on the training side."""
        return row_groups(self.frames, tile_um=self.image.tile_um, normalization=self.normalization)


@checked_fields
@dataclass(frozen=True, eq=False)
class TestData:
    """The held-out side of a fold, without its counts.

    Attributes
    ----------
    slides
        SpatialData of each held-out slide; image, held-out spots and array indices are there, all
        counts are zero, and nothing leads to the objects that hold them.
    seed
        Seed of this run.
    """

    __test__ = False  # pytest takes classes called Test... for its own

    slides: dict[str, SpatialData]
    seed: int
    frames: dict[str, SpotFrame] = field(repr=False)
    rows: dict[str, NDArray[np.intp]] = field(repr=False)
    tiles: TileFeatures = field(repr=False)

    def features(self, kind: FeatureKind) -> NDArray[np.float32]:
        """Describe every held-out tile ``[n_spots, n_features]``, slide after slide."""
        return self.tiles.get(kind, self.frames, self.seed)


def panel_of(
    frames: Mapping[str, SpotFrame],
    fold: Fold,
    genes: int | Sequence[str],
    method: PanelMethod,
) -> list[str]:
    """Give the panel of a fold, chosen on its training side unless it was given."""
    if not isinstance(genes, int):
        return list(genes)
    used = [frames[name] for name in fold.train]
    return choose_panel(used, genes, method=method, rows=fold.train)


def sides(
    frames: Mapping[str, SpotFrame],
    fold: Fold,
    tiles: TileFeatures,
    *,
    genes: list[str],
    normalization: Normalization,
    image: ImageSettings,
    seed: int,
) -> tuple[TrainingData, TestData]:
    """Take the two sides of a fold apart, as copies that are one method's own."""
    seen, blind = (
        {
            name: light_copy(
                frames[name],
                rows,
                patient=patient_of(frames[name]) if counts else None,
                with_counts=counts,
            )
            for name, rows in side.items()
        }
        for side, counts in ((fold.train, True), (fold.test, False))
    )
    train = TrainingData(
        seen,
        list(genes),
        normalization,
        image,
        seed,
        frames=resolve_slides(seen, recall_setup, counts=False),
        rows=_own(fold.train),
        tiles=tiles,
    )
    test = TestData(
        blind,
        seed,
        frames=resolve_slides(blind, recall_setup, counts=False),
        rows=_own(fold.test),
        tiles=tiles,
    )
    return train, test


def _own(rows: Mapping[str, NDArray[np.intp]]) -> dict[str, NDArray[np.intp]]:
    return {name: values.copy() for name, values in rows.items()}


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
    return resolve_slides(copies, recall_setup, counts=False)
