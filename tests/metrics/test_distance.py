from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import linregress

from rankbygene.errors import InputValueError
from rankbygene.metrics import distance_r2, pearson
from rankbygene.metrics._distance import _draw_pairs


def test_r2_of_a_linear_fit():
    assert round(pearson([0, 1, 2, 3], [1, 3, 2, 5])[0] ** 2, 4) == 0.6914


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_all_pairs_equal_a_regression_over_all_distances(metric):
    rng = np.random.default_rng(0)
    genes = rng.normal(size=(12, 6))
    image = genes @ rng.normal(size=(6, 4)) + rng.normal(size=(12, 4))
    fit = linregress(pdist(genes, metric), pdist(image, metric))
    result = distance_r2(image, genes, metric=metric, n_pairs=10_000)
    np.testing.assert_allclose(result, fit.rvalue**2)
    order = rng.permutation(12)
    again = distance_r2(image[order], genes[order], metric=metric, n_pairs=10_000)
    np.testing.assert_allclose(again, result)


@settings(max_examples=40, deadline=None)
@given(n_spots=st.integers(2, 40), n_pairs=st.integers(1, 100), seed=st.integers(0, 99))
def test_pairs_are_of_different_spots_and_not_repeated(n_spots, n_pairs, seed):
    left, right = _draw_pairs(n_spots, n_pairs, seed)
    drawn = set(zip(left.tolist(), right.tolist(), strict=True))
    assert len(drawn) == len(left) == min(n_pairs, n_spots * (n_spots - 1) // 2)
    assert ((left >= 0) & (left < right) & (right < n_spots)).all()


def test_the_draw_follows_the_seed_and_large_slides_are_cheap():
    image, genes = np.random.default_rng(0).normal(size=(2, 20_000, 3))
    assert distance_r2(image, genes, seed=1) == distance_r2(image, genes, seed=1)
    assert distance_r2(image, genes, seed=1) != distance_r2(image, genes, seed=2)
    assert distance_r2(image, 2 * image) == pytest.approx(1)
    assert np.isnan(distance_r2(image, np.zeros((20_000, 2))))


def test_what_does_not_fit_is_refused():
    spots = np.eye(4)
    with pytest.raises(InputValueError, match="metric is 'l1'"):
        distance_r2(spots, spots, metric="l1")
    with pytest.raises(InputValueError, match="there are 2 of 4"):
        distance_r2(spots, spots, n_pairs=2)
