from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.metrics import concordance, mse, pearson, pearson_per_spot, spearman

SCORES = [(pearson, stats.pearsonr), (spearman, stats.spearmanr)]


def pair(seed, n=60, n_genes=4):
    rng = np.random.default_rng(seed)
    # rounding makes ties
    true = np.round(rng.normal(size=(n, n_genes)), 1)
    return true, np.round(true + rng.normal(size=(n, n_genes)), 1)


@pytest.mark.parametrize(("score", "reference"), SCORES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), missing=st.floats(0, 0.3))
def test_scores_equal_those_of_scipy_on_the_known_values(score, reference, seed, missing):
    true, pred = pair(seed)
    hidden = np.random.default_rng(seed + 1).random((2, *true.shape)) < missing
    true[hidden[0]], pred[hidden[1]] = np.nan, np.nan
    known = ~hidden.any(axis=0)
    expected = [reference(true[rows, g], pred[rows, g]).statistic for g, rows in enumerate(known.T)]
    result = score(true, pred)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, atol=1e-12)
    order = np.random.default_rng(seed).permutation(len(true))
    np.testing.assert_allclose(score(true[order], pred[order]), result, atol=1e-12)


@pytest.mark.parametrize(("score", "reference"), SCORES)
def test_groups_are_scored_apart_and_averaged(score, reference):
    true, pred = pair(0)
    groups = np.repeat(["b", "a", "c"], [20, 10, 30])
    expected = [
        np.mean([reference(true[groups == g, j], pred[groups == g, j]).statistic for g in "abc"])
        for j in range(4)
    ]
    np.testing.assert_allclose(score(true, pred, groups), expected)
    as_categories = pd.Series(groups).astype("category")
    np.testing.assert_allclose(score(true, pred, as_categories), expected)


def test_telling_slides_apart_is_no_correlation_within_them():
    rng = np.random.default_rng(0)
    slide = np.repeat([0, 1, 2], 400)
    true = (3.0 * slide + rng.normal(size=1200))[:, None]
    pred = (3.0 * slide + rng.normal(size=1200))[:, None]
    assert pearson(true, pred)[0] > 0.8
    assert abs(pearson(true, pred, groups=slide)[0]) < 0.06


@pytest.mark.parametrize("score", [pearson, spearman, mse])
def test_a_patient_with_many_slides_counts_once(score):
    true, pred = pair(0)
    slide = np.repeat(["a", "b", "c"], 20)
    patient = np.repeat([7, 3], [40, 20])
    a, b, c = (score(true[slide == name], pred[slide == name]) for name in "abc")
    by_patient = ((a + b) / 2 + c) / 2
    np.testing.assert_allclose(score(true, pred, slide, patients=patient), by_patient)
    # every step can be asked for by name, and no other is taken
    names = {"patients": by_patient, "slides": (a + b + c) / 3, "pooled": score(true, pred)}
    for name, expected in names.items():
        found = score(true, pred, slide, patients=patient, average=name)
        np.testing.assert_allclose(found, expected)
    # a patient without a score does not count
    true[slide == "c"] = np.nan
    found = score(true, pred, slide, patients=patient)
    np.testing.assert_allclose(found, (a + b) / 2)


def test_averages_need_their_labels():
    true, pred = pair(0)
    slide, patient = np.repeat([0, 1, 2], 20), np.repeat([0, 1], 30)
    with pytest.raises(InputValueError, match="1 slides in groups belong to several patients"):
        pearson(true, pred, slide, patients=patient)
    with pytest.raises(InputValueError, match="patients are given without groups"):
        pearson(true, pred, patients=patient)
    with pytest.raises(
        InputValueError, match="average is 'patients'; with the labels given, allowed"
    ):
        pearson(true, pred, slide, average="patients")
    with pytest.raises(InputValueError, match="average is 'mean'"):
        pearson(true, pred, average="mean")
    with pytest.raises(InputValueError, match="groups holds 20 missing values"):
        pearson(true, pred, np.where(slide == 0, np.nan, slide))


def test_agreement_falls_with_a_shift_or_a_scale():
    true, _ = pair(0)
    np.testing.assert_allclose(concordance(true, true), 1)
    np.testing.assert_allclose(concordance(true, -true + 2 * true.mean(axis=0)), -1)
    variance = true.var(axis=0)
    np.testing.assert_allclose(concordance(true, true + 1), 2 * variance / (2 * variance + 1))
    half = concordance(true - true.mean(axis=0), 0.5 * (true - true.mean(axis=0)))
    np.testing.assert_allclose(half, 0.8)


def test_gene_levels_alone_correlate_within_spots():
    rng = np.random.default_rng(0)
    level = rng.gamma(0.5, 6.0, size=200)
    true = np.log1p(rng.poisson(level, (100, 200)))
    pred = np.tile(np.log1p(level), (100, 1)) + rng.normal(scale=1e-3, size=true.shape)
    assert pearson_per_spot(true, pred).mean() > 0.8
    # genes that no spot expresses have no score
    assert abs(np.nanmean(pearson(true, pred))) < 0.05
    assert np.isnan(pearson_per_spot(np.ones((2, 5)), pred[:2, :5])).all()


@pytest.mark.parametrize("score", [pearson, spearman])
@pytest.mark.filterwarnings("error")
def test_a_constant_gene_has_no_score(score):
    true = np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]])
    pred = np.array([[1.0, 0.3], [2.0, 0.3], [3.0, 0.3]])
    assert np.isnan(score(true, pred)).all()
    assert np.isnan(score(true, true)).tolist() == [True, False]
    # a group in which the gene is constant, or unknown, does not count
    groups = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    y = np.array([1, 2, 3, 5, 5, 5, np.nan, np.nan, 1.0])
    np.testing.assert_allclose(score(y, np.arange(9.0), groups), [1])
    assert np.isnan(score(np.full((4, 1), np.nan), np.zeros((4, 1)), [0, 0, 1, 1])).all()
    assert np.isnan(score([1.0], [2.0])).all()


def test_precision_does_not_suffer_from_a_large_offset():
    true, pred = pair(1)
    np.testing.assert_allclose(pearson(true + 1e6, pred - 1e6), pearson(true, pred), atol=1e-8)


def test_what_does_not_fit_is_refused():
    true, pred = pair(0)
    with pytest.raises(InputValueError, match=r"shape \(60, 4\) and y_pred \(60, 3\)"):
        pearson(true, pred[:, :3])
    with pytest.raises(InputValueError, match=r"groups has the shape \(29,\)"):
        pearson(true, pred, groups=np.zeros(29))
    with pytest.raises(InputValueError, match=r"shape \(2, 2, 2\)"):
        pearson(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))
    with pytest.raises(InputValueError, match=r"shape \(0, 3\)"):
        pearson(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(InputValueError, match="y_pred holds 1 infinite"):
        pearson([1.0, 2.0], [1.0, np.inf])
    with pytest.raises(InputTypeError, match="y_true does not hold numbers"):
        pearson([["a"]], [[1]])
    tables = pd.DataFrame(true, columns=list("abcd")), pd.DataFrame(pred, columns=list("abdc"))
    with pytest.raises(InputValueError, match="tables with different columns"):
        pearson(*tables)
    tables[1].columns = tables[0].columns
    np.testing.assert_allclose(pearson(*tables), pearson(true, pred))
