"""How near training comes to the rate of its networks alone, and which settings pay.

``bare`` is the student forward and backward and the teacher forward on a ready batch: what no
training of RankByGene can do without. ``training`` is the whole way: batches from a tile bank,
views, losses, optimiser, teacher and callbacks in Lightning's trainer. Spots are random tensors;
neither SpatialData nor scvi-tools is needed. Run with ``python benchmarks/train.py``; a few minutes
on two cores. On a GPU ``--backbone vit_large_patch16_224 --px 224 --batch-size 256`` gives the share
of the chip's measured bfloat16 rate.

``--released PATH`` names a checkout of the authors' code, whose own loop is then run beside on the
same spots and encoder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from _machine import describe_machine
from _spots import (
    Clock,
    bare_packages,
    interleave,
    make_module,
    make_spots,
    report,
    utilisation,
)

bare_packages()

from rankbygene.data.batches._datamodule import SpatialDataModule  # noqa: E402
from rankbygene.train import FiniteLoss, RankByGenePlan, encoders_for_training  # noqa: E402

Run = Callable[[], tuple[float, float]]


class Timer(pl.Callback):
    """Times the steps of a fit but the first few."""

    def __init__(self, clock: Clock, skip: int) -> None:
        self.clock, self.skip = clock, skip
        self.n_spots = 0

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx >= self.skip:
            self.n_spots += len(batch["spot"]) if isinstance(batch, dict) else len(batch[1])
        if batch_idx == self.skip - 1:
            self.clock.start()

    def on_train_epoch_end(self, *args: Any) -> None:
        self.rates = self.clock.rates(self.n_spots)


def fit(plan: Any, data: Any, device: torch.device, precision: str, **settings: Any) -> None:
    """One epoch in a trainer that only trains."""
    pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    ).fit(plan, data)


def training(
    options: argparse.Namespace, device: torch.device, precision: str, compile: bool
) -> Run:
    """The whole way, of one variant."""
    tiles, expression = make_spots(options.batch_size * options.steps, options.px, options.genes)
    plan = RankByGenePlan(make_module(options.backbone, options.px, options.genes))
    context = encoders_for_training(plan.module, compile=compile)
    context.__enter__()  # compiled once for all rounds

    def run() -> tuple[float, float]:
        rows = {"train": np.arange(len(tiles))}
        data = SpatialDataModule(tiles, expression, rows, batch_size=options.batch_size)
        timer = Timer(Clock(device), options.skip)
        plan.module.train()
        fit(plan, data, device, precision, callbacks=[FiniteLoss(), timer])
        return timer.rates

    return run


def bare(
    options: argparse.Namespace,
    device: torch.device,
    precision: str,
    channels_last: bool = True,
    compile: bool = False,
) -> Run:
    """Networks alone on a ready batch, of one variant."""
    module = make_module(options.backbone, options.px, options.genes).to(device).train()
    student, teacher = module.encoders
    if compile:
        student, teacher = torch.compile(student), torch.compile(teacher)
    images = torch.rand(options.batch_size, 3, options.px, options.px, device=device)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            with torch.no_grad():
                teacher(images)
            features = student(images)
        features.float().square().mean().backward()
        module.zero_grad(set_to_none=True)

    def run() -> tuple[float, float]:
        for _ in range(options.skip):
            step()
        clock = Clock(device)
        clock.start()
        for _ in range(options.steps - options.skip):
            step()
        return clock.rates(options.batch_size * (options.steps - options.skip))

    run.step = step  # type: ignore[attr-defined]
    return run


def released(options: argparse.Namespace, device: torch.device, folder: Path) -> Run:
    """The authors' loop from their checkout: their data set, transforms, plan and settings."""
    from PIL import Image

    sys.modules.setdefault("pytorch_lightning", pl)
    for name in ("loggers", "callbacks"):
        sys.modules.setdefault(f"pytorch_lightning.{name}", getattr(pl, name))
    sys.path.insert(0, str(options.released))
    import timm
    from dataset.dataloader import FineTune
    from model.encoder import ProjectionHeadCL, RankByGeneEncoder
    from train import FineTuning
    from transforms.transform import TrainTransform

    tiles, expression = make_spots(options.batch_size * options.steps, options.px, options.genes)
    (folder / "patches" / "slide").mkdir(parents=True)
    (folder / "genes").mkdir()
    for i, tile in enumerate(tiles):
        Image.fromarray(tile.transpose(1, 2, 0)).save(folder / f"patches/slide/s{i}.png")
    lines = [",".join(["", *(f"g{i}" for i in range(options.genes))])]
    lines += [f"s{i}," + ",".join(map(str, row)) for i, row in enumerate(expression.values)]
    (folder / "genes" / "slide_expression.csv").write_text("\n".join(lines), encoding="utf-8")
    spots = FineTune(
        "breast", str(folder / "patches"), str(folder / "genes"), TrainTransform(options.px)
    )
    backbone = timm.create_model(options.backbone, pretrained=False, num_classes=0)
    backbone.embed_dim = backbone.num_features
    plan = FineTuning(
        image_encoder=RankByGeneEncoder(backbone),
        gene_encoder=ProjectionHeadCL(options.genes, 1024),
        image_learning_rate=1e-4,
        gene_learning_rate=1e-3,
        batch_size=8,
        alpha=5,
        beta=1,
        ema_momentum=0.96,
        gene_image_flag=True,
    )

    def run() -> tuple[float, float]:
        # Their script: batches of 8, gradients of 32 spots accumulated.
        loader = torch.utils.data.DataLoader(
            spots, batch_size=8, shuffle=True, num_workers=options.workers, drop_last=True
        )
        timer = Timer(Clock(device), options.skip)
        fit(plan, loader, device, "32-true", callbacks=[timer], accumulate_grad_batches=4)
        return timer.rates

    return run


