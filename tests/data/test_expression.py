from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from spatialdata import SpatialData

from rankbygene.data import resolve_slides
from rankbygene.data.counts import _matrix
from rankbygene.data.expression._expression import ExpressionBank, Normalization, expression_matrix
from rankbygene.errors import InputKeyError, InputValueError

PLAIN = Normalization(neighbourhood="none")


def frame(counts, genes=None, *, rows=None, layer=None, slide="A", columns=None):
    """Spots of one slide on a square lattice, over a table that may hold more rows."""
    counts = counts if hasattr(counts, "shape") else np.asarray(counts, dtype=np.float32)
    names = [f"g{i}" for i in range(counts.shape[1])] if genes is None else genes
    table = ad.AnnData(
        counts,
        obs=pd.DataFrame(index=[f"s{i}" for i in range(counts.shape[0])]),
        var=pd.DataFrame(index=names),
    )
    return over(table, rows=rows, layer=layer, slide=slide, columns=columns)


def over(table, *, rows=None, layer=None, slide="A", columns=None):
    rows = np.arange(table.n_obs) if rows is None else np.asarray(rows)
    index = np.column_stack(np.divmod(np.arange(len(rows)), columns or max(len(rows), 1)))
    return SimpleNamespace(
        slide=slide,
        table=table,
        setup=SimpleNamespace(table_key="table", layer=layer),
        rows=rows,
        n_obs=len(rows),
        array_index=index,
        centers=200.0 * index,
    )


def test_the_library_is_all_genes_so_that_the_panel_does_not_change_a_value():
    spots = frame([[5, 1], [2, 2]])
    both, _ = expression_matrix(spots, ["g0", "g1"], PLAIN)
    one, measured = expression_matrix(spots, ["g0"], PLAIN)
    np.testing.assert_allclose(both[0, 0], 9.028, atol=5e-4)
    np.testing.assert_array_equal(both[:, :1], one)
    assert measured.tolist() == [True]
    assert both.dtype == np.float32


def test_library_over_the_panel_and_other_bases():
    spots = frame([[5, 5, 90], [0, 0, 3]])
    log10 = Normalization(library="panel", log_base="10", neighbourhood="none")
    values, _ = expression_matrix(spots, ["g0", "g1"], log10)
    np.testing.assert_allclose(values, [[3.69906, 3.69906], [0, 0]], atol=1e-5)
    natural, _ = expression_matrix(
        spots, ["g0"], Normalization(library="panel", neighbourhood="none")
    )
    np.testing.assert_allclose(natural[0, 0], np.log1p(1e4), rtol=1e-6)
    linear = Normalization(log_base="none", target_sum=100, neighbourhood="none")
    np.testing.assert_allclose(expression_matrix(spots, ["g1"], linear)[0], [[5], [0]])


def test_columns_follow_the_panel_and_missing_genes_are_masked():
    values, measured = expression_matrix(frame([[5, 1], [2, 2]]), ["g1", "x", "g0"], PLAIN)
    np.testing.assert_allclose(values[0], np.log1p([1 / 6 * 1e4, 0, 5 / 6 * 1e4]), rtol=1e-6)
    assert measured.tolist() == [True, False, True]


def test_smoothing_is_the_mean_of_logarithms():
    """Eight empty neighbours and one spot with 900: log(901) / 9 = 0.756, not log(101)."""
    counts = np.zeros((9, 2), dtype=np.float32)
    counts[:, 1] = 1000
    counts[4] = [900, 100]
    values, _ = expression_matrix(
        frame(counts, columns=3), ["g0"], Normalization(target_sum=1000, neighbourhood="grid8")
    )
    np.testing.assert_allclose(values[4, 0], np.log(901) / 9, rtol=1e-6)
    np.testing.assert_allclose(values[0, 0], np.log(901) / 4, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), block=st.integers(1, 30), data=st.data())
def test_every_storage_and_row_subset_equals_the_dense_formula(seed, block, data):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.7, (20, 6)).astype(np.float32)
    counts[:, 0] += 1
    rows = sorted(data.draw(st.sets(st.integers(0, 19), min_size=1)))
    panel = ["g4", "missing", "g0", "g2"]
    expected = np.zeros((len(rows), 4))
    scaled = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)[rows]
    expected[:, [0, 2, 3]] = scaled[:, [4, 0, 2]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_matrix, "_ROWS_AT_ONCE", block)
        for store in (np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array):
            values, _ = expression_matrix(frame(store(counts), rows=rows), panel, PLAIN)
            np.testing.assert_allclose(values, expected, rtol=1e-5)
    padded = np.pad(expected, ((1, 1), (0, 0)), constant_values=np.nan)
    windows = np.stack([padded[:-2], padded[1:-1], padded[2:]])
    named = Normalization(neighbourhood="grid8")
    values, _ = expression_matrix(frame(counts, rows=rows), panel, named)
    np.testing.assert_allclose(values, np.nanmean(windows, axis=0), rtol=1e-5)


