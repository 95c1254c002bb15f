from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rankbygene.errors import InputValueError
from rankbygene.metrics import bootstrap_interval, bootstrap_mean, paired_bootstrap


def test_estimate_is_the_mean_over_slides_then_over_genes():
    a = np.array([[0.5, 0.1, np.nan], [0.3, np.nan, np.nan]])
    b = np.array([[0.2, 0.0, 0.4], [0.1, 0.9, 0.4]])
    assert paired_bootstrap(a, b).estimate == pytest.approx((0.25 + 0.1) / 2)
    assert bootstrap_mean(a).estimate == pytest.approx((0.4 + 0.1) / 2)
    reverse = paired_bootstrap(b, a, seed=3)
    forward = paired_bootstrap(a, b, seed=3)
    np.testing.assert_allclose((-reverse.high, -reverse.low), (forward.low, forward.high))
    assert reverse.p_value == forward.p_value


def test_resamples_equal_those_drawn_one_by_one():
    """The distribution of the fast form is that of indices drawn with replacement."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, 12)) + rng.normal(size=(5, 1))
    scores[rng.random(scores.shape) < 0.2] = np.nan
    slow = []
    for _ in range(4000):
        drawn = scores[rng.integers(5, size=5)][:, rng.integers(12, size=12)]
        drawn = drawn[:, ~np.isnan(drawn).all(axis=0)]
        slow.append(np.nanmean(drawn, axis=0).mean())
    result = bootstrap_mean(scores, n_resamples=20_000)
    np.testing.assert_allclose(
        (result.low, result.high), np.quantile(slow, [0.025, 0.975]), atol=0.1
    )


def test_slides_widen_the_interval_that_genes_alone_would_give():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(8, 1)) + rng.normal(scale=0.1, size=(8, 500))
    both = bootstrap_mean(scores)
    genes_only = bootstrap_mean(scores.mean(axis=0, keepdims=True))
    assert both.high - both.low > 50 * (genes_only.high - genes_only.low)
    width = 2 * 1.96 * np.std(scores.mean(axis=1)) / np.sqrt(8)
    assert both.high - both.low == pytest.approx(width, rel=0.1)


def test_one_slide_resamples_the_genes_and_one_gene_the_slides():
    scores = np.random.default_rng(0).normal(size=200)
    expected = stats.bootstrap((scores,), np.mean, method="percentile", rng=0)
    for matrix in (scores[None], scores[:, None]):
        result = bootstrap_mean(matrix)
        np.testing.assert_allclose(
            (result.low, result.high), expected.confidence_interval, atol=0.01
        )


def test_p_value_covers_the_null():
    rng = np.random.default_rng(0)
    p = []
    for seed in range(200):
        # both slides and genes differ in how hard they are, the methods do not
        noise = rng.normal(size=(12, 1)) + rng.normal(size=(1, 30)) + rng.normal(size=(12, 30))
        p.append(bootstrap_mean(noise, n_resamples=300, seed=seed).p_value)
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.12
    same = rng.normal(size=(4, 9))
    assert paired_bootstrap(same, same).p_value == 1
    assert paired_bootstrap(same + 1, same, n_resamples=99).p_value == pytest.approx(0.02)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_empty_slides_and_genes_change_nothing(seed):
    scores = np.random.default_rng(seed).normal(size=(4, 6))
    padded = np.full((6, 9), np.nan)
    padded[1:5, 2:8] = scores
    assert bootstrap_mean(padded, n_resamples=50) == bootstrap_mean(scores, n_resamples=50)


def test_whole_groups_are_drawn():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(20), 50)
    values = rng.normal(size=20)[patient] + rng.normal(scale=0.01, size=1000)
    of_patients = bootstrap_interval(np.mean, values, groups=patient)
    of_rows = bootstrap_interval(np.mean, values)
    ratio = (of_patients.high - of_patients.low) / (of_rows.high - of_rows.low)
    assert ratio == pytest.approx(np.sqrt(50), rel=0.15)
    order = rng.permutation(1000)
    again = bootstrap_interval(np.mean, values[order], groups=patient[order])
    np.testing.assert_allclose(again, of_patients)
    expected = stats.bootstrap((values,), np.mean, method="percentile", rng=0)
    np.testing.assert_allclose(of_rows[1:3], expected.confidence_interval, atol=0.01)


def test_degenerate_input_has_no_interval():
    assert np.isnan(bootstrap_mean(np.full((2, 2), np.nan))).all()
    assert np.isnan(bootstrap_mean([[0.3]])).tolist() == [False, True, True, True]
    with pytest.raises(InputValueError, match="statistic fails on the arrays .TypeError: "):
        bootstrap_interval(lambda values: None, [1.0, 2.0])  # type: ignore[arg-type, return-value]
    one_patient = bootstrap_interval(np.mean, [1.0, 2.0], groups=["a", "a"])
    assert np.isnan(one_patient).tolist() == [False, True, True, True]

    def auc(labels):
        return np.nan if labels.min() == labels.max() else 0.7

    with pytest.warns(UserWarning, match=r"NaN in \d+ of 50 resamples"):
        assert bootstrap_interval(auc, [0, 0, 1], n=50).low == 0.7


def test_what_does_not_fit_is_refused():
    scores = np.zeros((2, 3))
    with pytest.raises(InputValueError, match=r"a has the shape \(2, 3\) and b \(3, 2\)"):
        paired_bootstrap(scores, scores.T)
    with pytest.raises(InputValueError, match="level is 95"):
        bootstrap_mean(scores, level=95)
    with pytest.raises(InputValueError, match="n is 0; a whole number of at least 1"):
        bootstrap_interval(np.mean, scores, n=0)
    with pytest.raises(InputValueError, match=r"the arrays have \[2, 3\] rows"):
        bootstrap_interval(np.mean, scores, scores.T)
    with pytest.raises(InputValueError, match=r"groups has the shape \(3,\)"):
        bootstrap_interval(np.mean, scores, groups=[1, 2, 3])
