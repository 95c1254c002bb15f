"""RankByGene, NH2ST and the parts of NH2ST on synthetic tissue, in one table with all baselines.

Run with ``python benchmarks/synthetic.py``; results go to ``benchmarks/results/synthetic.md`` and
``.json``. With ``--quick`` only the two models and the baselines are judged, in a few minutes on two
cores.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import rankbygene as rbg
from rankbygene.tl import ModelMethod

EPOCHS = 20


def nh2st(plan: dict[str, Any] | None = None, **model: Any) -> ModelMethod:
    """NH2ST with some settings changed."""
    return ModelMethod("nh2st", model_kwargs=model, train_kwargs={"plan_kwargs": plan or {}})


METHODS: dict[str, Any] = {"RankByGene": ModelMethod("rankbygene"), "NH2ST": nh2st()}
PARTS: dict[str, Any] = {
    "NH2ST, no neighbour branch": nh2st({"weights": {"neighbour": 0.0}}, decode_from="query"),
    "NH2ST, decode from the query": nh2st(decode_from="query"),
    "NH2ST, contrast after attention": nh2st(contrast_on="post"),
    "NH2ST, tokens are vectors": nh2st(tokens="vector"),
    "NH2ST, no contrast": nh2st({"weights": {"query": 0.0, "neighbour": 0.0}}),
}


def main() -> None:
    """Judge the methods on held-out patients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--store", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    slides = rbg.datasets.synthetic(3, 150, 60, seed=0, n_patients=3)
    begin = time.perf_counter()
    result = rbg.tl.cross_validate(
        slides,
        METHODS if arguments.quick else METHODS | PARTS,
        backbone="test_resnet",
        pretrained=False,
        tile_px=64,
        genes=50,
        max_epochs=EPOCHS,
        model_kwargs={"validation_size": 0.0},
        train_kwargs={"plan_kwargs": {"lr": 3e-3}},
        seeds=arguments.seeds,
        store=arguments.store,
        n_jobs=arguments.jobs,
    )
    print(f"{time.perf_counter() - begin:.0f} s")
    print(result)
    name = "synthetic_quick" if arguments.quick else "synthetic"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{name}.md").write_text(result.to_markdown(), encoding="utf-8")
    (arguments.out / f"{name}.json").write_text(result.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
