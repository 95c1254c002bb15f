"""Held-out scores of a trained model, with baselines fitted on the same training spots."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch

from rankbygene._arguments import checked, checked_fields
from rankbygene.base._inference import FULL, AnyPrecision, choose_precision, run_over_tiles
from rankbygene.base._random import forked_rng
from rankbygene.base.spots._seen import USED, slides_seen_as_images, transductive
from rankbygene.data.expression._panel import first_names
from rankbygene.data.splits._row_groups import row_groups
from rankbygene.errors import InputValueError, Problems
from rankbygene.metrics import mae, mse, pearson
from rankbygene.nn import build_backbone, color_statistics
from rankbygene.nn.encoders._backbone import CUSTOM
from rankbygene.tl.cross_validation._data import expression_of
from rankbygene.tl.cross_validation._folds import patient_of
from rankbygene.tl.cross_validation._regressors import GroupRidge, MeanRegressor
from rankbygene.train._statistics import fill_unmeasured

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.base._setup import SpatialDatas
    from rankbygene.base.spots._model import SpotModel
    from rankbygene.data import SpotFrame


BaselineName = Literal["mean", "color", "backbone"]
Extractor: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


@checked_fields
@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of a model and of the baselines beside it.

    Attributes
    ----------
    summary
        One row per method: ``pearson`` (per gene within each slide, mean over slides, mean over
        genes), ``mse`` and ``mae`` on the training scale, ``n_genes`` with a defined Pearson.
    per_gene
        Long table with ``method``, ``gene``, ``pearson``, ``mse``, ``mae``.
    n_spots
        Number of scored spots per slide.
    images_seen
        Slides whose images the encoder was trained on by :func:`rankbygene.model.pretrain`, without
        their counts. Their scores are transductive.
    """

    summary: pd.DataFrame
    per_gene: pd.DataFrame
    n_spots: dict[str, int]
    images_seen: tuple[str, ...] = ()


@checked
def evaluate(
    model: SpotModel,
    sdata: SpatialDatas,
    *,
    baselines: Sequence[BaselineName] = ("mean", "color", "backbone"),
    precision: AnyPrecision = FULL,
    weights: str | Path | None = None,
) -> Evaluation:
    """Score a trained model on slides that it has not seen.

    Slides whose images alone were seen, by an encoder from :func:`rankbygene.model.pretrain`, are scored
    with a warning that names them.

    Parameters
    ----------
    model
        A trained model that still has its training data.
    sdata
        Held-out slides with counts.
    baselines
        ``"mean"``: the training mean of each gene. ``"color"``: ridge on colour statistics of the
        tile. ``"backbone"``: ridge on the image encoder as it was before training. All are fitted
        on every spot that the model trained or validated on; penalties are chosen by leaving out whole
        patients of these, else slides, else blocks of the only slide.
    precision
        Of the networks, as in :meth:`rankbygene.model.RankByGene.annotate`.
    weights
        File of the weights that the encoder started from, for the baseline ``"backbone"`` of a model that
        was loaded: a saved model names the file without its folder.

    Returns
    -------
    Scores per method and per gene.

    Raises
    ------
    InputValueError
        A spot to be scored was used in training, whatever it or its slide is called, in whatever
        order or part; or the model does not have all of its training data.
    """
    model._check_trained()
    precision = choose_precision(precision, model.device)
    seen = model._frames_of(None, counts=True)
    frames = model._frames_of(sdata, counts=True)
    _check_unseen(model, frames)
    _check_own(model)
    images_seen = slides_seen_as_images(model.backbone.images_seen, frames)
    if images_seen:
        warnings.warn(transductive(images_seen), UserWarning, stacklevel=3)
    extractors = _extractors(model, baselines, weights)
    truth = _targets(model, frames)
    _warn_missing(truth, model.genes)
    used = {name: np.flatnonzero(np.isin(model.split.labels[name], USED)) for name in seen}
    targets = np.concatenate([values[used[name]] for name, values in _targets(model, seen).items()])
    train = _features(model, seen, extractors, used, precision)
    test = _features(model, frames, extractors, None, precision)
    groups = row_groups(
        {name: replace(frame, patient=patient_of(frame)) for name, frame in seen.items()},
        used,
        tile_um=max(model.tile_widths),
        normalization=model.normalization,
    )
    predictions = {
        model.method: np.concatenate(
            [model._run(frame, precision=precision)["expression"] for frame in frames.values()]
        )
    }
    for name in baselines:
        if name == "mean":
            predictor: Any = MeanRegressor().fit(train[name], fill_unmeasured(targets))
        else:
            predictor = GroupRidge().fit(train[name], targets, groups)
        predictions[name] = predictor.predict(test[name]).astype(np.float32)
    slides = np.repeat(np.arange(len(frames)), [frame.n_obs for frame in frames.values()])
    per_gene = score_genes(np.concatenate(list(truth.values())), predictions, slides, model.genes)
    return Evaluation(
        summary=summarise(per_gene),
        per_gene=per_gene,
        n_spots={name: frame.n_obs for name, frame in frames.items()},
        images_seen=tuple(images_seen),
    )


