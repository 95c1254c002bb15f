from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error

from rankbygene.metrics import mae, mse


@pytest.mark.parametrize(
    ("score", "reference"), [(mse, mean_squared_error), (mae, mean_absolute_error)]
)
def test_errors_equal_those_of_sklearn(score, reference):
    rng = np.random.default_rng(0)
    true, pred = rng.normal(size=(2, 21, 5))
    result = score(true, pred)
    np.testing.assert_allclose(result, reference(true, pred, multioutput="raw_values"))
    np.testing.assert_allclose(result.mean(), reference(true, pred))
    np.testing.assert_allclose(score(true[::-1], pred[::-1]), result)
    # an uneven last group weighs as much as the others only where groups are asked for
    groups = np.repeat([0, 1], [20, 1])
    expected = [reference(true[groups == g], pred[groups == g]) for g in (0, 1)]
    np.testing.assert_allclose(score(true, pred, groups).mean(), np.mean(expected))


@pytest.mark.filterwarnings("error")
def test_missing_values_take_no_part():
    true = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    pred = np.array([[0.0, 1.0], [0.0, 1.0], [9.0, 1.0]])
    np.testing.assert_array_equal(mse(true, pred), [5, np.nan])
    np.testing.assert_array_equal(mae(true, pred, groups=["x", "y", "y"]), [2, np.nan])
