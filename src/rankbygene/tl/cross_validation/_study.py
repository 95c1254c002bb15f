"""What all folds of a cross-validation have in common, and what tells it from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rankbygene.data import Normalization
from rankbygene.data._fingerprint import fingerprint_frame
from rankbygene.data.slides._images import n_levels
from rankbygene.errors import InputValueError
from rankbygene.io._checksums import file_checksum
from rankbygene.nn import build_backbone
from rankbygene.tl.cross_validation._data import ImageSettings, TileFeatures
from rankbygene.tl.cross_validation._folds import Fold, patient_of
from rankbygene.tl.cross_validation._identity import digest, tell

if TYPE_CHECKING:
    from rankbygene.data import SpotFrame
    from rankbygene.pp import PanelMethod
    from rankbygene.tl.cross_validation._folds import Leak

__all__ = ["Study", "told_file"]


@dataclass(frozen=True, eq=False)
class Study:
    """What all folds have in common."""

    frames: dict[str, SpotFrame]
    folds: dict[str, Fold]
    tiles: TileFeatures
    genes: int | Sequence[str]
    panel_method: PanelMethod
    normalization: Normalization
    image: ImageSettings
    groups: str
    allow_leaks: tuple[Leak, ...]
    widest_tile: float

    def describe(self) -> dict[str, Any]:
        """Give the settings in plain values."""
        backbone = self.image.backbone
        name = backbone if isinstance(backbone, str) else type(backbone).__name__
        return {
            "slides": {
                name: {"n_spots": frame.n_obs, "patient": patient_of(frame)}
                for name, frame in self.frames.items()
            },
            "groups": self.groups,
            "allow_leaks": list(self.allow_leaks),
            "folds": [fold.describe() for fold in self.folds.values()],
            "panel": f"{self.genes} {self.panel_method.replace('_', ' ')} genes of the training side"
            if isinstance(self.genes, int)
            else f"{len(self.genes)} given genes",
            "genes": self.genes if isinstance(self.genes, int) else list(self.genes),
            "normalization": self.normalization.to_dict(),
            "backbone": {
                "name": name,
                "pretrained": self.image.pretrained and self.image.weights is None,
                "weights": None if self.image.weights is None else told_file(self.image.weights),
            },
            "tile": {"um": self.image.tile_um, "px": self.image.tile_px},
            "widest_tile_um": self.widest_tile,
        }

    def fingerprint(self) -> dict[str, Any]:
        """Describe it by what results depend on: contents of slides, rows of folds, weights as well."""
        described = self.describe()
        for name, frame in self.frames.items():
            # A method may look at any level.
            levels = range(n_levels(frame.sdata.images[frame.image_key]))
            described["slides"][name] |= {
                **fingerprint_frame(frame, levels=levels),
                "measured genes": digest(frame.table.var_names.to_numpy(str)),
                "array indices": digest(frame.array_index),
            }
        described["folds"] = {
            name: {**fold.describe(), "rows": digest([fold.train, fold.test])}
            for name, fold in self.folds.items()
        }
        described["backbone"]["contents"] = _contents(self.image)
        return described


def _contents(image: ImageSettings) -> Any:
    """Tell the weights of an encoder; random ones follow from the seed."""
    if isinstance(image.backbone, torch.nn.Module):
        told, untold = tell(image.backbone)
        if untold:
            msg = (
                f"a store needs an encoder that can be told from another one; this one depends on "
                f"{', '.join(untold)}. Leave store out, or pass an encoder without"
            )
            raise InputValueError(msg)
        return told
    if image.weights is not None or not image.pretrained:
        return None  # a file is told where it is named
    _, spec = build_backbone(image.backbone, tile_px=image.tile_px)
    return spec.weights_hash


def told_file(path: str | Path) -> dict[str, str | None]:
    """Name a file by its contents; its place is nobody's business."""
    place = Path(path)
    return {"file": place.name, "sha256": file_checksum(place) if place.is_file() else None}
