from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge

import rankbygene as rbg
from rankbygene.data._row_groups import RowGroups
from rankbygene.nn import color_statistics
from rankbygene.tl._evaluate import score_genes, summarise
from rankbygene.tl._regressors import GroupRidge, MeanRegressor


def test_scores_stand_beside_baselines_on_unseen_slides(model: Any, make_slides: Any) -> None:
    (new,) = make_slides(1, seed=31)
    result = rbg.tl.evaluate(model, new)
    assert list(result.summary.index) == ["rankbygene", "mean", "color", "backbone"]
    predicted = model.get_normalized_expression(new)
    frame = next(iter(model._frames_of(new, counts=True).values()))
    truth, _ = rbg.data.expression_matrix(frame, model.genes, model.normalization)
    expected = [pearsonr(truth[:, i], predicted.iloc[:, i])[0] for i in range(len(model.genes))]
    scores = result.per_gene.query("method == 'rankbygene'").set_index("gene")["pearson"]
    np.testing.assert_allclose(scores[model.genes], expected, atol=1e-6)
    assert result.summary.loc["mean", "n_genes"] == 0
    assert np.isfinite(result.summary[["mse", "mae"]].to_numpy()).all()


def test_training_spots_are_not_scored(model: Any, slides: Any, make_slides: Any) -> None:
    with pytest.raises(ValueError, match="were used in training"):
        rbg.tl.evaluate(model, slides[0])
    with pytest.raises(ValueError, match="'mean', 'color', 'backbone'"):
        rbg.tl.evaluate(model, make_slides(1, seed=31), baselines=["magic"])


def test_color_statistics_against_numpy() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    values = images.numpy().reshape(4, 3, -1) / 255
    expected = np.stack(
        [
            values.mean(2),
            values.std(2, ddof=1),
            *(np.quantile(values, q, axis=2) for q in (0.1, 0.5, 0.9)),
        ],
        axis=2,
    )
    np.testing.assert_allclose(color_statistics(images).numpy(), expected.reshape(4, 15), atol=1e-5)


def test_baselines_against_independent_computation() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    targets = (features @ rng.normal(size=(5, 3)) + 0.1 * rng.normal(size=(60, 3))).astype(
        np.float32
    )
    np.testing.assert_allclose(
        MeanRegressor().fit(features, targets).predict(features)[7], targets.mean(0), rtol=1e-6
    )
    scaled = (features - features.mean(0)) / features.std(0)
    groups = RowGroups.of_labels(np.repeat(["a", "b", "c"], 20), "slide")
    fitted = GroupRidge().fit(features, targets, groups)
    expected = Ridge(fitted.linear_.penalty).fit(scaled, targets).predict(scaled)
    np.testing.assert_allclose(fitted.predict(features), expected, atol=1e-5)


def test_scores_are_within_slides_then_averaged() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1], 200)
    truth = rng.normal(size=(400, 2)) + 10 * groups[:, None]
    slide_mean = np.repeat(truth.reshape(2, 200, 2).mean(1), 200, axis=0)
    noisy = slide_mean + 0.01 * rng.normal(size=truth.shape)
    summary = summarise(score_genes(truth, {"slide mean": noisy}, groups, ["a", "b"]))
    assert abs(summary.loc["slide mean", "pearson"]) < 0.2
