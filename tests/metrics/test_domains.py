from __future__ import annotations

import numpy as np
import pytest

from rankbygene.errors import InputValueError
from rankbygene.metrics import chaos, pas

LATTICE = np.column_stack([axis.ravel() for axis in np.indices((12, 12))]) * 100.0


@pytest.mark.parametrize("score", [pas, chaos])
def test_scattered_domains_score_worse_than_stripes(score):
    rng = np.random.default_rng(0)
    stripes = (LATTICE[:, 0] // 200).astype(str)
    assert score(stripes, LATTICE) < 0.7 * score(rng.permutation(stripes), LATTICE)
    order = rng.permutation(len(LATTICE))
    for labels in (stripes, rng.permutation(stripes)):
        assert score(labels[order], LATTICE[order]) == pytest.approx(score(labels, LATTICE))
        # rounding of the positions does not decide which neighbours count
        assert score(labels, LATTICE / 3 + 1e4) == pytest.approx(score(labels, LATTICE))


def test_a_spot_among_others_is_abnormal():
    labels = np.zeros(144)
    labels[70] = 1
    assert pas(labels, LATTICE) == pytest.approx(1 / 144)
    assert pas(np.zeros(144), LATTICE) == 0
    # half of the neighbours is not more than half
    assert pas([0, 1, 0, 1], [[0, 0], [1, 0], [2, 0], [3, 0]], n_neighbors=2) == pytest.approx(0.5)


def test_nearest_spots_of_the_same_domain():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [10.0, 0.0]])
    # the pair and the single spot add nothing but count
    assert chaos([0, 0, 0, 1], points) == pytest.approx((1 + 1 + 2) / points[:, 0].std() / 4)
    assert chaos([0, 0, 1, 1], points) == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputValueError, match=r"labels has the shape \(3,\)"):
        chaos([0, 1, 2], LATTICE)
    with pytest.raises(InputValueError, match="labels holds 1 missing"):
        pas([None, "a", "b"], LATTICE[:3])
    with pytest.raises(InputValueError, match="n_neighbors is 10; from 1 to 4"):
        pas(np.zeros(5), LATTICE[:5])
    with pytest.raises(InputValueError, match="positions holds 1 NaN"):
        pas([0, 1], [[0, np.nan], [0, 1]])
