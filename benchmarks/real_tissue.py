"""RankByGene on published tissue, from raw files to scores and pictures.

Set ``RANKBYGENE_DATA`` to the folder of the data sets (see ``rankbygene.datasets``) and run
``python benchmarks/real_tissue.py --out FOLDER``; about ten minutes on two cores. Networks start from
random weights: no published weights are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scanpy as sc

import rankbygene as rbg

if TYPE_CHECKING:
    from spatialdata import SpatialData

Model = rbg.model.RankByGene


def train(slides: Mapping[str, SpatialData] | SpatialData, epochs: int, **kwargs: Any) -> Any:
    """Train a small network on tiles of 224 um."""
    model = Model(slides, backbone="resnet18", pretrained=False, tile_um=224, **kwargs)
    model.train(epochs, enable_progress_bar=False)
    return model


def picture(sdata: SpatialData, gene: str, path: Path) -> int:
    """Cluster by the representation, draw a gene; return the number of clusters."""
    table = sdata["table"]
    sc.pp.neighbors(table, use_rep="X_rankbygene")
    sc.tl.leiden(table, flavor="igraph", n_iterations=2, directed=False)
    rbg.pl.spatial_expression(sdata, gene, save=path)
    return int(table.obs["leiden"].nunique())


def held_out(
    name: str,
    slides: Mapping[str, SpatialData],
    test: list[str],
    out: Path,
    *,
    epochs: int,
    **kwargs: Any,
) -> dict[str, Any]:
    """Train on the slides but ``test``, score and draw the first of those."""
    Model.setup_spatialdata(slides, patient_key="patient")
    begin = time.perf_counter()
    model = train({k: v for k, v in slides.items() if k not in test}, epochs, **kwargs)
    seconds = time.perf_counter() - begin
    unseen = {k: slides[k] for k in test}
    result = rbg.tl.evaluate(model, unseen)
    model.annotate(unseen)
    ours = result.per_gene.query("method == 'rankbygene'").set_index("gene")["pearson"]
    gene = str(ours.idxmax())
    clusters = picture(slides[test[0]], gene, out / f"{name}.png")
    return {
        "data": name,
        "test": test,
        "epochs": epochs,
        "seed": model.seed,
        "tile": {"um": model.tile_um, "px": model.tile_px},
        "seconds": round(seconds),
        "pearson": result.summary["pearson"].round(3).to_dict(),
        "mse": result.summary["mse"].round(4).to_dict(),
        "best_gene": [gene, round(float(ours[gene]), 3)],
        "leiden_clusters": clusters,
    }


def visium(out: Path) -> dict[str, Any]:
    """Run a Visium slide end to end on its hires picture; its colours are derived, no score is meant."""
    folder = Path(os.environ["RANKBYGENE_DATA"]) / "crc16_visium"
    sdata = rbg.io.read_visium(folder, dataset_id="crc16")
    table = sdata["table"]
    sc.pp.filter_cells(table, min_counts=100)
    Model.setup_spatialdata(sdata, image_key="crc16_hires_image")
    begin = time.perf_counter()
    model = train(sdata, 5, tile_px=64, genes=100, seed=0)
    model.annotate()
    seconds = time.perf_counter() - begin
    clusters = picture(sdata, model.genes[0], out / "visium.png")
    return {
        "data": "visium",
        "spots": table.n_obs,
        "epochs": 5,
        "seed": 0,
        "seconds": round(seconds),
        "split": model.split_note,
        "leiden_clusters": clusters,
    }


def main() -> None:
    """Run the three data sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("real-tissue"))
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", category=UserWarning)
    bulb = rbg.datasets.olfactory_bulb()
    records = [
        visium(out),
        held_out(
            "olfactory_bulb", bulb, ["MOB3", "MOB4"], out,
            epochs=arguments.epochs, tile_px=64, validation_size=0.0, seed=0,
        ),
        held_out(
            "her2st", rbg.datasets.her2st(), ["C5"], out,
            epochs=arguments.epochs, tile_px=112, validation_size=0.0, seed=0,
        ),
    ]  # fmt: skip
    for record in records:
        print(json.dumps(record), flush=True)
    text = json.dumps({"version": rbg.__version__, "records": records}, indent=1)
    (out / "real_tissue.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