def profile(run: Run) -> str:
    """Where the time of a step goes, by operation."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profiler(activities=activities) as found:
        run()
    key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    text: str = found.key_averages().table(sort_by=key, row_limit=20, max_name_column_width=50)
    return text


def variants(options: argparse.Namespace, device: torch.device, folder: Path) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for precision in options.precisions:
        runs[f"bare, {precision}"] = bare(options, device, precision)
        runs[f"training, {precision}"] = training(options, device, precision, compile=False)
    precision = options.precisions[-1]
    if options.settings:
        runs[f"bare, {precision}, not channels_last"] = bare(options, device, precision, False)
        runs[f"bare, {precision}, compiled"] = bare(options, device, precision, compile=True)
        runs[f"training, {precision}, compiled"] = training(options, device, precision, True)
    if options.released is not None:
        runs["the authors' loop"] = released(options, device, folder)
    return runs


def shares(results: dict[str, dict[str, float]], options: argparse.Namespace) -> dict[str, float]:
    """Ratios by processor time on a CPU, where other programs take wall time, else by wall time."""
    key = "spots_per_second" if torch.cuda.is_available() else "spots_per_cpu_second"
    found = {
        f"training / bare, {precision}": results[f"training, {precision}"][key]
        / results[f"bare, {precision}"][key]
        for precision in options.precisions
    }
    best = f"training, {options.precisions[-1]}"
    others = {
        "training / the authors' loop": (best, "the authors' loop"),
        "training, compiled / not compiled": (f"{best}, compiled", best),
    }
    for name, (one, other) in others.items():
        if one in results and other in results:
            found[name] = results[one][key] / results[other][key]
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    """Measure and write."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--px", type=int, default=112)
    parser.add_argument("--genes", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12, help="of a round, the skipped included")
    parser.add_argument("--skip", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--settings", action="store_true", help="also memory format and compiling")
    parser.add_argument("--released", type=Path, help="checkout of the authors' code")
    parser.add_argument(
        "--workers", type=int, help="of the authors' loader; theirs are 4, on a CPU 0"
    )
    parser.add_argument("--profile", action="store_true", help="also write where the time goes")
    parser.add_argument("--name", default="train", help="of the file of results")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.workers is None:  # the time of other processes would not be counted on a CPU
        options.workers = 4 if device.type == "cuda" else 0
    if device.type == "cpu":
        print("no CUDA device: the share of a chip's matrix rate is not measured", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = variants(options, device, Path(folder))
        results = interleave(runs, options.rounds)
    ratios = shares(results, options)
    record: dict[str, Any] = {"machine": describe_machine()}
    settings = {name: value for name, value in vars(options).items() if name not in ("out",)}
    record["settings"] = {
        name: value if isinstance(value, (int, float, str, list)) else None
        for name, value in settings.items()
    }
    precision = options.precisions[-1]
    if device.type == "cuda":
        step = runs[f"bare, {precision}"].step  # type: ignore[attr-defined]
        rate = results[f"training, {precision}"]["spots_per_second"]
        record["utilisation"] = found = utilisation(step, options.batch_size, rate, device)
        ratios["training / measured matrix rate"] = found["share"]
    report(record, results, ratios, options.out / f"{options.name}.json")
    if options.profile:
        text = profile(runs[f"training, {precision}"])
        (options.out / f"{options.name}_profile.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
