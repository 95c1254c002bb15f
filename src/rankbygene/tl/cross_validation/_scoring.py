"""From predictions of all folds to scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from rankbygene.data.counts._counts import layer_names
from rankbygene.metrics import (
    concordance,
    mae,
    mse,
    nrmse,
    pearson,
    r2,
    spearman,
    variance_ratio,
)
from rankbygene.tl.cross_validation._data import expression_of, held_out_frames
from rankbygene.tl.cross_validation._folds import patient_of
from rankbygene.tl.cross_validation._references import ceiling_of, neighbour_prediction
from rankbygene.tl.cross_validation._result import CEILING, CrossValidation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data import SpotFrame
    from rankbygene.tl.cross_validation._folds import Fold
    from rankbygene.tl.cross_validation._store import Outcome
    from rankbygene.tl.cross_validation._study import Study

__all__ = ["METRICS", "REFERENCES", "assemble"]

NEIGHBOURS = "neighbours"
REFERENCES = (NEIGHBOURS, CEILING)
METRICS = {
    "pearson": pearson,
    "spearman": spearman,
    "concordance": concordance,
    "mse": mse,
    "mae": mae,
    "nrmse": nrmse,
    "r2": r2,
    "variance_ratio": variance_ratio,
}


def assemble(
    study: Study,
    outcomes: Mapping[tuple[int, str], Mapping[str, Outcome]],
    *,
    methods: tuple[str, ...],
    baselines: tuple[str, ...],
    references: tuple[str, ...],
    provenance: dict[str, Any],
) -> CrossValidation:
    """Score every outcome on every held-out slide."""
    tables, runs, spots = [], [], []
    first_seed = next(iter(outcomes))[0]
    for (seed, name), found in outcomes.items():
        fold = study.folds[name]
        genes = next(iter(found.values())).genes
        frames = held_out_frames(study.frames, fold)
        truth = {
            slide: expression_of(frame, genes, study.normalization)
            for slide, frame in frames.items()
        }
        predicted = {method: _by_slide(outcome, fold) for method, outcome in found.items()}
        if seed == first_seed:
            if NEIGHBOURS in references:
                tables.append(
                    _score(
                        NEIGHBOURS, 0, fold, study, truth, _neighbours(frames, genes, study), genes
                    )
                )
            if CEILING in references:
                tables.append(_ceiling(fold, study, frames, genes))
            spots.append(_predictions(fold, study, frames, truth, predicted, genes))
        for method, values in predicted.items():
            tables.append(_score(method, seed, fold, study, truth, values, genes))
            runs.append(_run_record(method, seed, fold, found[method]))
    return CrossValidation(
        per_gene=pd.concat(tables, ignore_index=True),
        predictions=_join(spots),
        runs=pd.DataFrame(runs),
        methods=methods,
        baselines=baselines,
        references=references,
        provenance=provenance,
    )


def _by_slide(outcome: Outcome, fold: Fold) -> dict[str, NDArray[np.float32]]:
    ends = np.cumsum([len(rows) for rows in fold.test.values()])[:-1]
    return dict(zip(fold.test, np.split(outcome.predictions, ends), strict=True))


def _neighbours(
    frames: Mapping[str, SpotFrame], genes: list[str], study: Study
) -> dict[str, NDArray[np.float32]]:
    return {
        slide: neighbour_prediction(frame, genes, study.normalization)
        for slide, frame in frames.items()
    }


def _score(
    method: str,
    seed: int,
    fold: Fold,
    study: Study,
    truth: Mapping[str, NDArray[np.float32]],
    predicted: Mapping[str, NDArray[np.float32]],
    genes: list[str],
) -> pd.DataFrame:
    tables = []
    for slide, measured in truth.items():
        scores = {name: metric(measured, predicted[slide]) for name, metric in METRICS.items()}
        tables.append(_table(method, seed, fold, study, slide, genes, scores))
    return pd.concat(tables, ignore_index=True)


def _ceiling(
    fold: Fold, study: Study, frames: Mapping[str, SpotFrame], genes: list[str]
) -> pd.DataFrame:
    return pd.concat(
        [
            _table(
                CEILING, 0, fold, study, slide, genes,
                {"pearson": ceiling_of(frame, genes, study.normalization)},
            )
            for slide, frame in frames.items()
        ],
        ignore_index=True,
    )  # fmt: skip


def _table(
    method: str,
    seed: int,
    fold: Fold,
    study: Study,
    slide: str,
    genes: list[str],
    scores: Mapping[str, NDArray[np.float64]],
) -> pd.DataFrame:
    patient = patient_of(study.frames[slide])
    place = {"method": method, "seed": seed, "fold": fold.name, "slide": slide, "patient": patient}
    return pd.DataFrame({**place, "gene": genes, **scores})


def _run_record(method: str, seed: int, fold: Fold, outcome: Outcome) -> dict[str, Any]:
    return {
        "method": method,
        "seed": seed,
        "fold": fold.name,
        "seconds": outcome.seconds,
        "peak_memory_mb": outcome.peak_memory_mb,
        "n_train": sum(map(len, fold.train.values())),
        "n_test": sum(map(len, fold.test.values())),
        "n_genes": len(outcome.genes),
        "note": outcome.note,
    }


def _predictions(
    fold: Fold,
    study: Study,
    frames: Mapping[str, SpotFrame],
    truth: Mapping[str, NDArray[np.float32]],
    predicted: Mapping[str, Mapping[str, NDArray[np.float32]]],
    genes: list[str],
) -> AnnData:
    obs = pd.concat(
        [
            pd.DataFrame(
                {"slide": slide, "patient": patient_of(study.frames[slide]), "fold": fold.name},
                index=[f"{slide}:{name}" for name in frame.obs_names],
            )
            for slide, frame in frames.items()
        ]
    )
    return AnnData(
        np.concatenate(list(truth.values())),
        obs=obs,
        var=pd.DataFrame(index=genes),
        layers={
            method: np.concatenate(list(values.values())) for method, values in predicted.items()
        },
        obsm={"spatial": np.concatenate([frame.centers_um for frame in frames.values()])},
    )


def _join(parts: list[AnnData]) -> AnnData:
    """Stack folds; a gene outside a fold's panel is NaN there."""
    genes = pd.Index(dict.fromkeys(gene for part in parts for gene in part.var_names))

    def spread(values: NDArray[np.float32], part: AnnData) -> NDArray[np.float32]:
        wide = np.full((part.n_obs, len(genes)), np.nan, np.float32)
        wide[:, genes.get_indexer(part.var_names)] = values
        return wide

    obs = pd.concat([part.obs for part in parts]).astype("category")
    return AnnData(
        np.concatenate([spread(part.X, part) for part in parts]),
        obs=obs,
        var=pd.DataFrame(index=genes),
        layers={
            name: np.concatenate([spread(part.layers[name], part) for part in parts])
            for name in layer_names(parts[0])
        },
        obsm={"spatial": np.concatenate([part.obsm["spatial"] for part in parts])},
    )
