"""Methods that can be judged: models of this package, regressions on features, the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch

from rankbygene._arguments import check_settings, checked, checked_fields
from rankbygene._checks import check_regressor, keywords_of
from rankbygene.base._runner import check_train_kwargs
from rankbygene.base.spots._model import SpotModel
from rankbygene.errors import InputTypeError, InputValueError, RankByGeneError
from rankbygene.methods._registry import class_of, names
from rankbygene.tl.cross_validation._ensemble import EnsembleMethod
from rankbygene.tl.cross_validation._protocol import Method, Predictor
from rankbygene.tl.cross_validation._regressors import GroupRidge, HestRidge, MeanRegressor, mlp
from rankbygene.tl.cross_validation._selection import NestedSelection
from rankbygene.train._statistics import fill_unmeasured

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rankbygene.base.spots._model import SpotModel
    from rankbygene.tl.cross_validation._data import (
        FeatureKind,
        ImageSettings,
        TestData,
        TrainingData,
    )

__all__ = [
    "BASELINES",
    "FeatureMethod",
    "MethodLike",
    "ModelMethod",
    "as_method",
    "baseline",
    "check_shared",
    "encoders_of",
]

# What a fold gives to the models.
_OWNED = ("sdata", "genes")

BASELINES = (
    "mean", "ridge", "backbone_ridge", "hest_ridge", "mlp", "supervised", "retrieval"
)  # fmt: skip

MethodLike: TypeAlias = "str | Method | Any"


@checked_fields
@dataclass(frozen=True)
class ModelMethod:
    """A model of this package with settings of its own.

    Parameters
    ----------
    method
        Name of the model, as for :func:`rankbygene.model.fit`.
    model_kwargs, train_kwargs
        Arguments of the model's class and of its ``train``, over those of the cross-validation.
    predict
        ``"expression"``: the model's own prediction. ``"retrieval"``: the mean expression of the
        ``n_neighbors`` training spots whose gene representation is nearest to the image's
        projection in the joint space :cite:p:`xie2023bleep`.
    n_neighbors
        Spots to average over for ``"retrieval"``.

    Examples
    --------
    >>> ModelMethod("rankbygene", train_kwargs={"plan_kwargs": {"weights": {"ranking": 0.0}}})
    ModelMethod(method='rankbygene', ...)
    """

    method: str = "rankbygene"
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    train_kwargs: Mapping[str, Any] = field(default_factory=dict)
    predict: Literal["expression", "retrieval"] = "expression"
    n_neighbors: int = 50

    def __post_init__(self) -> None:
        cls = class_of(self.method)
        settings = check_settings(cls, self.model_kwargs, "model_kwargs", owned=_OWNED)
        object.__setattr__(self, "model_kwargs", settings)
        object.__setattr__(self, "train_kwargs", check_train_kwargs(cls, self.train_kwargs))

    def __call__(self, train: TrainingData) -> Predictor:
        """Train the model."""
        model = self._fit(train)
        if self.predict == "retrieval":
            return _Retrieval(model, train, self.n_neighbors)
        return lambda test: _stack(model.get_normalized_expression(test.slides))

    def widest_tile(self, image: ImageSettings) -> float:
        """How wide the widest tile at a spot is, in micrometres."""
        own = self.model_kwargs.get("tile_um")
        width = float(image.tile_um if own is None else own)
        return max(class_of(self.method).widths_of(width, self.model_kwargs))

    @checked
    def over(self, model_kwargs: Mapping[str, Any], train_kwargs: Mapping[str, Any]) -> ModelMethod:
        """Fill in settings that this one leaves open."""
        shared = ModelMethod(self.method, model_kwargs, train_kwargs)  # by the names of today
        return replace(
            self,
            model_kwargs={**shared.model_kwargs, **self.model_kwargs},
            train_kwargs=_merge(shared.train_kwargs, self.train_kwargs),
        )

    def _fit(self, train: TrainingData) -> SpotModel:
        image = train.image
        settings: dict[str, Any] = {
            "backbone": image.backbone,
            "pretrained": image.pretrained,
            "weights": image.weights,
            "tile_um": image.tile_um,
            "tile_px": image.tile_px,
            "genes": train.genes,
            "normalization": train.normalization,
            "seed": train.seed,
            **self.model_kwargs,
        }
        model = class_of(self.method)(train.slides, **settings)
        model.train(**{"enable_progress_bar": False, **self.train_kwargs})
        model.release()
        return model


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Join settings; nested ones, such as ``plan_kwargs`` and its ``weights``, entry by entry."""
    merged = {**base, **over}
    for name in set(base) & set(over):
        if isinstance(base[name], Mapping) and isinstance(over[name], Mapping):
            merged[name] = _merge(base[name], over[name])
    return merged


