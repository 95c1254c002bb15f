"""Labels of rows: none is lost, and none is taken for another row's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rankbygene.errors import InputValueError
from rankbygene.metrics import (
    bootstrap_interval,
    concordance,
    gene_correlation_agreement,
    mae,
    mse,
    nrmse,
    pearson,
    r2,
    recall_at_k,
    spearman,
    variance_ratio,
)

SCORES = [
    pearson,
    spearman,
    concordance,
    mse,
    mae,
    nrmse,
    r2,
    variance_ratio,
    gene_correlation_agreement,
]


def tables() -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(0)
    names = [f"spot {i}" for i in range(30)]
    true = pd.DataFrame(rng.normal(size=(30, 4)) + 5, index=names)
    pred = true + rng.normal(size=(30, 4))
    return true, pred, pd.Series(np.repeat(["a", "b", "c"], 10), index=names)


@pytest.mark.parametrize("score", SCORES)
def test_slides_of_other_rows_are_refused(score) -> None:
    true, pred, slides = tables()
    right = score(true, pred, groups=slides)
    mixed = slides.sample(frac=1, random_state=0)
    with pytest.raises(InputValueError, match="the same in another order"):
        score(true, pred, groups=mixed)
    np.testing.assert_array_equal(score(true, pred, groups=mixed.loc[true.index]), right)
    # Arrays have no names to compare.
    np.testing.assert_array_equal(score(true.to_numpy(), pred.to_numpy(), groups=slides), right)


def test_patients_and_resampled_groups_of_other_rows_are_refused() -> None:
    true, pred, slides = tables()
    mixed = slides.sample(frac=1, random_state=0)
    with pytest.raises(InputValueError, match="another order"):
        pearson(true, pred, slides, patients=mixed)
    with pytest.raises(InputValueError, match="array 1 and groups"):
        bootstrap_interval(np.mean, true[0], groups=mixed, n=10)
    with pytest.raises(InputValueError, match="image and groups"):
        recall_at_k(true, pred.to_numpy(), 2, groups=mixed)


def test_a_missing_label_among_texts_is_no_group_called_nan() -> None:
    true, pred, slides = tables()
    labels = [*slides[:-1], float("nan")]
    with pytest.raises(InputValueError, match="1 missing"):
        pearson(true, pred, groups=labels)
