"""The demonstration: synthetic tissue, a small model, a slide of another patient."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankbygene.model import RankByGene
    from rankbygene.tl import Evaluation

logger = logging.getLogger(__name__)

N_PATIENTS, N_SPOTS, N_GENES, N_PANEL = 5, 220, 60, 50


def run_demo(
    folder: Path, *, seed: int = 0, max_epochs: int = 30, enable_progress_bar: bool = False
) -> Evaluation:
    """Make slides, train on all patients but the last, score and draw the last.

    Parameters
    ----------
    folder
        Existing folder; ``held_out.zarr``, ``model``, ``scores.csv``, ``scores.png`` and
        ``prediction.png`` are written into it.
    seed
        Of the tissue and of the model.
    max_epochs
        Of training.
    enable_progress_bar
        Whether to draw one.
    """
    import rankbygene as rbg

    slides = rbg.datasets.synthetic(N_PATIENTS, N_SPOTS, N_GENES, seed=seed, n_patients=N_PATIENTS)
    held_out = slides.pop()
    Model = rbg.model.RankByGene
    Model.setup_spatialdata([*slides, held_out], patient_key="patient")
    model = Model(
        slides, backbone="test_resnet", pretrained=False, genes=N_PANEL, tile_px=64, seed=seed
    )
    model.train(
        max_epochs,
        # A small network from random weights learns at a higher rate than the default.
        plan_kwargs={"lr": 3e-3, "gene_lr": 3e-3},
        enable_progress_bar=enable_progress_bar,
    )
    result = rbg.tl.evaluate(model, held_out)
    model.annotate(held_out)
    model.save(folder / "model")
    rbg.io.write_sdata(held_out, folder / "held_out.zarr")
    result.per_gene.to_csv(folder / "scores.csv", index=False)
    _draw(model, held_out, result, folder)
    return result


def _draw(model: RankByGene, held_out: Any, result: Evaluation, folder: Path) -> None:
    import rankbygene as rbg

    scores = result.per_gene.query("method == @model.method").set_index("gene")["pearson"]
    # The gene at the upper quartile: neither the luckiest nor a hopeless one.
    gene = str(scores.dropna().sort_values(ascending=False).index[len(scores) // 4])
    rbg.pl.scores(result, save=folder / "scores.png")
    rbg.pl.spatial_expression(held_out, gene, save=folder / "prediction.png")
