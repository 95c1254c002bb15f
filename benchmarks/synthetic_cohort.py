"""Which features of tiles tell patients apart: a table over patient-stratified folds.

Encoders start from random weights and are trained on a few slides with expression. They then describe the
slides of a cohort, whose class and survival follow the amount of glands. Run with
``python benchmarks/synthetic_cohort.py --out benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import rankbygene as rbg
from rankbygene.data import BagSetup, TileReader, resolve

if TYPE_CHECKING:
    from spatialdata import SpatialData

BACKBONE, TILE_UM, TILE_PX, UM_PER_PX = "test_resnet", 128.0, 64, 2.0
CONTRAST = {"weights": {"ranking": 0.0, "distillation": 0.0, "expression": 0.0}}
FEATURES = {
    "raw backbone": BagSetup(feature_key="X_raw"),
    "contrast only": BagSetup(feature_key="X_contrast"),
    "RankByGene": BagSetup(feature_key="X_rankbygene"),
    "predicted expression": BagSetup(layer="rankbygene"),
}


def add_raw_features(slides: Mapping[str, SpatialData], seed: int) -> None:
    """Describe tiles by the encoder as it is before training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, spec = rbg.nn.build_backbone(BACKBONE, pretrained=False, tile_px=TILE_PX)
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    for sdata in slides.values():
        frame = resolve(sdata, counts=False)[0]
        tiles = torch.from_numpy(TileReader(frame, tile_um=TILE_UM, tile_px=TILE_PX).read())
        with torch.inference_mode():
            features = network.eval()((tiles / 255 - mean) / std)
        frame.table.obsm["X_raw"] = features.numpy()


def add_learnt_features(
    slides: Mapping[str, SpatialData], seed: int, *, n_train: int, n_spots: int, epochs: int
) -> None:
    """Train on slides with expression and describe the cohort."""
    train = rbg.datasets.synthetic(
        n_train, n_spots, 60, seed=seed + 1000, n_patients=n_train, um_per_px=UM_PER_PX
    )
    Model = rbg.model.RankByGene
    for item in (train, slides):
        Model.setup_spatialdata(item, patient_key="patient")
    for key, head, plan in (("contrast", "frozen", CONTRAST), ("rankbygene", "joint", {})):
        model = Model(
            train, backbone=BACKBONE, pretrained=False, genes=40, tile_um=TILE_UM, tile_px=TILE_PX,
            head=head, tta=1, validation_size=0.0, seed=seed,
        )  # fmt: skip
        model.train(
            epochs,
            plan_kwargs={"lr": 3e-3, "gene_lr": 3e-3, **plan},
            head_kwargs={"max_epochs": 20},
            enable_progress_bar=False,
        )
        model.annotate(slides, key_added=key)


def main() -> None:
    """Describe the cohort in each way, cross-validate, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--tiles", type=int, default=60)
    parser.add_argument("--train-slides", type=int, default=4)
    parser.add_argument("--train-spots", type=int, default=200)
    parser.add_argument("--encoder-epochs", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    begin = time.perf_counter()
    cohort = rbg.datasets.synthetic_cohort(
        arguments.patients, kind="images", n_tiles=arguments.tiles, seed=arguments.seed
    )
    slides: Any = cohort.slides
    add_raw_features(slides, arguments.seed)
    add_learnt_features(
        slides, arguments.seed, n_train=arguments.train_slides,
        n_spots=arguments.train_spots, epochs=arguments.encoder_epochs,
    )  # fmt: skip
    tables = {}
    for task in ("classification", "survival"):
        result = rbg.tl.cross_validate_slides(
            slides,
            cohort.clinical,
            task=task,
            features=FEATURES,
            poolings=("attention", "mean"),
            n_folds=arguments.folds,
            n_resamples=200,
            seed=arguments.seed,
            model_kwargs={"n_hidden": 32, "validation_size": 0.0},
            train_kwargs={"max_epochs": arguments.epochs, "plan_kwargs": {"lr": 2e-3}},
        )
        print(result.summary.round(3).to_string(), flush=True)
        tables[task] = result.summary.round(4).reset_index().to_dict(orient="records")
    description = {
        "settings": {k: v for k, v in vars(arguments).items() if k != "out"},
        "slides": len(slides),
        "seconds": round(time.perf_counter() - begin),
        "version": rbg.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
        **tables,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description, indent=1)
    (arguments.out / "synthetic_cohort.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
