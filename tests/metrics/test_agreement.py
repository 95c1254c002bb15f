from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rankbygene.errors import InputValueError
from rankbygene.metrics import rank_agreement


def slow(a, b):
    """Count every pair of others around every anchor."""
    shares, correlations = [], []
    for p in range(len(a)):
        others = [q for q in range(len(a)) if q != p]
        pairs = [(q, r) for q in others for r in others if q < r]
        signs = [(np.sign(a[p, q] - a[p, r]), np.sign(b[p, q] - b[p, r])) for q, r in pairs]
        shares.append(np.mean([(1 + x * y) / 2 for x, y in signs]))
        correlations.append(np.corrcoef(a[p, others], b[p, others])[0, 1])
    return np.mean(correlations), np.mean(shares)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(4, 9), seed=st.integers(0, 999))
def test_agreement_equals_a_loop_over_all_triplets(n, seed):
    a, b = np.random.default_rng(seed).integers(0, 6, (2, n, n)).astype(float)
    others = ~np.eye(n, dtype=bool)
    # a row without any order has no correlation
    assume(all(np.ptp(m[others].reshape(n, -1), axis=1).min() > 0 for m in (a, b)))
    result = rank_agreement(a, b, metric="precomputed")
    np.testing.assert_allclose(result, slow(a, b), atol=1e-12)
    np.fill_diagonal(a, 100)
    assert rank_agreement(a, b, metric="precomputed") == result


def test_unrelated_embeddings_score_at_chance():
    """With the anchor itself among the compared spots this would be 0.71 and 0.63."""
    rng = np.random.default_rng(0)
    scores = np.array([rank_agreement(*rng.normal(size=(2, 8, 64))) for _ in range(500)])
    correlation, accuracy = scores.mean(axis=0)
    assert abs(correlation) < 0.03
    assert abs(accuracy - 0.5) < 0.02


def test_order_is_what_counts():
    features = np.random.default_rng(0).normal(size=(20, 5))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.testing.assert_allclose(rank_agreement(features, 3 * features), (1, 1))
    result = rank_agreement(similarity, similarity**3, metric="precomputed")
    assert result.accuracy == 1
    assert result.pearson < 1
    np.testing.assert_allclose(
        rank_agreement(similarity, -similarity, metric="precomputed"), (-1, 0), atol=1e-12
    )
    alike = rank_agreement(similarity, np.ones((20, 20)), metric="precomputed")
    assert alike.accuracy == 0.5
    assert np.isnan(alike.pearson)


def test_what_does_not_fit_is_refused():
    features = np.zeros((5, 3))
    with pytest.raises(InputValueError, match="there are 2 spots"):
        rank_agreement(features[:2], features[:2])
    with pytest.raises(InputValueError, match="first has 5 spots and second 4"):
        rank_agreement(features, features[:4])
    with pytest.raises(InputValueError, match="have to be square"):
        rank_agreement(features, features, metric="precomputed")
    with pytest.raises(InputValueError, match="metric is 'l1'"):
        rank_agreement(features, features, metric="l1")
    with pytest.raises(InputValueError, match="second holds 15 NaN"):
        rank_agreement(features, features * np.nan)
