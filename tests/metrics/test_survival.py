from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbygene.errors import InputValueError
from rankbygene.metrics import (
    bootstrap_interval,
    brier_score,
    concordance_index,
    concordance_index_ipcw,
    integrated_brier_score,
    logrank,
    time_dependent_auc,
)

# one is censored at the very time of another's event; nobody is certain to be uncensored beyond 2
TIME, EVENT = [1, 2, 2, 3, 4], [1, 1, 0, 1, 0]
RISK = [4, 1, 2, 3, 0]


def test_pairs_counted_by_hand():
    # 1 < all four; the event at 2 against the censored one at 2, and 3 and 4; 3 against 4
    assert concordance_index(TIME, EVENT, RISK) == (4 + 1 + 1) / 8
    assert concordance_index(TIME, EVENT, np.zeros(5)) == 0.5
    assert concordance_index(TIME, EVENT, -np.array(RISK)) == 2 / 8
    # two events at one time are not compared
    assert np.isnan(concordance_index([2, 2], [1, 1], [0, 1]))
    assert np.isnan(concordance_index([1, 2], [0, 1], [0, 1]))


def test_weights_worked_out_by_hand():
    # three are still followed after the event at 2, one of them is censored there: G drops to 2/3
    pairs = 4 + 3 + (3 / 2) ** 2
    assert concordance_index_ipcw(TIME, EVENT, RISK) == pytest.approx((4 + 1 + 2.25) / pairs)
    assert concordance_index_ipcw(TIME, EVENT, RISK, tau=3) == pytest.approx(5 / 7)
    auc = time_dependent_auc(TIME, EVENT, [4, 1, 2, 3, 2], [0.5, 2, 3, 4])
    np.testing.assert_allclose(auc, [np.nan, (2 + 0) / 4, (1 + 0 + 1.5) / 3.5, np.nan])
    survival = np.array([[0.0], [0.2], [0.3], [0.5], [0.9]])
    by_hand = (0 + 0.2**2 + 1.5 * 0.5**2 + 1.5 * 0.1**2) / 5
    np.testing.assert_allclose(brier_score(TIME, EVENT, survival, [3]), [by_hand])


def test_the_test_that_textbooks_work_out():
    """Remission of leukaemia under 6-MP and placebo, Freireich et al. 1963: 16.79."""
    treated = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    seen = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    placebo = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
    result = logrank(treated + placebo, seen + [1] * 21, ["6-MP"] * 21 + ["placebo"] * 21)
    assert result.statistic == pytest.approx(16.79, abs=0.005)
    assert result.p_value == pytest.approx(4.17e-5, abs=1e-7)


def draw(seed, n=40):
    rng = np.random.default_rng(seed)
    return rng.integers(1, 12, n), rng.random(n) < 0.6, rng.integers(0, 6, n), rng


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999))
def test_weights_stand_for_everybody(seed):
    """They sum to the number of patients at every time, whatever the ties."""
    time, event, _, _ = draw(seed)
    times = np.arange(0, time.max())
    np.testing.assert_allclose(
        brier_score(time, event, np.full((40, len(times)), 0.5), times), 0.25
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999))
def test_neither_order_nor_scale_matters(seed):
    time, event, risk, rng = draw(seed)
    order, times = rng.permutation(40), np.array([3, 6])
    group = rng.integers(0, 3, 40)
    survival = rng.random((40, 2))
    for score in (
        lambda i: concordance_index(time[i], event[i], np.exp(risk[i])),
        lambda i: concordance_index_ipcw(7 * time[i], event[i], risk[i], tau=60),
        lambda i: time_dependent_auc(time[i], event[i], risk[i], times),
        lambda i: integrated_brier_score(time[i], event[i], survival[i], times),
        lambda i: logrank(time[i], event[i], group[i]),
    ):
        np.testing.assert_allclose(score(order), score(np.arange(40)), atol=1e-10)
    without_censoring = np.ones(40)
    plain = concordance_index(time, without_censoring, risk)
    assert concordance_index_ipcw(time, without_censoring, risk) == pytest.approx(plain)


