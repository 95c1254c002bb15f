from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rankbygene.errors import InputValueError
from rankbygene.metrics import gene_correlation_agreement, oracle_top_k_mean, pearson, top_k_mean


def test_only_a_list_from_other_data_judges_noise_as_noise():
    rng = np.random.default_rng(0)
    folds = [pearson(*rng.normal(size=(2, 100, 250))) for _ in range(2)]
    assert oracle_top_k_mean(folds[0], 50) > 0.1
    assert abs(top_k_mean(folds[0], 50, ranking=folds[1])) < 0.04
    with pytest.raises(InputValueError, match="ranking equals scores; rank the genes on other"):
        top_k_mean(folds[0], 50, ranking=folds[0].copy())


def test_missing_scores_are_left_out_before_the_best_are_taken():
    scores = [0.1, np.nan, 0.9, 0.2, np.nan, 0.8, 0.3]
    assert oracle_top_k_mean(scores, 3) == pytest.approx(2 / 3)
    # a listed gene without a score on this slide shortens the list
    assert top_k_mean(scores, 3, ranking=[1, 5, 4, 3, np.nan, 0, 2]) == pytest.approx(0.55)
    assert np.isnan(top_k_mean(scores, 1, ranking=[0, 1, 0, 0, 0, 0, 0]))
    # ties are taken in the order of the genes
    assert top_k_mean([0.1, 0.2, 0.3], 2, ranking=[1, 1, 1]) == pytest.approx(0.15)


def test_impossible_lists_are_refused():
    with pytest.raises(InputValueError, match=r"number of ranked genes \(2\)"):
        oracle_top_k_mean([0.1, 0.2, np.nan], 3)
    with pytest.raises(InputValueError, match="k is 0"):
        top_k_mean([0.1, 0.2], 0, [1, 2])
    with pytest.raises(InputValueError, match="scores are of 2 genes and ranking of 3"):
        top_k_mean([0.1, 0.2], 1, [1, 2, 3])
    named = pd.Series([0.1, 0.2], index=["a", "b"])
    with pytest.raises(InputValueError, match="scores and ranking are tables with different index"):
        top_k_mean(named, 1, named[::-1] + 1)
    with pytest.raises(InputValueError, match=r"scores has the shape \(2, 2\)"):
        oracle_top_k_mean(np.eye(2), 1)


def test_genes_that_go_together():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 10)) + rng.normal(size=(200, 10))
    assert gene_correlation_agreement(true, true) == pytest.approx(1)
    # neither the scale of a gene nor which spot is which matters
    scaled = rng.permutation(true) * np.arange(1, 11) + 1e5
    assert gene_correlation_agreement(true, scaled) == pytest.approx(1)
    unrelated = np.column_stack([rng.permutation(column) for column in true.T])
    assert abs(gene_correlation_agreement(true, unrelated)) < 0.5
    slides = np.repeat([0, 1], 100)
    both = np.mean(
        [gene_correlation_agreement(true[i], scaled[i]) for i in (slides == 0, slides == 1)]
    )
    assert gene_correlation_agreement(true, scaled, groups=slides) == pytest.approx(both)


@pytest.mark.filterwarnings("error")
def test_too_few_pairs_of_genes_have_no_agreement():
    rng = np.random.default_rng(0)
    true, pred = rng.normal(size=(2, 30, 3))
    assert np.isfinite(gene_correlation_agreement(true, pred))
    pred[:, 2] = 0.1
    assert np.isnan(gene_correlation_agreement(true, pred))
    assert np.isnan(gene_correlation_agreement(true[:, :1], pred[:, :1]))
    # constant on the spots that both know
    true[15:, 0], pred[:15, 1] = np.nan, np.nan
    assert np.isnan(gene_correlation_agreement(true, pred))
