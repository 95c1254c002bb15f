"""What each part of the loss adds, on synthetic tissue, scored on a patient held out.

Every row trains the same network from random weights on the same slides; only the loss differs. Run
with ``python benchmarks/ablations.py --out benchmarks/results``; about 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

import rankbygene as rbg

RATES = {"lr": 3e-3, "gene_lr": 3e-3}
CONTRAST = {"weights": {"ranking": 0.0, "distillation": 0.0}}
NO_DISTILLATION = {"weights": {"distillation": 0.0}}
EXPRESSION = {"weights": {**CONTRAST["weights"], "contrast": 0.0}}
RELEASED = {"ranking_variant": "released", "ranking_similarity": "softmax", "detach_gene": False}

# Name of a row: how expression is predicted, and what differs from the defaults of the plan.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "contrast": ("frozen", CONTRAST),
    "contrast + ranking (paper)": ("frozen", NO_DISTILLATION),
    "contrast + ranking (released)": ("frozen", {**NO_DISTILLATION, **RELEASED}),
    "contrast + ranking (paper) + distillation": ("frozen", {}),
    "expression only": ("joint", EXPRESSION),
    "expression + contrast": ("joint", CONTRAST),
    "expression + all": ("joint", {}),
}


def run(name: str, seed: int, *, n_train: int, n_spots: int, epochs: int) -> dict[str, Any]:
    """Train one row with one seed and score it on the last slide."""
    head, plan = ROWS[name]
    slides = rbg.datasets.synthetic(n_train + 1, n_spots, 60, seed=seed, n_patients=n_train + 1)
    Model = rbg.model.RankByGene
    Model.setup_spatialdata(slides, patient_key="patient")
    model = Model(
        slides[:-1],
        backbone="test_resnet",
        pretrained=False,
        genes=50,
        tile_px=64,
        head=head,
        validation_size=0.0,
        seed=seed,
    )
    begin = time.perf_counter()
    model.train(
        epochs,
        plan_kwargs={**RATES, **plan},
        head_kwargs={"lr": 1e-3, "max_epochs": 60},
        enable_progress_bar=False,
    )
    seconds = time.perf_counter() - begin
    result = rbg.tl.evaluate(model, slides[-1])
    driven = slides[0]["table"].var["image_driven"]
    genes = result.per_gene[result.per_gene["gene"].map(driven)]
    scores = genes.groupby("method")["pearson"].mean()
    return {
        "row": name,
        "seed": seed,
        "pearson": float(scores["rankbygene"]),
        **{f"{baseline} + ridge": float(scores[baseline]) for baseline in ("color", "backbone")},
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Run all rows and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slides", type=int, default=3)
    parser.add_argument("--spots", type=int, default=250)
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    records = []
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for name in ROWS:
            record = run(
                name,
                seed,
                n_train=arguments.slides,
                n_spots=arguments.spots,
                epochs=arguments.epochs,
            )
            print(json.dumps(record), flush=True)
            records.append(record)
            description = {
                "settings": {k: v for k, v in vars(arguments).items() if k != "out"},
                "version": rbg.__version__,
                "machine": f"{platform.machine()}, {platform.system()}",
                "records": records,
            }
            text = json.dumps(description, indent=1)
            (arguments.out / "ablations.json").write_text(text + "\n", encoding="utf-8")
    table = pd.DataFrame(records)
    summary = table.groupby("row", sort=False)["pearson"].agg(["mean", "std", "count"])
    print(summary.round(3).to_string())


if __name__ == "__main__":
    main()
