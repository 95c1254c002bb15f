"""What holds for every score of a gene, whatever it measures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbygene import metrics

N_SPOTS, N_GENES = 48, 5
# rows and columns of three slides of 4 x 4 places
INDEX = np.tile(np.column_stack([axis.ravel() for axis in np.indices((4, 4))]), (3, 1))


def on_the_grid(true, pred, groups, index=INDEX, **options):
    return metrics.ssim(true, pred, index, groups, **options)


PER_GENE = [
    metrics.pearson,
    metrics.spearman,
    metrics.concordance,
    metrics.mse,
    metrics.mae,
    metrics.nrmse,
    metrics.r2,
    metrics.variance_ratio,
    metrics.relative_variation_distance,
    metrics.jensen_shannon,
    metrics.auc_expressed,
    on_the_grid,
]
WITH_CONTRAST = [
    score for score in PER_GENE if score.__name__ not in ("mse", "mae", "jensen_shannon")
]


def draw(seed):
    rng = np.random.default_rng(seed)
    true = rng.poisson(1.0, (N_SPOTS, N_GENES)).astype(float)
    pred = np.round(true + rng.normal(size=true.shape), 1)
    for values in (true, pred):
        values[rng.random(true.shape) < 0.1] = np.nan
    slide = np.repeat([2, 0, 1], N_SPOTS // 3)
    return true, pred, slide, np.where(slide == 2, "P", "Q"), rng


def extra(score, rows):
    return {"index": INDEX[rows]} if score is on_the_grid else {}


@pytest.mark.parametrize("score", PER_GENE, ids=lambda score: score.__name__)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9999), average=st.sampled_from(["slides", "patients"]))
def test_neither_the_order_of_spots_nor_of_slides_counts(score, seed, average):
    true, pred, slide, patient, rng = draw(seed)
    result = score(true, pred, slide, patients=patient, average=average)
    assert result.shape == (N_GENES,)
    assert result.dtype == np.float64
    order = rng.permutation(N_SPOTS)
    # other names put the slides into another order as well
    renamed = np.array(["c", "a", "b"])[slide]
    again = score(
        true[order],
        pred[order],
        renamed[order],
        patients=patient[order],
        average=average,
        **extra(score, order),
    )
    np.testing.assert_allclose(again, result, atol=1e-9)


@pytest.mark.parametrize("score", PER_GENE, ids=lambda score: score.__name__)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 9999))
def test_genes_do_not_see_each_other_and_inputs_are_kept(score, seed):
    true, pred, slide, _, _ = draw(seed)
    kept = true.copy(), pred.copy()
    result = score(true, pred, slide)
    np.testing.assert_array_equal(true, kept[0])
    np.testing.assert_array_equal(pred, kept[1])
    for gene in range(N_GENES):
        alone = score(true[:, gene], pred[:, gene], slide)
        np.testing.assert_allclose(alone, result[[gene]], atol=1e-9)
    # a spot that was not measured is as good as no spot
    rows = ~np.isnan(true[:, 0]) & ~np.isnan(pred[:, 0])
    without = score(true[rows, 0], pred[rows, 0], slide[rows], **extra(score, rows))
    np.testing.assert_allclose(without, result[[0]], atol=1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("score", WITH_CONTRAST, ids=lambda score: score.__name__)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 9999), value=st.floats(0, 1e6))
def test_a_constant_gene_has_no_score_and_disturbs_no_other(score, seed, value):
    true, pred, slide, _, _ = draw(seed)
    result = score(true, pred, slide)
    true[:, 1] = value
    again = score(true, pred, slide)
    assert np.isnan(again[1])
    others = [0, 2, 3, 4]
    np.testing.assert_array_equal(again[others], result[others])
    assert np.isnan(score(np.full((N_SPOTS, 1), np.nan), np.zeros((N_SPOTS, 1)), slide)).all()


@pytest.mark.parametrize("score", PER_GENE, ids=lambda score: score.__name__)
def test_a_perfect_prediction_has_the_best_value(score):
    true = np.random.default_rng(0).poisson(2.0, (N_SPOTS, N_GENES)).astype(float)
    slide = np.repeat([0, 1, 2], N_SPOTS // 3)
    best = 0 if score.__name__ in ("mse", "mae", "nrmse", "jensen_shannon") else 1
    best = 0 if score is metrics.relative_variation_distance else best
    np.testing.assert_allclose(score(true, true, slide), best, atol=1e-12)
