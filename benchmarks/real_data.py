"""Methods, ablations and baselines on real tissue: the numbers of ``real_data.md``.

Set ``RANKBYGENE_DATA`` to the folder of the data sets (see ``rankbygene.datasets``) and run
``python benchmarks/real_data.py``. Networks start from random weights. Finished folds are kept in
``--store``, so that a stopped run goes on where it was; about two hours on two cores.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import scanpy as sc
from scipy.sparse import csr_matrix

import rankbygene as rbg
from rankbygene.tl import ModelMethod

IMAGE = {"backbone": "resnet18", "pretrained": False, "tile_um": 600.0, "tile_px": 64}
EPOCHS = 25


LIGHT = {"expression": 10.0, "contrast": 0.3, "ranking": 0.3, "distillation": 0.0}
DEFAULTS = {"contrast": 1.0, "ranking": 5.0, "distillation": 1.0}


def model(
    head: str = "joint",
    tta: int = 8,
    statistics: bool = False,
    weights: dict[str, float] | None = None,
    **plan: Any,
) -> ModelMethod:
    """RankByGene trained on everything for a fixed number of epochs."""
    return ModelMethod(
        "rankbygene",
        model_kwargs={
            "validation_size": 0.0,
            "head": head,
            "tta": tta,
            **({"statistics": True} if statistics else {}),
        },
        train_kwargs={"plan_kwargs": {"weights": {**LIGHT, **(weights or {})}, **plan}},
    )


def warm(train: Any) -> Any:
    """Start from an encoder that was trained on the tissue tiles of the training slides alone."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "warm.safetensors"
        encoder = rbg.model.pretrain(
            train.slides,
            train.image.backbone,
            tile_um=train.image.tile_um,
            tile_px=train.image.tile_px,
            step_um=224.0,
            max_epochs=10,
            batch_size=128,
            seed=train.seed,
            enable_progress_bar=False,
        )
        encoder.save(weights)
        recipe = model().over({"weights": weights}, {"max_epochs": EPOCHS})
        return recipe(train)


METHODS: dict[str, Any] = {
    "RankByGene": model(statistics=True),
    "network alone": model(),
    "NH2ST": ModelMethod("nh2st"),
}
ABLATIONS: dict[str, Any] = {
    "expression only": model(weights={"contrast": 0.0, "ranking": 0.0}),
    "all terms (defaults)": model(weights=DEFAULTS),
    "defaults, no ranking": model(weights={**DEFAULTS, "ranking": 0.0}),
    "defaults, released ranking": model(
        weights=DEFAULTS,
        ranking_variant="released", ranking_similarity="softmax", detach_gene=False,
    ),
    "defaults, no distillation": model(weights={**DEFAULTS, "distillation": 0.0}),
    "defaults, no gene contrast": model(weights={**DEFAULTS, "contrast": 0.0}),
    "defaults, frozen head": model("frozen", weights=DEFAULTS),
    "student instead of teacher": model(ema_start=0.0, ema_end=0.0),
    "one view": model(tta=1),
    "self-supervised start": warm,
}  # fmt: skip


def her2st(store: Path, jobs: int, seeds: list[int], folds: list[str] | None) -> Any:
    """Leave one section out; all four are of one patient."""
    return _sections(METHODS, store, jobs, seeds, folds)


def ablations(store: Path, jobs: int, seeds: list[int], folds: list[str] | None) -> Any:
    """Change one part of the network's training at a time."""
    methods = {"network alone": METHODS["network alone"], **ABLATIONS}
    return _sections(methods, store, jobs, seeds, folds, baselines=(), references=())


def narrow(store: Path, jobs: int, seeds: list[int], folds: list[str] | None) -> Any:
    """Tiles about as wide as the pitch of the spots, where a neighbourhood can add what they lack."""
    methods = {"NH2ST": ModelMethod("nh2st", train_kwargs={"group_size": 8})}
    baselines = ("mean", "ridge", "supervised")
    settings = {"baselines": baselines, "references": (), "image": IMAGE | {"tile_um": 224.0}}
    return _sections(methods, store, jobs, seeds, folds, **settings)


