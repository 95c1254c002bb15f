from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from scipy import sparse
from scipy.ndimage import uniform_filter

from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.metrics import moran_agreement
from rankbygene.metrics._moran import morans_i


def test_morans_i_equals_its_definition():
    rng = np.random.default_rng(0)
    values = rng.poisson(1.0, (40, 7)).astype(float)
    values[:, 3] = 0.1
    weights = (rng.random((40, 40)) < 0.2).astype(float)
    np.fill_diagonal(weights, 0)
    centered = values - values.mean(axis=0)
    with np.errstate(invalid="ignore"):
        expected = 40 / weights.sum() * np.einsum("ig,ij,jg->g", centered, weights, centered)
        expected /= (centered**2).sum(axis=0)
    expected[3] = np.nan
    found = morans_i(sparse.csr_array(values), sparse.csr_array(weights))
    np.testing.assert_allclose(found, expected)
    metric = sc.metrics.morans_i(sparse.csr_matrix(weights), values[:, [0, 1, 2]].T)
    np.testing.assert_allclose(found[:3], metric)
    assert np.isnan(morans_i(sparse.csr_array(values), sparse.csr_array((40, 40)))).all()


def test_morans_i_in_blocks_is_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    values = sparse.csr_array(rng.poisson(1.0, (30, 9)).astype(float))
    graph = sparse.csr_array((rng.random((30, 30)) < 0.2).astype(np.float32))
    whole = morans_i(values, graph)
    monkeypatch.setattr("rankbygene.metrics._moran._GENES_AT_ONCE", 4)
    np.testing.assert_allclose(morans_i(values, graph), whole)


def grid_graph(side):
    path = sparse.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(side, side))
    unit = sparse.eye_array(side)
    return sparse.csr_array(sparse.kron(path, unit) + sparse.kron(unit, path))


def test_smoothing_shows_as_a_difference():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(20, 20, 6)) + 1e4
    smooth = uniform_filter(true, size=(3, 3, 1)).reshape(400, 6)
    graph = grid_graph(20)
    result = moran_agreement(true.reshape(400, 6), smooth, graph)
    assert result.difference > 0.5
    np.testing.assert_allclose(np.mean(result.pred - result.true), result.difference)
    order = rng.permutation(400)
    again = moran_agreement(true.reshape(400, 6)[order], smooth[order], graph[order][:, order])
    np.testing.assert_allclose(again.pred, result.pred)
    same = moran_agreement(smooth, 3 * smooth - 1, graph)
    np.testing.assert_allclose(same.pred, same.true)
    assert same.correlation == pytest.approx(1)


def test_slides_are_scored_apart():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(50, 3)) + np.repeat([0, 100], 25)[:, None]
    graph = sparse.block_diag([grid_graph(5), grid_graph(5)], format="csr")
    slide = np.repeat([0, 1], 25)
    result = moran_agreement(true, true, graph, groups=slide)
    parts = [moran_agreement(true[slide == i], true[slide == i], grid_graph(5)) for i in (0, 1)]
    np.testing.assert_allclose(result.true, (parts[0].true + parts[1].true) / 2)
    # pooled, the two slides themselves are a pattern
    assert (moran_agreement(true, true, graph).true > 0.9).all()


def test_constant_and_unknown_genes_have_no_score():
    rng = np.random.default_rng(0)
    true, pred = rng.normal(size=(2, 25, 4))
    true[:, 0], pred[:, 1], true[:, 2] = 0.1, 0.1, np.nan
    result = moran_agreement(true, pred, grid_graph(5))
    assert np.isnan(result.true).tolist() == [True, False, True, False]
    assert np.isnan(result.pred).tolist() == [False, True, True, False]
    assert result.difference == pytest.approx(result.pred[3] - result.true[3])


def test_what_does_not_fit_is_refused():
    values = np.zeros((4, 2))
    with pytest.raises(InputTypeError, match="graph is a ndarray; pass a sparse"):
        moran_agreement(values, values, np.eye(4))
    with pytest.raises(InputValueError, match=r"graph has the shape \(3, 3\); there are 4 spots"):
        moran_agreement(values, values, sparse.eye_array(3))
    with pytest.raises(InputValueError, match="weights that are NaN"):
        moran_agreement(values, values, np.nan * sparse.eye_array(4))
