from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from rankbygene.errors import InputValueError
from rankbygene.metrics import (
    auc_expressed,
    jensen_shannon,
    pearson,
    r2,
    relative_variation_distance,
    variance_ratio,
)


def test_smoothing_is_seen_where_correlation_is_blind():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(500, 3))
    pred = 0.1 * true
    np.testing.assert_allclose(pearson(true, pred), 1)
    np.testing.assert_allclose(variance_ratio(true, pred), 0.01)
    np.testing.assert_allclose(relative_variation_distance(true, pred), 0.99**2)
    assert variance_ratio(true, 0 * pred).tolist() == [0, 0, 0]
    assert relative_variation_distance(true, 0 * pred).tolist() == [1, 1, 1]


def test_the_best_linear_fit_varies_by_its_r2():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 5))
    true = features @ rng.normal(size=(5, 4)) + rng.normal(size=(300, 4)) * [0.1, 1, 3, 9]
    pred = LinearRegression().fit(features, true).predict(features)
    np.testing.assert_allclose(variance_ratio(true, pred), r2(true, pred))


def test_shares_of_expression():
    true = np.array([[2.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    pred = np.array([[7.0, -3.0, 1.0], [7.0, 4.0, 1.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(jensen_shannon(true, pred), [0, 1, np.nan], atol=1e-15)
    # a spot that one of the two lacks has no share
    missing = np.vstack([true, [np.nan, 5.0, 1.0]]), np.vstack([pred, [1.0, np.nan, np.nan]])
    np.testing.assert_allclose(jensen_shannon(*missing), [0, 1, np.nan], atol=1e-15)
    half = jensen_shannon([1.0, 0.0], [0.5, 0.5])[0]
    assert half == pytest.approx(0.5 * np.log2(4 / 3) + 0.25 * np.log2(2 / 3) + 0.25)


def test_equal_distributions_are_not_lost_to_rounding():
    values = np.random.default_rng(0).random((50, 200))
    divergence = jensen_shannon(values, 3 * values)
    assert (divergence >= 0).all()
    assert divergence.max() < 1e-15


@pytest.mark.filterwarnings("error")
def test_genes_without_contrast_have_no_score():
    true, pred = (
        np.array([[0, 0, 1], [0, 1, 1], [0, 2, 1]]),
        np.array([[3, 3, 1], [1, 1, 2], [2, 2, 3]]),
    )
    np.testing.assert_array_equal(auc_expressed(true, pred), [np.nan, 0, np.nan])
    np.testing.assert_array_equal(auc_expressed(true > 0, pred), [np.nan, 0, np.nan])
    assert auc_expressed([0, 1, 1], [5, 5, 5])[0] == 0.5
    for score in (variance_ratio, relative_variation_distance):
        np.testing.assert_array_equal(np.isnan(score(true, pred)), [True, False, True])


def test_what_is_not_expression_is_refused():
    with pytest.raises(InputValueError, match="expressed holds 1 negative"):
        auc_expressed([-1, 1], [0, 1])
    with pytest.raises(
        InputValueError, match="y_true holds 1 negative values; shares of expression"
    ):
        jensen_shannon([-1, 1], [0, 1])
    with pytest.raises(
        InputValueError, match=r"expressed has the shape \(2, 1\) and y_pred \(3, 1\)"
    ):
        auc_expressed([0, 1], [0, 1, 2])