def score_genes(
    truth: NDArray[np.float32],
    predictions: Mapping[str, NDArray[np.float32]],
    groups: NDArray[np.intp],
    genes: Sequence[str],
) -> pd.DataFrame:
    """Score each method per gene, within groups and then over them."""
    tables = [
        pd.DataFrame(
            {
                "method": name,
                "gene": list(genes),
                "pearson": pearson(truth, predicted, groups=groups),
                "mse": mse(truth, predicted),
                "mae": mae(truth, predicted),
            }
        )
        for name, predicted in predictions.items()
    ]
    return pd.concat(tables, ignore_index=True)


def summarise(per_gene: pd.DataFrame) -> pd.DataFrame:
    """Mean of each score over genes, one row per method, in the order of the methods."""
    grouped = per_gene.groupby("method", sort=False)
    summary = grouped[["pearson", "mse", "mae"]].mean()
    summary["n_genes"] = grouped["pearson"].count()
    return summary


def _check_unseen(model: SpotModel, frames: Mapping[str, SpotFrame]) -> None:
    problems = Problems()
    for name, frame in frames.items():
        seen = np.isin(model.record.labels_of(frame, model.genes), USED)
        if seen.any():
            msg = (
                f"{seen.sum()} of {frame.n_obs} spots of slide {name!r} were used in training (first: "
                f"{first_names(frame.obs_names[seen])}), so their score would say nothing; pass slides, "
                "or parts of slides, that the model has not seen"
            )
            with problems.collect():
                raise InputValueError(msg)
    problems.raise_if_any()


def _check_own(model: SpotModel) -> None:
    """Refuse baselines that would be fitted on other spots, or on fewer, than the model was."""
    n_held = sum(int(np.isin(labels, USED).sum()) for labels in model.split.labels.values())
    n_used = model.record.n_used
    if not model.is_recorded or n_held < n_used:
        msg = (
            f"baselines are fitted on the {n_used} spots that the model was trained on, of which the data "
            f"attached to it has {n_held if model.is_recorded else 'none'}; load the model with all of its "
            "training slides"
        )
        raise InputValueError(msg)


def _extractors(
    model: SpotModel, baselines: Sequence[BaselineName], weights: str | Path | None
) -> dict[str, Extractor]:
    known: dict[str, Extractor] = {}
    for name in baselines:
        if name == "backbone":
            known[name] = _starting_backbone(model, weights)
        elif name in ("color", "mean"):
            known[name] = color_statistics
        else:
            msg = f"baseline {name!r} is not known; choose from 'mean', 'color', 'backbone'"
            raise InputValueError(msg)
    return known


def _starting_backbone(model: SpotModel, weights: str | Path | None) -> Extractor:
    """Features of the model's image encoder as it was before training."""
    spec = model.backbone
    weights = spec.weights if weights is None else weights
    if weights is not None and not Path(weights).is_file():
        msg = (
            f"the encoder started from a file {Path(weights).name!r}, which is not at {weights}; pass "
            "weights=... with its path, or leave 'backbone' out of `baselines`"
        )
        raise InputValueError(msg)
    if spec.name == CUSTOM:
        msg = (
            "the baseline 'backbone' needs an encoder that can be built again by name, but this model's "
            "is a module of your own; leave 'backbone' out of `baselines`"
        )
        raise InputValueError(msg)
    with forked_rng(model.seed):
        network, again = build_backbone(
            spec.name, pretrained=spec.pretrained, weights=weights, tile_px=model.tile_px
        )
    if again.weights_hash != spec.weights_hash:
        msg = (
            f"the weights that {spec.name!r} started from cannot be had again (the file changed, or "
            "other versions are installed); leave 'backbone' out of `baselines`"
        )
        raise InputValueError(msg)
    network = network.to(model.device).eval()
    normalize = model.module.normalize_images

    def extract(images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = network(normalize(images))
        return features

    return extract


def _features(
    model: SpotModel,
    frames: Mapping[str, SpotFrame],
    extractors: Mapping[str, Extractor],
    rows: Mapping[str, NDArray[np.intp]] | None,
    precision: str,
) -> dict[str, NDArray[np.float32]]:
    """Read every tile once and describe it in each way."""
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in extractors}
    for slide, frame in frames.items():
        chosen = np.arange(frame.n_obs) if rows is None else rows[slide]
        if not len(chosen):
            continue
        values = run_over_tiles(
            lambda images: {name: extract(images) for name, extract in extractors.items()},
            model._stream(frame, chosen),
            len(chosen),
            device=model.device,
            batch_size=64,
            precision=precision,
        )
        for name in extractors:
            parts[name].append(values[name])
    return {name: np.concatenate(values) for name, values in parts.items()}


def _targets(model: SpotModel, frames: Mapping[str, SpotFrame]) -> dict[str, NDArray[np.float32]]:
    """Measured expression on the training scale, NaN for genes that a slide lacks."""
    return {
        name: expression_of(frame, model.genes, model.normalization)
        for name, frame in frames.items()
    }


def _warn_missing(truth: Mapping[str, NDArray[np.float32]], genes: Sequence[str]) -> None:
    for name, values in truth.items():
        missing = [genes[i] for i in np.flatnonzero(np.isnan(values).all(0)).tolist()]
        if missing:
            text = (
                f"slide {name!r} lacks {len(missing)} of the {len(genes)} genes of the panel "
                f"({', '.join(missing[:5])}); they are not scored there"
            )
            warnings.warn(text, UserWarning, stacklevel=3)
