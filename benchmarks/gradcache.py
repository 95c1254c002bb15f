"""What encoding in chunks saves and costs: memory and time of a step of RankByGene, direct and chunked.

Tiles are random and in memory, so that only the step is measured. Run with
``python benchmarks/gradcache.py --out benchmarks/results``; a few minutes on one core. Peaks are those of the
process, or of the device where there is a GPU.
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

import torch

import rankbygene as rbg
from rankbygene.module import RankByGeneModule
from rankbygene.nn import build_backbone
from rankbygene.train import RankByGenePlan

N_GENES = 250
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_batch(n_tiles: int, px: int) -> dict[str, torch.Tensor]:
    """Random tiles and profiles."""
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(
            0, 256, (n_tiles, 3, px, px), dtype=torch.uint8, generator=generator
        ),
        "expression": torch.randn(n_tiles, N_GENES, generator=generator),
        "measured": torch.ones(n_tiles, N_GENES, dtype=torch.bool),
    }


def measure(backbone: str, n_tiles: int, px: int, chunk_size: int | None) -> dict[str, Any]:
    """Take two steps of training; the second is timed."""
    torch.manual_seed(0)
    encoder, spec = build_backbone(backbone, pretrained=False, tile_px=px)
    module = RankByGeneModule(encoder, n_features=spec.n_features, n_genes=N_GENES)
    plan = RankByGenePlan(module, chunk_size=chunk_size).to(DEVICE)
    optimizer = torch.optim.AdamW(plan.parameter_groups())
    batch = {name: rows.to(DEVICE) for name, rows in make_batch(n_tiles, px).items()}
    # The moments of the optimiser and the buffers of the libraries are there without chunks, too.
    small = {name: rows[:4] for name, rows in batch.items()}
    step(plan, optimizer, small)
    before = peak_mib()
    begin = time.process_time(), time.perf_counter()
    loss = step(plan, optimizer, batch)
    seconds, wall = time.process_time() - begin[0], time.perf_counter() - begin[1]
    return {
        "backbone": backbone,
        "chunk_size": chunk_size,
        "loss": round(loss, 4),
        "peak_mib_of_step": round(peak_mib() - before, 1),
        "peak_mib_of_process": round(peak_mib(), 1),
        "cpu_seconds": round(seconds, 2),
        "wall_seconds": round(wall, 2),
    }


def step(plan: RankByGenePlan, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> float:
    """One step of training, as Lightning would do it."""
    terms = plan.losses(batch, plan.generator)
    loss = torch.stack([plan.weights[name] * term for name, term in terms.items()]).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def peak_mib() -> float:
    """Largest memory so far, of the device or of the process."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    """Measure every size of chunk, each in a process of its own for its peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--tiles", type=int, default=512)
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--backbones", nargs="+", default=["vit_tiny_patch16_224", "resnet18"])
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 64, 16], help="0: direct")
    parser.add_argument("--one", nargs=2, metavar=("BACKBONE", "CHUNK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        backbone, chunk = arguments.one
        print(json.dumps(measure(backbone, arguments.tiles, arguments.px, int(chunk) or None)))
        return
    records = []
    for backbone in arguments.backbones:
        for chunk in arguments.chunks:
            options = ["--tiles", str(arguments.tiles), "--px", str(arguments.px)]
            options += ["--one", backbone, str(chunk)]
            done = subprocess.run(
                [sys.executable, __file__, *options], check=True, capture_output=True, text=True
            )
            records.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(records[-1]), flush=True)
    description = {
        "settings": {"tiles": arguments.tiles, "px": arguments.px, "n_genes": N_GENES},
        "version": rbg.__version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.system()}, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "records": records,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description, indent=1)
    (arguments.out / "gradcache.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