def test_censoring_does_not_move_the_weighted_scores():
    rng = np.random.default_rng(0)
    n = 6000
    risk = rng.normal(size=n)
    death = rng.exponential(np.exp(-risk))
    censored = rng.exponential(1.0, n)
    time, event = np.minimum(death, censored), death <= censored
    tau, everybody = 1.0, np.ones(n)
    true = concordance_index_ipcw(death, everybody, risk, tau=tau)
    assert concordance_index_ipcw(time, event, risk, tau=tau) == pytest.approx(true, abs=0.01)
    true_auc = time_dependent_auc(death, everybody, risk, [0.3, 1.0])
    np.testing.assert_allclose(
        time_dependent_auc(time, event, risk, [0.3, 1.0]), true_auc, atol=0.015
    )
    times = np.array([0.2, 0.5, 1.0])
    survival = np.exp(-np.outer(np.exp(risk), times))
    true_brier = brier_score(death, everybody, survival, times)
    np.testing.assert_allclose(brier_score(time, event, survival, times), true_brier, atol=0.01)
    # the training data may be others
    half = slice(n // 2), slice(n // 2, None)
    other = {"train_time": time[half[1]], "train_event": event[half[1]], "tau": tau}
    found = concordance_index_ipcw(time[half[0]], event[half[0]], risk[half[0]], **other)
    assert found == pytest.approx(true, abs=0.02)


def test_risks_may_change_with_time():
    time, event, risk, _ = draw(0)
    both = time_dependent_auc(time, event, np.column_stack([risk, -risk]), [4, 6])
    alone = time_dependent_auc(time, event, risk, [4, 6])
    np.testing.assert_allclose(both, [alone[0], 1 - alone[1]])


@pytest.mark.filterwarnings("error")
def test_nothing_to_compare_has_no_score():
    assert np.isnan(logrank(TIME, EVENT, ["a"] * 5)).all()
    assert np.isnan(logrank(TIME, np.zeros(5), [0, 1, 0, 1, 0])).all()
    assert np.isnan(concordance_index(TIME, np.zeros(5), RISK))
    assert np.isnan(concordance_index_ipcw(TIME, EVENT, RISK, tau=0.5))


def test_a_group_may_have_left_before_the_first_event():
    with_early = logrank([*TIME, 0.5], [*EVENT, 0], [0, 1, 0, 1, 0, 2])
    assert with_early == pytest.approx(logrank(TIME, EVENT, [0, 1, 0, 1, 0]))


def test_intervals_come_from_whole_patients():
    time, event, risk, _ = draw(0)
    interval = bootstrap_interval(concordance_index, time, event, risk, n=200)
    assert interval.low < interval.estimate < interval.high


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        InputValueError, match=r"2 times lie where nobody was followed any more \(last"
    ):
        brier_score(
            [1, 2, 9, 9], [1, 0, 1, 1], np.ones((4, 1)), [9], train_time=[1, 2], train_event=[1, 0]
        )
    with pytest.raises(InputValueError, match=r"event holds \[2.0\]"):
        concordance_index([1, 2], [2, 2], [0, 0])
    with pytest.raises(InputValueError, match="time holds 1 negative"):
        concordance_index([-1, 2], [1, 1], [0, 0])
    with pytest.raises(InputValueError, match="train_time and train_event belong together"):
        concordance_index_ipcw(TIME, EVENT, RISK, train_time=TIME)
    with pytest.raises(InputValueError, match="risk holds 1 NaN"):
        concordance_index([1, 2], [1, 1], [0, np.nan])
    with pytest.raises(
        InputValueError, match=r"survival has the shape \(5, 1\); \(5, 2\) is needed"
    ):
        brier_score(TIME, EVENT, np.ones((5, 1)), [1, 2])
    with pytest.raises(InputValueError, match="survival holds values from 0.0 to 2.0"):
        brier_score(TIME, EVENT, [[0], [0], [0], [0], [2]], [1])
    with pytest.raises(InputValueError, match="two or more that increase"):
        integrated_brier_score(TIME, EVENT, np.ones((5, 2)), [2, 1])
