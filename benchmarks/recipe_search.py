"""Choosing the recipe for few slides and random weights, on validation sections alone.

For the folds that hold out C2 and C5 of her2st, a validation section is taken from the training side
(C3 and C4) and the network is trained on the other two. Nothing here looks at the section that the
fold holds out. Set ``RANKBYGENE_DATA`` and run ``python benchmarks/recipe_search.py``, for the other method
with ``--method nh2st``.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import rankbygene as rbg

INNER = {"C2": (["C4", "C5"], "C3"), "C5": (["C2", "C3"], "C4")}
OFF = {"weights": {"contrast": 0.0, "ranking": 0.0, "distillation": 0.0}}

# Settings of the model and of training; what is not named is as in `BASE`, or the default.
BASE: dict[str, Any] = {"weights": {"ranking": 1.0}}
RANKBYGENE: list[tuple[dict[str, Any], dict[str, Any], int]] = [
    ({"tile_um": 224}, {}, 30),
    ({"tile_um": 224}, OFF, 30),
    ({"tile_um": 224}, {"lr": 3e-3, "gene_lr": 3e-3}, 30),
    ({"tile_um": 400}, {}, 30),
    ({"tile_um": 600}, {}, 30),
    ({"tile_um": 600}, OFF, 30),
    ({"tile_um": 600}, {"weights": {"contrast": 0.3, "ranking": 0.0, "distillation": 0.0}}, 30),
    ({"tile_um": 600}, {**OFF, "weight_decay": 0.5}, 30),
    ({"tile_um": 600, "tile_px": 96}, OFF, 30),
    ({"tile_um": 800}, OFF, 30),
]
ALONE = {"weights": {"neighbour": 0.0}}
NO_CONTRAST = {"weights": {"query": 0.0, "neighbour": 0.0}}
LIGHT = {"weights": {"query": 0.3, "neighbour": 0.15}}
NH2ST: list[tuple[dict[str, Any], dict[str, Any], int]] = [
    ({}, {}, 25),
    ({"decode_from": "query"}, ALONE, 25),
    ({}, {"group_size": 8}, 25),
    ({}, NO_CONTRAST, 25),
    ({"decode_from": "query"}, {}, 25),
    ({"contrast_on": "post"}, {}, 25),
    ({"contrast_on": "post", "tokens": "vector"}, {}, 25),
    ({}, LIGHT, 25),
    ({"activation": "relu"}, {}, 25),
    ({"tile_um": 224}, {}, 25),
    ({"tile_um": 224, "decode_from": "query"}, ALONE, 25),
    ({"tile_um": 224}, {"group_size": 8}, 25),
    ({}, {"group_size": 16}, 25),
    ({"tile_um": 224}, {"group_size": 16}, 25),
    ({"contrast_on": "post"}, {"group_size": 16}, 25),
    ({"tile_um": 224, "decode_from": "query"}, {}, 25),
    ({"tile_um": 224, "contrast_on": "post"}, {"group_size": 16}, 25),
]
METHODS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "rankbygene": (rbg.model.RankByGene, BASE, RANKBYGENE),
    "nh2st": (rbg.model.NH2ST, {}, NH2ST),
}


def score(
    method: str,
    slides: dict[str, Any],
    fold: str,
    model: dict[str, Any],
    training: dict[str, Any],
    epochs: int,
    seed: int,
) -> dict[str, Any]:
    """Train on the inner training sections and score the validation section."""
    train, validation = INNER[fold]
    build, base, _ = METHODS[method]
    weights = base.get("weights", {}) | training.get("weights", {})
    plan = base | training | {"weights": weights}
    batches = {name: plan.pop(name) for name in ("batch_size", "group_size") if name in plan}
    begin = time.perf_counter()
    network = build(
        {name: slides[name] for name in train},
        backbone="resnet18",
        pretrained=False,
        validation_size=0.0,
        seed=seed,
        **({"tile_px": 64, "tile_um": 600} | model),
    )
    network.train(epochs, plan_kwargs=plan, enable_progress_bar=False, **batches)
    found = rbg.tl.evaluate(network, {validation: slides[validation]}, baselines=["color"])
    return {
        "fold": fold,
        "validation": validation,
        "model": model,
        "plan": training,
        "epochs": epochs,
        "seed": seed,
        "pearson": round(float(found.summary.loc[method, "pearson"]), 4),
        "colour ridge": round(float(found.summary.loc["color", "pearson"]), 4),
        "seconds": round(time.perf_counter() - begin),
    }


def main() -> None:
    """Score every candidate and append one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=list(METHODS), default="rankbygene")
    parser.add_argument("--out", type=Path, help="by default in benchmarks/results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    method = arguments.method
    name = "recipe_search" if method == "rankbygene" else f"recipe_search_{method}"
    out = arguments.out or Path("benchmarks/results") / f"{name}.jsonl"
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    slides = rbg.datasets.her2st()
    METHODS[method][0].setup_spatialdata(slides, patient_key="patient")
    out.parent.mkdir(parents=True, exist_ok=True)
    for model, training, epochs in METHODS[method][2]:
        for fold, seed in product(INNER, arguments.seeds):
            record = score(method, slides, fold, model, training, epochs, seed)
            with out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