def _sections(
    methods: Mapping[str, Any],
    store: Path,
    jobs: int,
    seeds: list[int],
    folds: list[str] | None,
    *,
    image: Mapping[str, Any] = IMAGE,
    **kwargs: Any,
) -> Any:
    slides = rbg.datasets.her2st()
    rbg.model.RankByGene.setup_spatialdata(slides, patient_key="patient")
    return rbg.tl.cross_validate(
        slides,
        methods,
        groups="slide",
        allow_leaks=["patient"],
        max_epochs=EPOCHS,
        model_kwargs={"validation_size": 0.0},
        seeds=seeds,
        store=store,
        only_folds=folds,
        n_jobs=jobs,
        **image,
        **kwargs,
    )


def olfactory_bulb(store: Path, jobs: int, seeds: list[int]) -> Any:
    """Train on the sections of one mouse, score those of the other."""
    slides = rbg.datasets.olfactory_bulb()
    rbg.model.RankByGene.setup_spatialdata(slides, patient_key="patient")
    return rbg.tl.cross_validate(
        slides,
        {name: METHODS[name] for name in ("RankByGene", "NH2ST")},
        groups="patient",
        max_epochs=15,
        model_kwargs={"validation_size": 0.0},
        seeds=seeds,
        store=store,
        n_jobs=jobs,
        **(IMAGE | {"tile_um": 300.0}),
    )


def layers(seeds: list[int]) -> pd.DataFrame:
    """Agreement of domains with the five layers of one bulb: image, expression, both.

    The model is trained on the section itself, as for any clustering: no held-out score is meant.
    """
    rows = []
    for seed in seeds:
        slides = rbg.datasets.olfactory_bulb(array="stahl")
        settings = IMAGE | {"tile_um": 300.0}
        fitted = rbg.model.fit(
            slides,
            max_epochs=60,
            seed=seed,
            backbone=settings["backbone"],
            pretrained=False,
            model_kwargs={"tile_um": 300.0, "tile_px": 64, "validation_size": 0.0},
            train_kwargs={
                "plan_kwargs": {"weights": {"expression": 10.0}},
                "enable_progress_bar": False,
            },
        )
        (sdata,) = slides.values()
        table = sdata["table"].copy()
        rows += [{"seed": seed, **row} for row in domains(table, fitted)]
    return pd.DataFrame(rows)


def domains(table: ad.AnnData, fitted: Any) -> list[dict[str, Any]]:
    """Cluster each representation into as many groups as there are layers."""
    from sklearn.cluster import KMeans

    expression = ad.AnnData(csr_matrix(table.X), obs=table.obs[[]], var=table.var[[]])
    sc.pp.normalize_total(expression, target_sum=1e4)
    sc.pp.log1p(expression)
    sc.pp.highly_variable_genes(expression, n_top_genes=2000)
    sc.pp.pca(expression, n_comps=20)
    image = ad.AnnData(table.obsm["X_rankbygene"].astype(np.float32))
    sc.pp.pca(image, n_comps=20)
    frame = next(iter(fitted.frames.values()))

    def scaled(values: Any) -> Any:
        return values / values.std()

    spaces = {
        "X_rankbygene (image)": image.obsm["X_pca"],
        "PCA of expression": expression.obsm["X_pca"],
        "both": np.hstack([scaled(image.obsm["X_pca"]), scaled(expression.obsm["X_pca"])]),
    }
    truth = table.obs["layer"].astype(str).to_numpy()
    rows = []
    for name, values in spaces.items():
        found = KMeans(len(np.unique(truth)), n_init=20, random_state=0).fit_predict(values)
        rows.append(
            {
                "space": name,
                "ARI": rbg.metrics.ari(truth, found),
                "NMI": rbg.metrics.nmi(truth, found),
                "PAS": rbg.metrics.pas(found, frame.centers_um),
                "CHAOS": rbg.metrics.chaos(found, frame.centers_um),
            }
        )
    return rows