def _stack(results: Any) -> NDArray[np.float32]:
    """Join the results of one slide, or of a dict of slides, row by row."""
    parts = results.values() if isinstance(results, Mapping) else [results]
    return np.concatenate([np.asarray(part, np.float32) for part in parts])


class _Retrieval:
    """Nearest training spots in the space that images and genes share."""

    def __init__(self, model: SpotModel, train: TrainingData, n_neighbors: int) -> None:
        if not hasattr(model.module, "project"):
            msg = f"{model.method!r} has no joint space to retrieve from; use predict='expression'"
            raise InputValueError(msg)
        self.model = model
        self.expression = torch.from_numpy(train.expression())
        genes = _stack(model.get_latent_representation(train.slides, modality="gene"))
        self.keys = torch.nn.functional.normalize(torch.from_numpy(genes), dim=1)
        self.n_neighbors = min(n_neighbors, len(self.keys))

    def __call__(self, test: TestData) -> NDArray[np.float32]:
        features = torch.from_numpy(_stack(self.model.get_latent_representation(test.slides)))
        with torch.inference_mode():
            queries = self.model.module.project(features.to(self.model.device)).float().cpu()
            queries = torch.nn.functional.normalize(queries, dim=1)
            parts = [self._mean_of_nearest(block) for block in torch.split(queries, 256)]
        return torch.cat(parts).numpy()

    def _mean_of_nearest(self, queries: torch.Tensor) -> torch.Tensor:
        nearest = (queries @ self.keys.T).topk(self.n_neighbors, dim=1).indices
        means = self.expression[nearest].nanmean(dim=1)
        return torch.where(means.isnan(), self.expression.nanmean(dim=0), means)


@checked_fields(estimator=check_regressor)
@dataclass(frozen=True)
class FeatureMethod:
    """A scikit-learn regressor on descriptions of the tile.

    Parameters
    ----------
    estimator
        Regressor for several targets; cloned for every fold. Genes that a slide lacks enter as
        their mean.
    features
        ``"backbone"``: the encoder as it is before training. ``"color_texture"``: colour and
        texture statistics.
    """

    estimator: Any
    features: FeatureKind = "backbone"

    def __call__(self, train: TrainingData) -> Predictor:
        """Fit a copy of the regressor."""
        from sklearn.base import clone

        model = clone(self.estimator)
        features, expression = train.features(self.features), train.expression()
        if isinstance(model, GroupRidge):
            model.fit(features, expression, train.row_groups)
        else:
            model.fit(features.astype(np.float64), fill_unmeasured(expression))
        return _Fitted(model, self.features)


class _Fitted:
    """A fitted regressor, applied to descriptions of other tiles."""

    def __init__(self, model: Any, features: FeatureKind) -> None:
        self.model = model
        self.features = features
        self.note = str(getattr(model, "note", ""))

    def __call__(self, test: TestData) -> NDArray[np.floating]:
        predicted: NDArray[np.floating] = self.model.predict(
            test.features(self.features).astype(np.float64)
        )
        return predicted


