from __future__ import annotations

import numpy as np
import pytest

from rankbygene.errors import InputValueError
from rankbygene.metrics import v_measure, v_measure_of_labels


@pytest.mark.parametrize(
    ("true", "pred", "expected"),
    [
        ([0, 0, 1, 1], [7, 7, 3, 3], (1, 1, 1)),
        (["a", "a", "b", "b"], [0, 0, 1, 2], (1, 2 / 3, 0.8)),
        ([0, 0, 1, 2], [0, 0, 1, 1], (2 / 3, 1, 0.8)),
        ([0, 0, 1, 1], [0, 0, 0, 0], (0, 1, 0)),
    ],
)
def test_fixed_values(true, pred, expected):
    np.testing.assert_allclose(v_measure_of_labels(true, pred), expected, atol=1e-12)


def test_clusters_of_features_are_held_against_clusters_of_expression():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], 20)
    expression = 10.0 * np.eye(3)[groups] + rng.normal(scale=0.1, size=(60, 3))
    features = rng.normal(scale=0.1, size=(60, 8))
    features[:, :3] -= 10 * np.eye(3)[groups]
    np.testing.assert_allclose(v_measure(features, expression, 3), (1, 1, 1))
    shuffled = rng.permutation(features)
    assert v_measure(shuffled, expression, 3).v < 0.2
    assert v_measure(shuffled, expression, 3, seed=5) == v_measure(shuffled, expression, 3, seed=5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputValueError, match="k is 1; from 2 to the number of spots"):
        v_measure(np.zeros((5, 2)), np.zeros((5, 2)), 1)
    with pytest.raises(InputValueError, match="k is 6"):
        v_measure(np.zeros((5, 2)), np.zeros((5, 2)), 6)
    with pytest.raises(InputValueError, match=r"shapes \(3,\) and \(2,\)"):
        v_measure_of_labels([0, 1, 1], [0, 1])
