"""Time and peak memory of training on large bags, read from disk as they are needed.

Bags of random features lie in memory-mapped files; none is held as a whole. Run with
``python benchmarks/bags.py``; about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import rankbygene as rbg
from rankbygene.data import ArrayBag


class FileBag(ArrayBag):
    """A bag in a file; pages that were read are given back at once."""

    def read(self, rows: Any = None) -> Any:
        """Read rows and forget the pages."""
        features = np.load(self.features.filename, mmap_mode="r")  # type: ignore[attr-defined]
        return np.array(features if rows is None else features[rows], np.float32)


def write_bags(folder: Path, n_bags: int, n_tiles: int, n_features: int) -> list[FileBag]:
    """Write random bags, block by block."""
    rng = np.random.default_rng(0)
    bags = []
    for i in range(n_bags):
        path = folder / f"slide_{i}.npy"
        file = np.lib.format.open_memmap(path, "w+", np.float32, (n_tiles, n_features))
        for start in range(0, n_tiles, 5000):
            block = file[start : start + 5000]
            block[:] = rng.normal(size=block.shape)
        # Half the slides have a few tiles that stand out.
        file[:200] += 2.0 * (i % 2)
        file.flush()
        bags.append(FileBag(path.stem, np.load(path, mmap_mode="r")))
    return bags


def peak_mib() -> float:
    """Largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Train and predict, and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--bags", type=int, default=20)
    parser.add_argument("--tiles", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    records = []
    with tempfile.TemporaryDirectory() as name:
        bags = write_bags(Path(name), arguments.bags, arguments.tiles, arguments.features)
        clinical = pd.DataFrame({"label": ["low", "high"] * (len(bags) // 2)})
        clinical.index = pd.Index([bag.name for bag in bags][: len(clinical)])
        for pooling in ("attention", "transformer"):
            before, begin = peak_mib(), time.perf_counter()
            model = rbg.model.SlideClassifier(
                bags, clinical, patient_key=None, pooling=pooling, validation_size=0.0, seed=0
            )
            model.train(arguments.epochs, batch_size=4, enable_progress_bar=False)
            trained, middle = peak_mib(), time.perf_counter()
            model.predict()
            records.append(
                {
                    "pooling": pooling,
                    "train_seconds": round(middle - begin, 1),
                    "predict_seconds": round(time.perf_counter() - middle, 1),
                    "peak_mib_before": round(before),
                    "peak_mib_after_training": round(trained),
                    "peak_mib_after_prediction": round(peak_mib()),
                }
            )
            print(json.dumps(records[-1]), flush=True)
    one = arguments.tiles * arguments.features * 4 / 2**20
    description = {
        "settings": {k: v for k, v in vars(arguments).items() if k != "out"},
        "one_bag_mib": round(one),
        "all_bags_mib": round(one * arguments.bags),
        "version": rbg.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
        "records": records,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description, indent=1)
    (arguments.out / "bags.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
