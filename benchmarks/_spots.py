"""Random spots as tensors, and what trains on them; needs neither SpatialData nor scvi-tools."""

from __future__ import annotations

import contextlib
import importlib
import statistics
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from _machine import peak_memory_mib, write_record


def bare_packages() -> None:
    """Let single files of ``data`` and ``model`` load where SpatialData is not installed."""
    import rankbygene

    for name in ("data", "model"):
        full = f"rankbygene.{name}"
        try:
            importlib.import_module(full)
        except ModuleNotFoundError:
            package = types.ModuleType(full)
            package.__path__ = [str(Path(rankbygene.__file__).parent / name)]
            sys.modules[full] = package


def make_spots(n: int, px: int, n_genes: int) -> tuple[np.ndarray, Any]:
    """Random tiles, and random expression as an expression bank holds it."""
    make: Any = SimpleNamespace
    with contextlib.suppress(ImportError):  # on a machine without anndata nothing asks for more
        from rankbygene.data.expression._expression import ExpressionBank

        make = ExpressionBank
    rng = np.random.default_rng(0)
    expression = make(
        values=rng.normal(size=(n, n_genes)).astype(np.float32),
        measured=np.ones((1, n_genes), bool),
        slide_of_row=np.zeros(n, np.int64),
        genes=tuple(f"gene_{i}" for i in range(n_genes)),
        slides=("slide",),
    )
    return rng.integers(0, 256, (n, 3, px, px), dtype=np.uint8), expression


def make_module(backbone: str, px: int, n_genes: int) -> Any:
    """RankByGene's networks on an untrained encoder."""
    from rankbygene.module import RankByGeneModule
    from rankbygene.nn import build_backbone

    torch.manual_seed(0)
    encoder, spec = build_backbone(backbone, pretrained=False, tile_px=px)
    return RankByGeneModule(encoder, n_features=spec.n_features, n_genes=n_genes)


def interleave(
    runs: Mapping[str, Callable[[], tuple[float, float]]], rounds: int
) -> dict[str, dict[str, float]]:
    """Measure variants in turn, round after round, and take medians: a busy machine hits all alike.

    A run gives spots per second of wall time and of processor time.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
            wall, cpu = found[name][-1]
            print(f"round {number} {name}: {wall:.2f} spots/s, {cpu:.2f} per cpu-s", flush=True)
    return {
        name: {
            "spots_per_second": round(statistics.median(wall for wall, _ in rates), 3),
            "spots_per_cpu_second": round(statistics.median(cpu for _, cpu in rates), 3),
        }
        for name, rates in found.items()
    }


class Clock:
    """Wall and processor time between two points at which the device has nothing left to do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self) -> None:
        """Begin."""
        self._wait()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def rates(self, n: int) -> tuple[float, float]:
        """Rate of ``n`` things since the start."""
        self._wait()
        return n / (time.perf_counter() - self._wall), n / (time.process_time() - self._cpu)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def matmul_rate(device: torch.device, size: int = 8192, n: int = 50) -> float:
    """Measured rate of bfloat16 matrix products, in floating-point operations per second."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    clock = Clock(device)
    clock.start()
    for _ in range(n):
        a @ b
    return clock.rates(n)[0] * 2 * size**3


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Results as Markdown."""
    columns = list(dict.fromkeys(key for row in results.values() for key in row))
    lines = ["| variant | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in results.items():
        lines.append(f"| {name} | " + " | ".join(str(row.get(key, "")) for key in columns) + " |")
    return "\n".join(lines)


def utilisation(
    step: Callable[[], None], batch_size: int, spots_per_second: float, device: torch.device
) -> dict[str, float]:
    """Floating-point operations of a spot, the chip's measured rate, and the share of it that is used."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    flops, rate = counter.get_total_flops() / batch_size, matmul_rate(device)
    return {
        "flops_per_spot": flops,
        "matmul_flops_per_second": rate,
        "share": round(spots_per_second * flops / rate, 3),
    }


def report(
    record: dict[str, Any],
    results: dict[str, dict[str, float]],
    ratios: dict[str, float],
    path: Path,
) -> None:
    """Write rates and their ratios beside what is known of the run, and print them."""
    peak = round(peak_memory_mib())
    write_record(record | {"results": results, "ratios": ratios, "peak_memory_mib": peak}, path)
    print("\n" + table(results))
    for name, value in ratios.items():
        print(f"\n{name}: {value}")
