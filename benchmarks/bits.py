"""Whether the same seed still gives the same bits: hashes of weights and results of every method.

``python benchmarks/bits.py --record`` writes them before a change of the house, and without it compares and
fails where one differs. The bits are those of one machine and one version of torch; the record says which.
One thread, about a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import describe_machine, write_record

import rankbygene as rbg

RECORD = Path(__file__).parent / "results" / "bits.json"
TRAIN: dict[str, Any] = {
    "max_epochs": 2,
    "batch_size": 16,
    "accelerator": "cpu",
    "precision": "32-true",
    "enable_progress_bar": False,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rankbygene joint": ("RankByGene", {}),
    "rankbygene frozen": ("RankByGene", {"head": "frozen", "tta": 1}),
    "rankbygene statistics": ("RankByGene", {"statistics": True}),
    "rankbygene two widths": ("RankByGene", {"context_um": [224.0]}),
    "rankbygene kept features": ("RankByGene", {"fine_tune": "none"}),
    "nh2st": ("NH2ST", {}),
    "nh2st after attention": ("NH2ST", {"contrast_on": "post", "tta": 1}),
    "nh2st from the query": ("NH2ST", {"decode_from": "query"}),
    "nh2st kept features": ("NH2ST", {"fine_tune": "none"}),
}


def digest(*arrays: Any) -> str:
    """Hash arrays with their types and shapes."""
    found = hashlib.sha256()
    for array in map(np.asarray, arrays):
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def of_results(results: dict[str, Any]) -> str:
    """Hash the results of several slides."""
    return digest(*(np.asarray(results[name]) for name in sorted(results)))


def measure(cls: Any, slides: list[Any], settings: dict[str, Any]) -> dict[str, str]:
    """Train, and hash weights, results, scores and the prediction of a slide on disk."""
    cls.setup_spatialdata(slides, patient_key="patient")
    model = cls(
        slides,
        backbone="test_resnet",
        pretrained=False,
        genes=12,
        seed=3,
        tile_px=32,
        **settings,
    )
    model.train(**TRAIN)
    state = model.module.state_dict()
    found = {
        "weights": digest(*(state[name].numpy() for name in sorted(state))),
        "names": hashlib.sha256("\n".join(sorted(state)).encode()).hexdigest()[:16],
        "latent": of_results(model.get_latent_representation()),
        "genes": of_results(model.get_latent_representation(modality="gene")),
        "expression": of_results(model.get_normalized_expression()),
        "pearson": digest(model.validation_pearson.to_numpy()),
        "history": digest(*(model.history[name].to_numpy(float) for name in sorted(model.history))),
    }
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        loaded = cls.load(Path(folder) / "model")
        loaded.predict_slide(slides[0], out=Path(folder) / "slide.zarr", step_um=80)
        import spatialdata

        table = spatialdata.read_zarr(Path(folder) / "slide.zarr").tables["rankbygene"]
        found["slide"] = digest(table.X, table.obsm[f"X_{cls.method}"])
    return found


def main() -> int:
    """Measure, and record or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    slides = rbg.datasets.synthetic(n_slides=3, n_spots=64, n_genes=20, seed=5)
    found = {
        name: measure(getattr(rbg.model, cls), slides, settings)
        for name, (cls, settings) in CASES.items()
    }
    if arguments.record:
        write_record({"machine": describe_machine(), "bits": found}, RECORD)
        return 0
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))["bits"]
    other = [
        f"{case}: {name}"
        for case, hashes in recorded.items()
        for name, value in hashes.items()
        if found[case][name] != value
    ]
    print("\n".join(other) if other else f"the same bits in {len(found)} cases")
    return int(bool(other))


if __name__ == "__main__":
    sys.exit(main())
