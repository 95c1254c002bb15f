"""What neighbourhoods cost: time and memory of an epoch, the query branch alone against all of NH2ST.

Spots are random tiles on a square lattice, in memory, so that only training is measured. Run with
``python benchmarks/neighbourhoods.py --out benchmarks/results``; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rankbygene as rbg
from rankbygene.data import ExpressionBank, NeighbourhoodDataModule
from rankbygene.module import NH2STModule
from rankbygene.nn import build_backbone
from rankbygene.train import NH2STPlan

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, int]]] = {
    "query branch alone": (
        {"decode_from": "query"},
        {"weights": {"neighbour": 0.0}},
        {"n": 1, "group_size": 1},
    ),
    "both branches": ({}, {}, {"n": 9}),
    "both branches, one spot per patch": ({}, {}, {"n": 9, "group_size": 1}),
}


def make_data(n_spots: int, px: int, n_genes: int, **batches: int) -> NeighbourhoodDataModule:
    """Random tiles and profiles of ``n_spots`` on a square lattice of pitch 200."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(n_spots)))
    centers = np.stack(np.divmod(np.arange(n_spots), side), axis=1) * 200.0
    expression = ExpressionBank(
        values=rng.normal(size=(n_spots, n_genes)).astype(np.float32),
        measured=np.ones((1, n_genes), bool),
        slide_of_row=np.zeros(n_spots, np.int64),
        genes=tuple(f"gene{i}" for i in range(n_genes)),
        slides=("slide",),
    )
    tiles = rng.integers(0, 256, (n_spots, 3, px, px), dtype=np.uint8)
    return NeighbourhoodDataModule(
        tiles, expression, {"train": np.arange(n_spots)}, [centers], **batches
    )


def measure(name: str, n_spots: int, *, backbone: str, px: int, n_genes: int) -> dict[str, Any]:
    """Train for one epoch, by a plain loop, after a few steps that are not counted."""
    network, training, batches = VARIANTS[name]
    torch.manual_seed(0)
    data = make_data(n_spots, px, n_genes, **batches)
    encoder, spec = build_backbone(backbone, pretrained=False, tile_px=px)
    module = NH2STModule(
        encoder,
        n_features=spec.n_features,
        n_genes=n_genes,
        map_shape=encoder.map_shape(px),
        **network,
    )
    plan = NH2STPlan(module, **training)
    optimizer = torch.optim.AdamW(plan.parameter_groups())
    loader = data.train_dataloader()
    for batch, _ in zip(loader, range(2), strict=False):
        step(plan, optimizer, batch)
    # Time of the processor, over all threads: a busy machine does not change it much.
    begin, n_tiles, n_steps = time.process_time(), 0, 0
    for batch in loader:
        step(plan, optimizer, batch)
        n_tiles, n_steps = n_tiles + len(batch["image"]), n_steps + 1
    seconds = time.process_time() - begin
    return {
        "variant": name,
        "n_spots": n_spots,
        "steps": n_steps,
        "tiles_encoded_per_spot": round(n_tiles / n_spots, 3),
        "cpu_seconds": round(seconds, 2),
        "cpu_milliseconds_per_spot": round(1000 * seconds / n_spots, 3),
        "tiles_mib": round(n_spots * 3 * px * px / 2**20, 1),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def step(plan: NH2STPlan, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> None:
    """One step of training, as Lightning would do it."""
    terms = plan.losses(batch, plan.generator)
    loss = torch.stack([plan.weights[name] * term for name, term in terms.items()]).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main() -> None:
    """Measure every variant at every size, each in a process of its own for its peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--spots", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--genes", type=int, default=250)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS)[:2], choices=list(VARIANTS))
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "SPOTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shared = {"backbone": arguments.backbone, "px": arguments.px, "n_genes": arguments.genes}
    if arguments.one:
        name, n_spots = arguments.one
        print(json.dumps(measure(name, int(n_spots), **shared)))
        return
    records = []
    for n_spots in arguments.spots:
        for name in arguments.variants:
            options = ["--backbone", arguments.backbone, "--px", str(arguments.px)]
            options += ["--genes", str(arguments.genes), "--one", name, str(n_spots)]
            done = subprocess.run(
                [sys.executable, __file__, *options], check=True, capture_output=True, text=True
            )
            records.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(records[-1]), flush=True)
    description = {
        "settings": shared,
        "version": rbg.__version__,
        "machine": f"{platform.machine()}, {platform.system()}, {torch.get_num_threads()} threads",
        "records": records,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description, indent=1)
    (arguments.out / "neighbourhoods.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
