"""What shuffling in windows does to training, beside shuffling everything.

Synthetic tissue; the tiles lie in a cache, in compact patches. Run with
``python benchmarks/shuffling.py``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from _machine import describe_machine, write_record

import rankbygene as rbg
from rankbygene.data import SpatialDataModule


def train(slides: list[Any], window: int | None, seed: int, epochs: int, cache: str) -> Any:
    """Train with rows shuffled in windows of so many; None shuffles all."""
    model = rbg.model.RankByGene(
        slides,
        backbone="test_resnet",
        pretrained=False,
        genes=30,
        tile_px=32,
        tta=1,
        validation_slides=["slide_0"],
        cache_dir=cache,
        seed=seed,
    )

    def datamodule(inputs: Any, bank: Any, *_: Any, **batches: Any) -> SpatialDataModule:
        return SpatialDataModule(
            inputs, bank, model.training_split, seed=seed, shuffle_window=window, **batches
        )

    model._build_datamodule = datamodule  # type: ignore[method-assign]
    model.train(
        epochs,
        batch_size=64,
        plan_kwargs={"lr": 3e-3, "gene_lr": 3e-3},
        accelerator="cpu",
        precision="32-true",
        enable_progress_bar=False,
    )
    return model


def main() -> None:
    """Train with every window and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--spots", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    drawn = rbg.datasets.synthetic(4, arguments.spots, 60, seed=0, n_patients=4)
    slides = {f"slide_{i}": sdata for i, sdata in enumerate(drawn)}
    rbg.model.RankByGene.setup_spatialdata(slides, patient_key="patient")
    n_train = 3 * arguments.spots
    records = []
    with tempfile.TemporaryDirectory() as cache:
        for window in (None, n_train // 2, n_train // 4, 64):
            runs = [
                train(slides, window, seed, arguments.epochs, cache)
                for seed in range(arguments.seeds)
            ]
            histories = [run.history for run in runs]
            records.append(
                {
                    "window": window,
                    **{
                        name: [round(float(h[name].iloc[-1, 0]), 4) for h in histories]
                        for name in histories[0]
                        if name in ("train_loss_epoch", "train_loss", "validation_loss")
                    },
                    "validation_pearson": [
                        round(float(np.nanmean(run.validation_pearson)), 4) for run in runs
                    ],
                }
            )
            print(json.dumps(records[-1]), flush=True)
    settings = {k: v for k, v in vars(arguments).items() if k != "out"}
    result = {"settings": settings, "records": records, "machine": describe_machine()}
    write_record(result, arguments.out / "shuffling.json")


if __name__ == "__main__":
    main()