def baseline(name: str, model_kwargs: Mapping[str, Any], train_kwargs: Mapping[str, Any]) -> Method:
    """Build one of the baselines by name.

    Parameters
    ----------
    name
        See :func:`rankbygene.tl.cross_validate`.
    model_kwargs, train_kwargs
        Settings that the trained baselines share with the method beside them; of ``plan_kwargs``
        they keep all but the losses.

    Raises
    ------
    InputValueError
        There is no such baseline.
    """
    simple: dict[str, Method] = {
        "mean": FeatureMethod(MeanRegressor(), "color_texture"),
        "ridge": FeatureMethod(GroupRidge(), "color_texture"),
        "backbone_ridge": FeatureMethod(GroupRidge(), "backbone"),
        "hest_ridge": FeatureMethod(HestRidge()),
        "mlp": lambda train: FeatureMethod(mlp(train.seed))(train),
    }
    if name in simple:
        return simple[name]
    trained = {"supervised": "stnet", "retrieval": "bleep"}
    if name in trained:
        return _trained_baseline(trained[name], model_kwargs, train_kwargs)
    msg = f"baseline {name!r} is not known; choose from {', '.join(map(repr, BASELINES))}"
    raise InputValueError(msg)


def _trained_baseline(
    method: str, model_kwargs: Mapping[str, Any], train_kwargs: Mapping[str, Any]
) -> ModelMethod:
    """Train another method under the shared settings, which may have the losses of the method beside it."""
    plan = dict(train_kwargs.get("plan_kwargs", {}))
    rates = {key: plan[key] for key in ("lr", "weight_decay", "warmup") if key in plan}
    common = keywords_of(SpotModel.train)
    others = {key for name in names() for key in keywords_of(class_of(name).train)} - {*common}
    shared = {key: value for key, value in train_kwargs.items() if key not in others}
    held_out = {"validation_size", "split_by", "validation_slides"}
    kept = {key: value for key, value in model_kwargs.items() if key in held_out}
    return ModelMethod(method).over(kept, {**shared, "plan_kwargs": rates})


def encoders_of(
    method: Method, image: ImageSettings
) -> Iterator[tuple[str | torch.nn.Module, str | Path | None]]:
    """Give the image encoders that a method may start from, with the files of their weights."""
    if isinstance(method, ModelMethod):
        own = method.model_kwargs
        yield own.get("backbone", image.backbone), own.get("weights", image.weights)
        return
    inner = (
        method.candidates
        if isinstance(method, NestedSelection)
        else method.members
        if isinstance(method, EnsembleMethod)
        else {}
    )
    for part in inner.values():
        yield from encoders_of(part, image)
    if not inner:
        yield image.backbone, image.weights


def check_shared(
    model_kwargs: Mapping[str, Any], train_kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check settings that trained methods share, also where none of the methods is trained.

    Returns
    -------
    Both, as plain values by the names of today.

    Raises
    ------
    InputTypeError, InputValueError
        No model takes them.
    """
    refused: list[RankByGeneError] = []
    for cls in map(class_of, names()):
        try:
            plain = check_settings(cls, model_kwargs, "model_kwargs", owned=_OWNED)
            return plain, check_train_kwargs(cls, train_kwargs)
        except RankByGeneError as error:
            refused.append(error)
    raise refused[0]


def as_method(
    method: MethodLike, model_kwargs: Mapping[str, Any], train_kwargs: Mapping[str, Any]
) -> Method:
    """Turn what a user may pass as a method into one.

    Raises
    ------
    InputTypeError
        It is neither a name, nor a method, a regressor or a function.
    InputValueError
        There is no model or baseline of that name.
    """

    def filled(parts: Mapping[str, Any]) -> dict[str, Method]:
        return {name: as_method(part, model_kwargs, train_kwargs) for name, part in parts.items()}

    if isinstance(method, ModelMethod):
        return method.over(model_kwargs, train_kwargs)
    if isinstance(method, NestedSelection):
        return replace(method, candidates=filled(method.candidates))
    if isinstance(method, EnsembleMethod):
        return replace(method, members=filled(method.members))
    if isinstance(method, str) and method in BASELINES:
        return baseline(method, model_kwargs, train_kwargs)
    if isinstance(method, str):
        return ModelMethod(method, model_kwargs, train_kwargs)
    if hasattr(method, "fit") and hasattr(method, "predict"):
        return FeatureMethod(method)
    if callable(method):
        made: Method = method
        return made
    msg = (
        f"a method is the name of a model or baseline, a ModelMethod, a scikit-learn regressor or a "
        f"function of TrainingData; found {type(method).__name__}"
    )
    raise InputTypeError(msg)
