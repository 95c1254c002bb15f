"""Simple predictors that every score should be read against."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch

from rankbygene.errors import InputValueError
from rankbygene.model._random import forked_rng
from rankbygene.nn import build_backbone
from rankbygene.nn._backbone import CUSTOM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.model._base import BaseSpatialModel

BaselineName = Literal["mean", "color", "backbone"]
Extractor: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def color_statistics(images: torch.Tensor) -> torch.Tensor:
    """Mean, spread and percentiles of each colour channel.

    Parameters
    ----------
    images
        uint8 ``[B, 3, px, px]``.

    Returns
    -------
    float32 ``[B, 15]``: mean, standard deviation, 10th, 50th and 90th percentile per channel.
    """
    values = images.flatten(2).float() / 255
    levels = torch.tensor([0.1, 0.5, 0.9], device=images.device)
    percentiles = torch.quantile(values, levels, dim=2).permute(1, 2, 0)
    statistics = [values.mean(2, keepdim=True), values.std(2, keepdim=True), percentiles]
    return torch.cat(statistics, dim=2).flatten(1)


def starting_backbone(model: BaseSpatialModel) -> Extractor:
    """Features of the model's image encoder as it was before training."""
    spec = model.backbone
    if spec.name == CUSTOM:
        msg = (
            "the baseline 'backbone' needs an encoder that can be built again by name, but this model's "
            "is a module of your own; leave 'backbone' out of `baselines`"
        )
        raise InputValueError(msg)
    with forked_rng(model.seed):
        network, again = build_backbone(
            spec.name, pretrained=spec.pretrained, weights=spec.weights, tile_px=model.tile_px
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


class MeanPredictor:
    """The mean of each gene over the training spots, whatever the image."""

    def fit(self, features: NDArray[np.float32], targets: NDArray[np.float32]) -> MeanPredictor:
        """Store the means of ``targets`` ``[n, n_genes]``, which may hold NaN."""
        self.mean = np.nanmean(targets, axis=0)
        return self

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Repeat the means for every row of ``features``."""
        return np.tile(self.mean, (len(features), 1))


class RidgePredictor:
    """Standardised features, 256 principal components, ridge regression.

    The penalty is chosen by generalised cross-validation on the training spots.
    """

    n_components = 256

    def fit(self, features: NDArray[np.float32], targets: NDArray[np.float32]) -> RidgePredictor:
        """Fit on ``features`` ``[n, d]`` and ``targets`` ``[n, n_genes]``, which may hold NaN."""
        from sklearn.decomposition import PCA
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        # A gene that was not measured on a slide adds nothing there: its mean is uninformative.
        filled = np.where(np.isnan(targets), np.nanmean(targets, axis=0), targets)
        components = min(self.n_components, *features.shape)
        self.pipeline = make_pipeline(
            StandardScaler(),
            PCA(components, random_state=0),
            RidgeCV(alphas=np.logspace(-1, 6, 15)),
        )
        self.pipeline.fit(features.astype(np.float64), filled.astype(np.float64))
        return self

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict ``[n, n_genes]``."""
        predicted: NDArray[np.float32] = self.pipeline.predict(features.astype(np.float64))
        return predicted.astype(np.float32)
