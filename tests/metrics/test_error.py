from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error

from rankbygene.errors import InputValueError
from rankbygene.metrics import mae, mse, nrmse, r2


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


def test_errors_in_units_of_the_gene():
    true, pred = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[1.0, 5.0], [1.0, 6.0]])
    rmse = np.sqrt([2, 0.5])
    sizes = {"range": [2, np.nan], "std": [1, np.nan], "mean": [2, 5], "l2": np.sqrt([10, 50])}
    for normalizer, size in sizes.items():
        np.testing.assert_allclose(nrmse(true, pred, normalizer=normalizer), rmse / size)
    np.testing.assert_allclose(r2(true, pred), [-1, np.nan])
    # the units are those of each slide
    both = np.vstack([true, 10 * true]), np.vstack([pred, 10 * pred])
    np.testing.assert_allclose(nrmse(*both, [0, 0, 1, 1]), nrmse(true, pred))
    assert np.isnan(nrmse([0.0, 0.0], [1.0, 2.0], normalizer="l2")).all()
    with pytest.raises(InputValueError, match="normalizer is 'max'; allowed are 'range', 'std'"):
        nrmse(true, pred, normalizer="max")


def test_the_mean_is_the_yardstick():
    true = np.random.default_rng(0).normal(size=(50, 3))
    mean = np.tile(true.mean(axis=0), (50, 1))
    np.testing.assert_allclose(r2(true, mean), 0, atol=1e-12)
    np.testing.assert_allclose(nrmse(true, mean, normalizer="std"), 1)
    assert (r2(true, 3 * true) < -3).all()
