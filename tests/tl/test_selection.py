"""What candidates are chosen by."""

from __future__ import annotations

import numpy as np

from rankbygene.metrics import pearson
from rankbygene.metrics._inputs import as_pair, mean_over_groups
from rankbygene.tl.cross_validation._selection import _informed


def test_a_constant_prediction_counts_and_a_constant_gene_does_not() -> None:
    """To be constant where it is hard must not raise the mean over what is easy."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 3))
    truth[:, 2] = 1.0
    predicted = truth + rng.normal(size=truth.shape)
    coward = predicted.copy()
    coward[:30, 1] = 0.0
    slides, patients = np.repeat([0, 1, 2, 3], 15), np.repeat(["p", "q"], 30)
    honest, found = (
        mean_over_groups(_informed, as_pair(truth, values), slides, patients)
        for values in (predicted, coward)
    )
    np.testing.assert_array_equal(honest, pearson(truth, predicted, slides, patients=patients))
    assert found[0] == honest[0]
    assert np.isnan(found[2])
    of_slide = [pearson(truth[slides == i, 1], predicted[slides == i, 1])[0] for i in (2, 3)]
    assert found[1] == np.mean(of_slide) / 2
