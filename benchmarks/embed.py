"""How near embedding comes to the rate of the encoder alone.

``bare`` is the encoder's forward over the eight orientations of a ready batch. ``embedding`` is the
whole way: batches from a tile bank, transfer, orientations, normalisation, heads, averages and the
copy back, as ``get_latent_representation`` does it. ``kept`` is the same for a frozen encoder whose
features are kept for training. Spots are random tensors; neither SpatialData nor scvi-tools is
needed. Run with ``python benchmarks/embed.py``; a few minutes on two cores. On a GPU
``--backbone vit_large_patch16_224 --px 224 --batch-size 256`` gives the share of the chip's measured
bfloat16 rate.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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

from rankbygene.base._inference import autocast, collect, run_over_tiles  # noqa: E402
from rankbygene.nn import orientations  # noqa: E402

Run = Callable[[], tuple[float, float]]


def blocks(tiles: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and tiles, as a model streams them from its bank."""
    for start in range(0, len(tiles), size):
        rows = np.arange(start, min(start + size, len(tiles)))
        yield rows, tiles[rows]


def embedding(module: Any, tiles: np.ndarray, size: int, device: Any, precision: str) -> Run:
    """The whole way."""

    def apply(images: torch.Tensor) -> dict[str, torch.Tensor]:
        features, expression = module.represent(images)
        return {"latent": features, "expression": expression}

    def run() -> tuple[float, float]:
        clock = Clock(device)
        clock.start()
        run_over_tiles(
            apply,
            blocks(tiles, size),
            len(tiles),
            device=device,
            batch_size=size,
            precision=precision,
        )
        return clock.rates(len(tiles))

    return run


def kept(module: Any, tiles: np.ndarray, size: int, device: Any, precision: str) -> Run:
    """All orientations, to train heads on."""

    def run() -> tuple[float, float]:
        clock = Clock(device)
        clock.start()
        stream = blocks(tiles, size)
        collect(module.encode_orientations, stream, len(tiles), device=device, precision=precision)
        return clock.rates(len(tiles))

    return run


def bare(module: Any, tiles: np.ndarray, size: int, device: Any, precision: str) -> Run:
    """The encoder alone."""
    encoder = module.encoders[1]
    images = torch.from_numpy(tiles[:size]).to(device)
    ready = [module.normalize_images(view) for view in orientations(images)]
    n_batches = len(tiles) // size

    def step() -> None:
        with torch.inference_mode(), autocast(device, precision):
            for view in ready:
                encoder(view)

    def run() -> tuple[float, float]:
        clock = Clock(device)
        clock.start()
        for _ in range(n_batches):
            step()
        return clock.rates(n_batches * size)

    run.step = step  # type: ignore[attr-defined]
    return run


def main() -> None:
    """Measure and write."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--px", type=int, default=112)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=4, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--name", default="embed", help="of the file of results")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        print("no CUDA device: the share of a chip's matrix rate is not measured", flush=True)
    module = make_module(options.backbone, options.px, 250).to(device).eval()
    tiles, _ = make_spots(options.batch_size * options.batches, options.px, 1)
    runs: dict[str, Run] = {}
    for precision in options.precisions:
        for make in (bare, embedding, kept):
            run = make(module, tiles, options.batch_size, device, precision)
            runs[f"{make.__name__}, {precision}"] = run
    for run in runs.values():
        run()  # what a first call sets up
    results = interleave(runs, options.rounds)
    on_gpu = device.type == "cuda"
    key = "spots_per_second" if on_gpu else "spots_per_cpu_second"
    ratios = {
        f"{name} / bare, {precision}": round(
            results[f"{name}, {precision}"][key] / results[f"bare, {precision}"][key], 3
        )
        for precision in options.precisions
        for name in ("embedding", "kept")
    }
    record: dict[str, Any] = {"machine": describe_machine()}
    record["settings"] = {k: v for k, v in vars(options).items() if k != "out"}
    if on_gpu:
        precision = options.precisions[-1]
        step = runs[f"bare, {precision}"].step  # type: ignore[attr-defined]
        rate = results[f"embedding, {precision}"][key]
        record["utilisation"] = found = utilisation(step, options.batch_size, rate, device)
        ratios["embedding / measured matrix rate"] = found["share"]
    report(record, results, ratios, options.out / f"{options.name}.json")


if __name__ == "__main__":
    main()
