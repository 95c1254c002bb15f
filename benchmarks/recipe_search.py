"""Choosing the recipe for few slides and random weights, on validation sections alone.

For the folds that hold out C2 and C5 of her2st, a validation section is taken from the training side
(C3 and C4) and the network is trained on the other two. Nothing here looks at the section that the
fold holds out. Set ``RANKBYGENE_DATA`` and run ``python benchmarks/recipe_search.py``.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import rankbygene as rbg

INNER = {"C2": (["C4", "C5"], "C3"), "C5": (["C2", "C3"], "C4")}
OFF = {"contrast": 0.0, "alpha": 0.0, "beta": 0.0}

# Settings of the model and of the plan; what is not named is as in `BASE`.
BASE: dict[str, Any] = {"gamma": 10.0, "contrast": 1.0, "alpha": 1.0, "beta": 1.0}
CANDIDATES: list[tuple[dict[str, Any], dict[str, Any], int]] = [
    ({"tile_um": 224}, {}, 30),
    ({"tile_um": 224}, OFF, 30),
    ({"tile_um": 224}, {"lr": 3e-3, "gene_lr": 3e-3}, 30),
    ({"tile_um": 400}, {}, 30),
    ({"tile_um": 600}, {}, 30),
    ({"tile_um": 600}, OFF, 30),
    ({"tile_um": 600}, {"contrast": 0.3, "alpha": 0.0, "beta": 0.0}, 30),
    ({"tile_um": 600}, {**OFF, "weight_decay": 0.5}, 30),
    ({"tile_um": 600, "tile_px": 96}, OFF, 30),
    ({"tile_um": 800}, OFF, 30),
]


def score(
    slides: dict[str, Any], fold: str, model: dict[str, Any], plan: dict[str, Any], epochs: int
) -> dict[str, Any]:
    """Train on the inner training sections and score the validation section."""
    train, validation = INNER[fold]
    begin = time.perf_counter()
    network = rbg.model.RankByGene(
        {name: slides[name] for name in train},
        backbone="resnet18",
        pretrained=False,
        validation_size=0.0,
        seed=0,
        **({"tile_px": 64} | model),
    )
    network.train(epochs, plan_kwargs=BASE | plan, enable_progress_bar=False)
    found = rbg.tl.evaluate(network, {validation: slides[validation]}, baselines=["color"])
    return {
        "fold": fold,
        "validation": validation,
        "model": model,
        "plan": plan,
        "epochs": epochs,
        "pearson": round(float(found.summary.loc["rankbygene", "pearson"]), 4),
        "colour ridge": round(float(found.summary.loc["color", "pearson"]), 4),
        "seconds": round(time.perf_counter() - begin),
    }


def main() -> None:
    """Score every candidate and append one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recipe_search.jsonl"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    slides = rbg.datasets.her2st()
    rbg.model.RankByGene.setup_spatialdata(slides, patient_key="patient")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for model, plan, epochs in CANDIDATES:
        for fold in INNER:
            record = score(slides, fold, model, plan, epochs)
            with arguments.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
