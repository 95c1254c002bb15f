from __future__ import annotations

import numpy as np
import pytest

from rankbygene.errors import InputValueError
from rankbygene.metrics import auprc, auroc, balanced_accuracy, macro_f1


def test_a_small_class_weighs_as_much_as_a_large_one():
    true = ["a"] * 8 + ["b"] * 2
    assert balanced_accuracy(true, ["a"] * 10) == 0.5
    assert macro_f1(true, ["a"] * 10) == pytest.approx(8 / 9 / 2)
    # a class that is only predicted is an error of the others, and has an F1 score of 0
    assert balanced_accuracy(true, ["a"] * 8 + ["c"] * 2) == 0.5
    assert macro_f1(true, ["a"] * 8 + ["c"] * 2) == pytest.approx(1 / 3)


def test_fixed_values():
    true, score = [0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8]
    assert auroc(true, score) == pytest.approx(3.5 / 4)
    assert auroc(["x", "x", "y", "y"], score, classes=["y", "x"]) == pytest.approx(0.5 / 4)
    assert auprc(true, score) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert auprc(true, [1, 1, 1, 1]) == 0.5
    assert auroc([0, 1, 2], np.eye(3)) == 1


@pytest.mark.filterwarnings("error")
def test_one_class_has_no_score():
    assert np.isnan(balanced_accuracy([1, 1], [1, 0]))
    assert np.isnan(macro_f1([1, 1], [1, 0]))
    for score in (auroc, auprc):
        assert np.isnan(score([1, 1], [0.2, 0.3], classes=[0, 1]))
        # a class without slides is left out of the mean
        two = score(["a", "b", "b"], [[0.9, 0, 0], [0, 1, 0], [0, 0.8, 0]], classes=["a", "b", "c"])
        assert two == 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputValueError, match="y_true holds 2, which is not among classes"):
        auroc([0, 1, 2], [0.1, 0.2, 0.3], classes=[0, 1])
    with pytest.raises(InputValueError, match="y_score has 3 columns for 2 classes"):
        auroc([0, 1], np.zeros((2, 3)))
    with pytest.raises(InputValueError, match="one column for 3 classes"):
        auprc([0, 1, 2], [0.1, 0.2, 0.3])
    with pytest.raises(InputValueError, match="2 rows, 1 of them with NaN"):
        auroc([0, 1], [0.1, np.nan])
    with pytest.raises(InputValueError, match="y_true has 2 slides and y_pred 3"):
        macro_f1([0, 1], [0, 1, 1])
    with pytest.raises(InputValueError, match="y_pred holds 1 missing"):
        balanced_accuracy(["a", "b"], ["a", None])
