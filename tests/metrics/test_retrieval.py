from __future__ import annotations

import numpy as np
import pytest

from rankbygene.errors import InputValueError
from rankbygene.metrics import recall_at_k


def test_a_collapsed_encoder_scores_chance():
    rng = np.random.default_rng(0)
    gene = rng.normal(size=(50, 6))
    result = recall_at_k(np.ones((50, 6)), gene, 5)
    # every image finds the same five, one image in ten finds its own among equals
    assert result == pytest.approx((0.1, 0.1))
    assert recall_at_k(np.zeros((50, 6)), gene, 5) == pytest.approx((0.1, 0.1))
    assert recall_at_k(gene, 3 * gene, 1) == (1, 1)
    assert recall_at_k(gene, -gene, 49) == (0, 0)
    assert recall_at_k(gene, -gene, 50) == (1, 1)


def test_directions_differ():
    image = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    gene = np.array([[1.0, 0.01], [0.0, 1.0], [0.1, 1.0]])
    # images 0 and 1 both find expression 0, image 2 finds expression 1; the reverse misses only 1
    assert recall_at_k(image, gene, 1).image_to_gene == pytest.approx(1 / 3)
    assert recall_at_k(image, gene, 1).gene_to_image == pytest.approx(2 / 3)


def test_blocks_and_order_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    image = np.round(rng.normal(size=(60, 3)))
    gene = np.round(image + rng.normal(size=(60, 3)))
    whole = recall_at_k(image, gene, 4)
    monkeypatch.setattr("rankbygene.metrics._retrieval._SIMILARITIES_AT_ONCE", 60 * 7)
    assert recall_at_k(image, gene, 4) == pytest.approx(whole)
    order = rng.permutation(60)
    assert recall_at_k(image[order], gene[order], 4) == pytest.approx(whole)


def test_knowing_the_slide_is_no_retrieval_within_it():
    rng = np.random.default_rng(0)
    slide = np.repeat(np.arange(10), 30)
    image, gene = 9 * np.eye(10)[slide] + rng.normal(size=(2, 300, 10))
    assert recall_at_k(image, gene, 5).image_to_gene > 0.12
    within = recall_at_k(image, gene, 5, groups=slide)
    assert within == pytest.approx((5 / 30, 5 / 30), abs=0.05)
    # ten times fewer candidates, ten times the chance
    assert recall_at_k(*rng.normal(size=(2, 300, 10)), 5).image_to_gene < 0.04


def test_what_does_not_fit_is_refused():
    features = np.eye(4)
    with pytest.raises(InputValueError, match=r"image has the shape \(4, 4\) and gene \(4, 3\)"):
        recall_at_k(features, features[:, :3])
    with pytest.raises(InputValueError, match=r"k is 3; from 1 to the number of spots \(2\)"):
        recall_at_k(features, features, 3, groups=[0, 0, 1, 1])