def test_rows_stay_with_their_spots_through_resolving(build):
    """A shuffled table of two regions: values are found by name, and stay in the table's order."""
    grid = np.array([[x, y] for y in (20, 50, 80) for x in (30, 60, 90, 120)], dtype=float)
    ids = [f"spot{i}" for i in range(len(grid))]
    table = build.table({"b": ids, "a": ids})
    truth = pd.DataFrame(
        np.log1p(table.X.toarray() / table.X.sum(axis=1) * 1e4), table.obs_names, table.var_names
    )
    table = table[np.random.default_rng(0).permutation(table.n_obs)].copy()
    circles = {name: build.circles(grid, ids) for name in ("a", "b")}
    sdata = SpatialData(
        {"he": build.image(build.picture())}, shapes=circles, tables={"table": table}
    )
    frames = resolve_slides(sdata)
    bank = ExpressionBank.build(frames, ["gene3", "gene0"], PLAIN)
    names = np.concatenate([frame.obs_names for frame in frames.values()])
    assert names.tolist() != truth.index.tolist()
    np.testing.assert_allclose(bank.values, truth.loc[names, ["gene3", "gene0"]], rtol=1e-5)
    # spots without array indices are smoothed over the nearest in distance
    smooth, _ = expression_matrix(frames["a"], ["gene0"], Normalization(n_neighbors=2))
    corner = int(np.flatnonzero(frames["a"].instances == "spot0")[0])
    near = truth.loc[[f"a_spot{i}" for i in (0, 1, 4)], "gene0"]
    np.testing.assert_allclose(smooth[corner], near.mean(), rtol=1e-5)


@pytest.mark.parametrize("store", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_a_table_backed_by_a_file_gives_the_same_values(tmp_path, store):
    counts = np.random.default_rng(0).poisson(2, (12, 5)).astype(np.float32) + 1
    spots = frame(store(counts), rows=[1, 4, 5, 10])
    expected, _ = expression_matrix(spots, ["g3", "g1"], PLAIN)
    spots.table.write_h5ad(tmp_path / "table.h5ad")
    backed = ad.read_h5ad(tmp_path / "table.h5ad", backed="r")
    values, _ = expression_matrix(over(backed, rows=[1, 4, 5, 10]), ["g3", "g1"], PLAIN)
    np.testing.assert_array_equal(values, expected)
    backed.file.close()


def test_counts_come_from_the_named_layer_and_stay_as_they_were():
    spots = frame(np.full((3, 2), 0.5, dtype=np.float32), layer="counts")
    spots.table.layers["counts"] = sparse.csr_matrix(np.array([[5, 1], [1, 0], [0, 2]]))
    values, _ = expression_matrix(spots, ["g0"], PLAIN)
    np.testing.assert_allclose(values[0, 0], 9.028, atol=5e-4)
    assert spots.table.layers["counts"].toarray().tolist() == [[5, 1], [1, 0], [0, 2]]
    spots.setup.layer = "raw"
    with pytest.raises(InputKeyError, match=r"no layer 'raw'; the layers are \['counts'\]"):
        expression_matrix(spots, ["g0"], PLAIN)


@pytest.mark.parametrize("base", ["e", "2", "10", "none"])
def test_logarithms_can_be_undone(base):
    normalization = Normalization(log_base=base)
    counts = np.array([[0.0, 1.5, 9999.0]])
    values = normalization.from_counts(counts)
    np.testing.assert_allclose(normalization.to_counts_per_target(values), counts, atol=1e-9)
    assert (normalization.to_counts_per_target(np.array([-0.3])) == 0).all()
    assert Normalization.from_dict(normalization.to_dict()) == normalization


def test_the_bank_stacks_slides_and_knows_what_each_measures():
    frames = {
        "B": frame([[1, 1], [3, 1]], ["a", "b"], slide="B"),
        "A": frame([[4, 4], [2, 6], [8, 0]], ["b", "c"], slide="A"),
    }
    bank = ExpressionBank.build(frames, ["c", "b", "a"], PLAIN)
    assert bank.slides == ("B", "A")
    assert bank.genes == ("c", "b", "a")
    assert bank.slide_of_row.tolist() == [0, 0, 1, 1, 1]
    assert bank.measured.tolist() == [[False, True, True], [True, True, False]]
    np.testing.assert_allclose(bank.values[3], np.log1p([7500, 2500, 0]), rtol=1e-6)


def test_missing_genes_are_reported(caplog):
    frames = {"A": frame([[1, 1]], ["a", "b"]), "B": frame([[1, 1]], ["a", "c"], slide="B")}
    ExpressionBank.build(frames, ["a", "c"], PLAIN)
    assert "slide 'A' lacks 1 of the 2 genes" in caplog.text
    with pytest.raises(InputKeyError, match=r"1 of 3 genes are on no slide \(first: zz\)"):
        ExpressionBank.build(frames, ["a", "c", "zz"], PLAIN)
    with pytest.raises(InputKeyError, match="'B' measures none of the 1 genes"):
        ExpressionBank.build(frames, ["b"], PLAIN)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_impossible_requests_are_refused():
    spots = frame([[1, 2]])
    with pytest.raises(InputValueError, match="panel is empty"):
        expression_matrix(spots, [], PLAIN)
    with pytest.raises(InputValueError, match=r"repeats 1 genes \(first: g0\)"):
        expression_matrix(spots, ["g0", "g0"], PLAIN)
    spots.table.var_names = ["a", "a"]
    with pytest.raises(InputValueError, match="1 gene names are repeated in the table"):
        expression_matrix(spots, ["a"], PLAIN)
    with pytest.raises(InputValueError, match="frames is empty"):
        ExpressionBank.build({}, ["g0"])
    spots.setup.table_key = ""
    with pytest.raises(InputValueError, match="has no table"):
        expression_matrix(spots, ["g0"], PLAIN)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"library": "some"}, "library is 'some'; allowed are 'all', 'panel'"),
        ({"log_base": "3"}, "log_base is '3'"),
        ({"neighbourhood": "star"}, "neighbourhood is 'star'"),
        ({"target_sum": 0}, "target_sum is 0"),
        ({"n_neighbors": 0}, "n_neighbors is 0"),
        ({"size": 1}, r"unknown normalization parameters \['size'\]"),
    ],
)
def test_bad_normalisations_are_refused(values, message):
    with pytest.raises(InputValueError, match=message):
        Normalization.from_dict(values)
