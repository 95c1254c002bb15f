from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scipy.spatial.distance import cdist

import rankbygene as rbg
from rankbygene.errors import InputKeyError, InputValueError


def test_colours_are_clusters_of_expression_and_the_title_is_their_v_measure(
    predictions: Any, tmp_path: Path
) -> None:
    groups = np.repeat([0, 1, 2], [30, 12, 7])
    predictions.X[:49] = 10 * np.eye(3)[groups] + 0.01 * predictions.X[:49]
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(98, 4))
    features = {"noise": noise, "expression": np.asarray(predictions.X), "image": "X_image"}
    axes = rbg.pl.embedding_clusters(
        predictions, features, k=3, slide="left", save=tmp_path / "clusters.png"
    )
    assert (tmp_path / "clusters.png").stat().st_size > 5000
    for ax, values in zip(axes, [noise, predictions.X, predictions.obsm["X_image"]], strict=True):
        (points,) = ax.collections
        colors = np.array([to_hex(color) for color in points.get_facecolors()])
        assert len(colors) == 49
        # one colour per group of expression in every panel, whatever the features
        assert [len(set(colors[groups == i])) for i in range(3)] == [1, 1, 1]
        assert len(set(colors)) == 3
        expected = rbg.metrics.v_measure(values[:49], predictions.X[:49], 3, seed=0)
        assert f"V = {expected.v:.2f}" in ax.get_title()
    assert "V = 1.00" in axes[1].get_title()
    (legend,) = axes[0].figure.legends
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries == ["1 (30 spots)", "2 (12 spots)", "3 (7 spots)"]


@pytest.mark.parametrize("method", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_an_embedding_is_the_same_on_every_call(predictions: Any, method: Any) -> None:
    drawn = []
    for _ in range(2):
        (ax,) = rbg.pl.embedding_clusters(
            predictions, "X_image", k=2, slide="left", method=method, seed=3
        )
        drawn.append(np.asarray(ax.collections[0].get_offsets()))
    assert np.isfinite(drawn[0]).all()
    np.testing.assert_array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize(("metric", "n_pairs"), [("cosine", 200), ("euclidean", 1176)])
def test_points_are_distances_of_pairs_and_the_title_is_r2(
    predictions: Any, metric: Any, n_pairs: int
) -> None:
    (ax,) = rbg.pl.distance_agreement(
        predictions, "X_image", slide="right", metric=metric, n_pairs=n_pairs, seed=4
    )
    image = cdist(*2 * [predictions.obsm["X_image"][49:]], metric)
    genes = cdist(*2 * [predictions.X[49:]], metric)
    pairs = np.triu_indices(49, 1)
    known = {(round(x, 8), round(y, 8)) for x, y in zip(genes[pairs], image[pairs], strict=True)}
    offsets = np.asarray(ax.collections[0].get_offsets())
    assert len(offsets) == n_pairs
    assert {(round(x, 8), round(y, 8)) for x, y in offsets.tolist()} <= known
    expected = rbg.metrics.distance_r2(
        predictions.obsm["X_image"][49:], predictions.X[49:], metric=metric, n_pairs=n_pairs, seed=4
    )
    assert ax.get_title() == f"X_image\n$R^2$ = {expected:.3f}, {n_pairs:,} pairs"
    slope = np.polyfit(*offsets.T, 1)[0]
    x, y = ax.lines[0].get_data()
    assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(slope)


def test_many_pairs_are_counted_in_hexagons(predictions: Any) -> None:
    del predictions.obs["slide"]  # then all spots are one slide
    (ax,) = rbg.pl.distance_agreement(predictions, "X_image", n_pairs=3000)
    assert ax.collections[0].get_array().sum() == 3000


def test_what_is_missing_is_named(predictions: Any) -> None:
    for draw in (
        rbg.pl.distance_agreement,
        lambda *a, **k: rbg.pl.embedding_clusters(*a, k=2, **k),
    ):
        with pytest.raises(InputKeyError, match="obsm has no 'X_uni'; it has 'spatial', 'X_image'"):
            draw(predictions, {"UNI": "X_uni"}, slide="left")
        with pytest.raises(InputValueError, match=r"'UNI' have the shape \(5, 2\)"):
            draw(predictions, {"UNI": np.ones((5, 2))}, slide="left")
        with pytest.raises(InputValueError, match="2 slides; pass slide="):
            draw(predictions, "X_image")
        with pytest.raises(InputKeyError, match="layers has no 'log'; it has 'model'"):
            draw(predictions, "X_image", layer="log", slide="left")
        with pytest.raises(InputValueError, match="features is empty"):
            draw(predictions, {}, slide="left")
        one = predictions[predictions.obs["slide"] == "left"].copy()
        for slide in (np.nan, pd.NA):
            with pytest.raises(InputKeyError, match=r"obs\['slide'\] has no"):
                draw(one, "X_image", slide=slide)
    with pytest.raises(InputValueError, match="method is 'pca'"):
        rbg.pl.embedding_clusters(predictions, "X_image", k=2, slide="left", method="pca")  # type: ignore[arg-type]
