from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from rankbygene.errors import InputValueError
from rankbygene.metrics import ssim

SHAPE = (14, 11)


def slide(seed=0, n_genes=2):
    rng = np.random.default_rng(seed)
    index = np.column_stack([axis.ravel() for axis in np.indices(SHAPE)])
    true = rng.poisson(3.0, (len(index), n_genes)).astype(float)
    return index, true, true + rng.normal(size=true.shape)


def slow(index, true, pred, sigma, limits):
    """Weigh every pair of spots."""
    total = 0.0
    for centre in index:
        steps = index - centre
        near = (np.abs(steps) <= int(3.5 * sigma + 0.5)).all(axis=1)
        w = np.exp(-(steps[near] ** 2).sum(axis=1) / (2 * sigma**2))
        x, y, w = true[near], pred[near], w / w.sum()
        mx, my = w @ x, w @ y
        c1, c2 = (0.01 * limits) ** 2, (0.03 * limits) ** 2
        cov = w @ ((x - mx) * (y - my))
        var = w @ (x - mx) ** 2 + w @ (y - my) ** 2
        total += (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (var + c2))
    return total / len(index)


@pytest.mark.parametrize("sigma", [0.8, 1.5])
def test_holes_and_borders_take_no_part(sigma):
    index, true, pred = slide()
    kept = np.random.default_rng(1).permutation(len(index))[:90]
    expected = [
        slow(index[kept], true[kept, g], pred[kept, g], sigma, np.ptp(true[kept, g]))
        for g in (0, 1)
    ]
    result = ssim(true[kept], pred[kept], index[kept] + [100, -7], sigma=sigma)
    np.testing.assert_allclose(result, expected)
    # a missing value is a hole of its gene alone
    holes = true.copy()
    gone = np.setdiff1d(np.arange(len(index)), kept)
    holes[gone, 0] = np.nan
    result = ssim(holes, pred, index, sigma=sigma)
    whole = slow(index, true[:, 1], pred[:, 1], sigma, np.ptp(true[:, 1]))
    np.testing.assert_allclose(result, [expected[0], whole])


def test_every_other_place_is_empty_on_a_hexagon():
    index, true, pred = slide()
    even = index.sum(axis=1) % 2 == 0
    result = ssim(true[even], pred[even], index[even], data_range=8.0)
    expected = [slow(index[even], true[even, g], pred[even, g], 1.5, 8.0) for g in (0, 1)]
    np.testing.assert_allclose(result, expected)


def test_a_slide_is_near_the_value_of_an_image_library():
    """The library mirrors the border and leaves it out; the rest is the same."""
    index, true, pred = slide()
    image = true[:, 0].reshape(SHAPE), pred[:, 0].reshape(SHAPE)
    expected = structural_similarity(
        *image, data_range=np.ptp(image[0]), gaussian_weights=True, use_sample_covariance=False
    )
    assert ssim(true, pred, index)[0] == pytest.approx(expected, abs=0.05)


def test_genes_in_blocks_are_the_same(monkeypatch):
    index, true, pred = slide(n_genes=5)
    whole = ssim(true, pred, index)
    monkeypatch.setattr("rankbygene.metrics._ssim._CELLS_AT_ONCE", 2 * np.prod(SHAPE))
    np.testing.assert_array_equal(ssim(true, pred, index), whole)


def test_slides_share_places_only_as_groups():
    index, true, pred = slide()
    np.testing.assert_allclose(ssim(true, true, index), 1)
    assert (ssim(true, pred[::-1], index) < 0.3).all()
    two = np.vstack([true, true]), np.vstack([true, pred]), np.vstack([index, index])
    groups = np.repeat(["a", "b"], len(index))
    expected = (1 + ssim(true, pred, index)) / 2
    np.testing.assert_allclose(ssim(*two, groups), expected)
    with pytest.raises(InputValueError, match="154 spots share their place"):
        ssim(*two)
    with pytest.raises(InputValueError, match="154 spots share their place"):
        ssim(*two, groups, average="pooled")


@pytest.mark.filterwarnings("error")
def test_a_constant_gene_has_no_range():
    index, true, pred = slide()
    true[:, 0] = 0
    assert np.isnan(ssim(true, pred, index)).tolist() == [True, False]
    assert np.isfinite(ssim(true, pred, index, data_range=1.0)).all()
    true[:, 0] = np.nan
    assert np.isnan(ssim(true, pred, index, data_range=1.0)).tolist() == [True, False]


def test_what_does_not_fit_is_refused():
    index, true, pred = slide()
    with pytest.raises(InputValueError, match=r"spans 13001 x 10001 places for 154 spots"):
        ssim(true, pred, index * 1000)
    with pytest.raises(InputValueError, match="not integers"):
        ssim(true, pred, index + 0.5)
    with pytest.raises(InputValueError, match=r"array_index has the shape \(154, 1\)"):
        ssim(true, pred, index[:, :1])
    with pytest.raises(InputValueError, match="sigma is 0"):
        ssim(true, pred, index, sigma=0)
