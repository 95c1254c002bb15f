"""A slide of 100,000 tiles with whole-slide context: an epoch, and prediction to disk, in how much memory.

The method is a toy: every spot attends to the kept features of all tiles of its slide, with gradients
through keys and values in training; in prediction keys and values are computed once per slide. The slide is
that of ``scale.py``. Run with ``python benchmarks/whole_slide.py``.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _machine import describe_machine, peak_memory_mib, write_record
from scale import UM_PER_PX, make_slide
from torch import nn

from rankbygene.base import Context, SpotModel, SpotModule, SpotPlan, WholeSlide
from rankbygene.io._parts import Parts

WIDTH, PX, GENES = 16, 16, 50


class Colours(nn.Module):
    """Mean colours of the quarters of a tile, which no training changes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, 12]``."""
        return F.adaptive_avg_pool2d(images, 2).flatten(1)


class Module(SpotModule):
    """Expression from a spot's own colours and from those of the slide that it attends to."""

    def __init__(self, backbone: nn.Module, n_genes: int, spec: Any) -> None:
        super().__init__(n_genes, spec.mean, spec.std)
        self.backbone = backbone
        self.query, self.keys = nn.Linear(12, WIDTH), nn.Linear(12, 2 * WIDTH)
        self.out = nn.Linear(12 + WIDTH, n_genes)

    @property
    def encoders(self) -> list[nn.Module]:
        """The encoder, which has no weights."""
        return [self.backbone]

    def encode_orientations(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Not used: the encoder has nothing to freeze."""
        return {"features": self.encode_context(images)[:, None]}

    def forward(self, own: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Predict ``[B, n_genes]`` from own features and the keys and values of the slide."""
        key, value = keys.split(WIDTH, 1)
        seen = F.scaled_dot_product_attention(self.query(own)[None], key[None], value[None])[0]
        return self.to_training_scale(self.out(torch.cat([own, seen], 1)))


class Plan(SpotPlan):
    """Mean squared error."""

    default_weights = {"expression": 1.0}

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compare with the truth."""
        truth, predicted, measured, _ = self.judge(batch)
        error = self._expression_error(self.module.standardize(predicted), truth, measured)
        return {"expression": error}

    def judge(self, batch: Any) -> Any:
        """Predict from pixels and the slide."""
        own = self.module.encode_context(batch["image"])
        predicted = self.module(own, self.module.keys(batch["slide_features"]))
        return batch["expression"], predicted, batch["measured"], batch["slide"]


class Toy(SpotModel):
    """The model."""

    method = "toy"
    gives = frozenset({"latent", "expression"})
    _settings_of = {"plan_kwargs": (Plan, ("module", "seed"))}

    def _build_module(self, network: nn.Module) -> Module:
        return Module(network, len(self.genes), self.backbone)

    def _build_plan(self, settings: dict[str, Any]) -> Plan:
        fixed: dict[str, Any] = {"weights": None, "weight_decay": 0.0, "warmup": None}
        return Plan(self.module, lr=1e-3, chunk_size=None, seed=self.seed, **fixed)

    def _context(self, plan: SpotPlan | None) -> Context:
        return WholeSlide()

    def _apply(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": self.module.encode_context(images)}

    def _slide_product(self, slide: Any) -> dict[str, torch.Tensor]:
        return {"keys": torch.cat([self.module.keys(block) for block in slide.blocks()])}

    def _combine(self, spots: Any) -> dict[str, torch.Tensor]:
        own = spots.own("features")
        return {"latent": own, "expression": self.module(own, spots.slide["keys"])}


def measure(store: Path, n_spots: int) -> dict[str, Any]:
    """Train for an epoch and predict, counting the rows of features that are read."""
    import spatialdata

    read: dict[str, int] = {}
    wanted = Parts.read

    def counted(parts: Parts, name: str, rows: Any) -> Any:
        read[name] = read.get(name, 0) + len(rows)
        return wanted(parts, name, rows)

    Parts.read = counted  # type: ignore[method-assign]
    stages, begin = {}, time.perf_counter()

    def stage(name: str) -> None:
        nonlocal begin
        now = time.perf_counter()
        stages[name] = {
            "wall_s": round(now - begin, 1),
            "peak_gib": round(peak_memory_mib() / 1024, 2),
        }
        print(f"  {name}: {stages[name]}", file=sys.stderr, flush=True)
        begin = now

    sdata = spatialdata.read_zarr(store)
    Toy.setup_spatialdata(sdata, um_per_px=UM_PER_PX)
    model = Toy(sdata, backbone=Colours(), genes=GENES, tile_um=PX * UM_PER_PX, tile_px=PX, seed=0)
    stage("set-up")
    model.train(1, batch_size=512, accelerator="cpu", enable_progress_bar=False)
    stage("one epoch, and scores")
    out = store.with_name("out.zarr")
    model.predict_slide(sdata, shapes_key="bins", um_per_px=UM_PER_PX, out=out)
    stage("prediction to disk")
    found = spatialdata.read_zarr(out)["rankbygene"].shape
    if found != (n_spots, GENES):
        msg = f"found {found}"
        raise RuntimeError(msg)
    return {"n_spots": n_spots, "stages": stages, "rows_read": read}


def main() -> None:
    """Measure in a process of its own, whose peak is that of the stages alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/whole_slide.json"))
    parser.add_argument("--spots", type=int, default=100_000)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.spots)))
        return
    folder = Path(tempfile.mkdtemp(prefix="rankbygene-whole-slide-"))
    try:
        make_slide(arguments.spots, folder / "slide.zarr")
        child = [sys.executable, __file__, "--spots", str(arguments.spots)]
        done = subprocess.run(
            [*child, "--one", str(folder / "slide.zarr")],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        shutil.rmtree(folder)
    result = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(result, indent=2))
    write_record({"machine": describe_machine(), "results": result}, arguments.out)


if __name__ == "__main__":
    main()