def markdown(table: pd.DataFrame) -> str:
    """Write a table of numbers as Markdown."""
    rows = [["space", *table.columns], ["---"] + ["---:"] * table.shape[1]]
    rows += [[str(name), *(f"{value:.3f}" for value in row)] for name, *row in table.itertuples()]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def report(out: Path) -> str:
    """Join the tables that are there."""
    parts = ["# Methods on real tissue\n", INTRODUCTION]
    for name, (title, text) in SECTIONS.items():
        table = out / f"{name}.md"
        if table.exists():
            parts += [f"## {title}\n", text, table.read_text(encoding="utf-8")]
    if FINDINGS.exists():
        parts.append(FINDINGS.read_text(encoding="utf-8"))
    return "\n".join(parts)


INTRODUCTION = """Written by `python benchmarks/real_data.py`; how to read the columns stands in the user guide, page *Evaluation*.
All networks start from random weights, and every method sees the same tiles, genes and folds.

`RankByGene` is the recommended recipe for training from random weights on few slides: a joint head
(`"expression": 10`), light contrast and ranking (`"contrast": 0.3`, `"ranking": 0.3`), no distillation, tiles as wide as the smoothing
window, and the mean of the network's prediction with a ridge on colour and texture statistics
(`statistics=True`). `network alone` is the same without the statistics. Tile width and the weights of the losses were compared on
validation sections inside the training side of two of the folds (`benchmarks/recipe_search.py`, numbers in
`benchmarks/results/recipe_search.jsonl`); that the statistics are averaged in was set beforehand, and no weight of the mean was tuned.
"""
FINDINGS = Path(__file__).with_name("real_data_findings.md")

SECTIONS = {
    "her2st": (
        "Breast cancer, leave one section out",
        "Four sections of one patient (her2st C2 to C5): not a score for new patients. The 250 most expressed genes "
        "of the training sections, mean over the 3 x 3 window, 25 epochs.\n",
    ),
    "ablations": (
        "What the parts of the training add",
        "The same sections, one change at a time against `network alone`.\n",
    ),
    "narrow": (
        "Tiles as narrow as the pitch",
        "The same sections with tiles of 224 um, a little more than the pitch of 200 um: what lies around a spot must "
        "come from its neighbours. NH2ST in groups of 8.\n",
    ),
    "bulb": (
        "Olfactory bulb, leave one animal out",
        "Two sections of each of two mice (ST 2k array), tiles of 300 um, 15 epochs.\n",
    ),
    "layers": (
        "Layers of an olfactory bulb",
        "Replicate 11 of the first publication: K-means into five domains against its five layers. The model is "
        "trained on the section itself, as for any clustering.\n",
    ),
}


def main() -> None:
    """Run what was asked for and write tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/real_data"))
    parser.add_argument("--store", type=Path, default=Path("real-data-folds"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--report", type=Path, default=Path("benchmarks/real_data.md"))
    parser.add_argument("--folds", nargs="+", help="sections of her2st to hold out, by default all")
    parser.add_argument("--only", choices=["her2st", "ablations", "narrow", "bulb", "layers"])
    arguments = parser.parse_args()
    if "RANKBYGENE_DATA" not in os.environ:
        parser.error("set RANKBYGENE_DATA to the folder of the data sets")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    mpl.use("Agg")
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    arguments.store.mkdir(parents=True, exist_ok=True)
    common = (arguments.jobs, arguments.seeds)
    stages: Mapping[str, Any] = {
        "her2st": lambda: her2st(arguments.store / "her2st", *common, arguments.folds),
        "ablations": lambda: ablations(arguments.store / "her2st", *common, arguments.folds),
        "narrow": lambda: narrow(arguments.store / "narrow", *common, arguments.folds),
        "bulb": lambda: olfactory_bulb(arguments.store / "bulb", *common),
    }
    for name, run in stages.items():
        if arguments.only in (None, name):
            result = run()
            (out / f"{name}.md").write_text(result.to_markdown(), encoding="utf-8")
            (out / f"{name}.json").write_text(result.to_json(), encoding="utf-8")
            rbg.pl.scores(result, save=out / f"{name}.png")
            print(result, flush=True)
    if arguments.only in (None, "layers"):
        table = layers(arguments.seeds).groupby("space", sort=False).mean(numeric_only=True)
        text = markdown(table.drop(columns="seed"))
        (out / "layers.md").write_text(text, encoding="utf-8")
        print(text)
    arguments.report.write_text(report(out), encoding="utf-8")


if __name__ == "__main__":
    main()
