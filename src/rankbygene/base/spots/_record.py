"""A model in plain values: for ``model.json`` and for the provenance in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rankbygene.base._inference import choose_precision
from rankbygene.base._record import file_name, package_versions, plain
from rankbygene.base.spots._seen import slides_seen_as_images
from rankbygene.data import plan_tiles

if TYPE_CHECKING:
    from rankbygene.base.spots._state import ModelState
    from rankbygene.data import SpotFrame


def model_record(model: ModelState) -> dict[str, Any]:
    """Everything but the tensors that a model needs to be built again."""
    return {
        "class": type(model).__name__,
        "method": model.method,
        "versions": package_versions(),
        "seed": model.seed,
        "setup": asdict(model.setup),
        "backbone": {**asdict(model.backbone), "weights": file_name(model.backbone.weights)},
        "tile": {"um": model.tile_um, "px": model.tile_px, "widths_um": list(model.tile_widths)},
        "normalization": model.normalization.to_dict(),
        "panel_method": model.panel_method,
        "genes": list(model.genes),
        "module": model.module_kwargs,
        "statistics": getattr(model.module, "statistics_version", None),
        "fine_tuning": model.fine_tuning,
        "split": model.split_note,
        "training": model.training_params,
        "scores": scores(model),
    }


def scores(model: ModelState) -> dict[str, float]:
    """Held-out scores of a model; empty where nothing was held out."""
    pearson = model.validation_pearson.dropna()
    return {"validation_pearson": float(pearson.mean())} if len(pearson) else {}


def provenance(model: ModelState, frames: Sequence[SpotFrame], precision: str) -> dict[str, Any]:
    """Describe a result, computed at ``precision``, in values that a zarr store keeps as they are."""
    record = model_record(model)
    del record["setup"], record["genes"]
    record["backbone"] = {
        key: record["backbone"][key] for key in ("name", "pretrained", "weights_hash")
    }
    record["n_genes"] = len(model.genes)
    record["prediction"] = {
        "precision": choose_precision(precision, model.device),
        "device": model.device.type,
    }
    seen = slides_seen_as_images(
        model.backbone.images_seen, {frame.slide: frame for frame in frames}
    )
    record["slides"] = {
        frame.slide: _slide_geometry(model, frame) | {"image_seen_by_encoder": frame.slide in seen}
        for frame in frames
    }
    stored: dict[str, Any] = plain(record)
    return stored


def _slide_geometry(model: ModelState, frame: SpotFrame) -> dict[str, Any]:
    plan = plan_tiles(frame, tile_um=model.tile_um, tile_px=model.tile_px)
    return {
        "region": frame.region,
        "image": frame.image_key,
        "coordinate_system": frame.coordinate_system,
        "level": plan.level,
        "um_per_px": plan.um_per_px,
        "um_source": frame.um_source,
    }
