from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

from rankbygene.errors import InputKeyError, InputTypeError, InputValueError
from rankbygene.pp import check_panel, choose_panel, select_genes
from rankbygene.pp._frames import table_frames

SIDE = 12


def slide(counts, genes, *, store=sparse.csr_matrix, seed=0):
    """Spots on a square lattice of 12 columns; table rows in another order than the shapes."""
    index = np.column_stack(np.divmod(np.arange(len(counts)), SIDE))
    order = np.random.default_rng(seed).permutation(len(counts))
    circles = ShapesModel.parse(index[:, ::-1] * 200.0, geometry=0, radius=50.0)
    obs = pd.DataFrame(
        {
            "region": pd.Categorical(["spots"] * len(counts)),
            "spot": order,
            "array_row": index[order, 0],
            "array_col": index[order, 1],
        },
        index=[f"s{i}" for i in order],
    )
    values = store(np.asarray(counts, dtype=np.float32)[order])
    table = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=genes))
    table = TableModel.parse(table, region="spots", region_key="region", instance_key="spot")
    return SpatialData(shapes={"spots": circles}, tables={"table": table})


@pytest.fixture(scope="module")
def counts():
    """Genes with a purpose: spatial, patchy, strong, silent, and ten of plain noise."""
    rng = np.random.default_rng(0)
    n = SIDE * SIDE
    row = np.arange(n) // SIDE
    genes = {f"noise{i}": rng.poisson(4, n) for i in range(10)}
    genes["spatial"] = rng.poisson(np.where(row < SIDE / 2, 1, 9))
    genes["bursting"] = 60 * (rng.random(n) < 0.08)
    genes["strong"] = rng.poisson(300, n)
    genes["silent"] = np.zeros(n, dtype=int)
    return pd.DataFrame(genes)


@pytest.mark.parametrize(
    ("method", "best"),
    [
        ("most_expressed", "strong"),
        ("highly_variable", "bursting"),
        ("spatially_variable", "spatial"),
    ],
)
@pytest.mark.parametrize("store", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_each_method_finds_its_gene(counts, method, best, store):
    sdata = slide(counts, counts.columns, store=store)
    before = sdata["table"].copy()
    panel = select_genes(sdata, 3, method=method)
    assert panel[0] == best
    assert len(panel) == 3
    everything = select_genes(sdata, 250, method=method)
    assert "silent" not in everything
    assert len(everything) == 13
    # neither the order of genes nor that of spots matters
    flipped = counts.iloc[:, ::-1]
    assert select_genes(slide(flipped, flipped.columns, seed=1), 250, method=method) == everything
    after = sdata["table"]
    assert list(after.uns) == list(before.uns)
    assert list(after.var) == list(before.var)
    np.testing.assert_array_equal(np.asarray(after.X[:, 0].sum()), np.asarray(before.X[:, 0].sum()))


def test_variable_genes_are_those_of_scanpy():
    rng = np.random.default_rng(1)
    counts = rng.negative_binomial(rng.uniform(0.3, 3, 80), 0.2, size=(144, 80)) + 1
    genes = [f"g{i:02}" for i in range(80)]
    table = ad.AnnData(counts.astype(np.float32), var=pd.DataFrame(index=genes))
    sc.pp.normalize_total(table, target_sum=1e4)
    sc.pp.log1p(table)
    sc.pp.highly_variable_genes(table, flavor="seurat", n_top_genes=20)
    # genes alone in a bin of expression share one score, so that names may differ in a tie
    expected = table.var["dispersions_norm"].nlargest(20)
    panel = select_genes(slide(counts, genes), 20, method="highly_variable")
    np.testing.assert_allclose(table.var["dispersions_norm"][panel], expected, rtol=1e-4)


def test_only_genes_of_every_slide_and_the_mean_rank_decides(counts):
    other = counts.drop(columns="strong").rename(columns={"noise3": "elsewhere"})
    slides = {"a": slide(counts, counts.columns), "b": slide(other, other.columns)}
    panel = select_genes(slides, method="most_expressed")
    assert not {"strong", "noise3", "elsewhere"} & set(panel)
    # first, second, third on one slide and third, second, first on the other: a tie, by name
    ranked = [
        slide(np.tile(row, (24, 1)), ["u", "v", "w"]) for row in ([9, 5, 1], [1, 5, 9], [1, 9, 5])
    ]
    assert select_genes(ranked[:2], 3, method="most_expressed") == ["u", "v", "w"]
    assert select_genes(ranked, 1, method="most_expressed") == ["v"]


def test_rows_and_candidates_restrict_the_choice(counts):
    frames = table_frames(slide(counts, counts.columns), table_key="table", layer=None, counts=True)
    table = frames[0].table
    quiet = np.flatnonzero(table[:, "bursting"].X.toarray().ravel() == 0)
    panel = choose_panel(frames, 99, method="highly_variable", rows={"spots": quiet})
    assert "bursting" not in panel
    assert "strong" in panel
    half = np.flatnonzero(table.obs["array_row"].to_numpy() < SIDE / 2)
    panel = choose_panel(frames, 5, method="spatially_variable", rows={"spots": half})
    assert panel[0] != "spatial"
    panel = choose_panel(frames, 2, method="most_expressed", genes=["spatial", "noise1", "silent"])
    assert panel == ["spatial", "noise1"]


def test_a_panel_is_checked_against_the_slides(counts):
    frames = table_frames(slide(counts, counts.columns), table_key="table", layer=None, counts=True)
    check_panel(["strong", "noise0"], frames)
    with pytest.raises(InputKeyError, match=r"2 of 3 genes are on no slide \(first: x, y\)"):
        check_panel(["strong", "x", "y"], frames)
    with pytest.raises(InputKeyError, match="measures none of the 1 genes"):
        check_panel(["x"], frames)
    with pytest.raises(InputValueError, match="panel is empty"):
        check_panel([], frames)
    with pytest.raises(InputTypeError, match="genes is 'strong' of type str; a list"):
        check_panel("strong", frames)


def test_impossible_requests_are_refused(counts):
    sdata = slide(counts, counts.columns)
    with pytest.raises(InputValueError, match="method is 'best'; allowed are"):
        select_genes(sdata, method="best")
    with pytest.raises(InputValueError, match="n_genes is 0"):
        select_genes(sdata, 0)
    with pytest.raises(InputValueError, match="at least one"):
        select_genes([])
    with pytest.raises(InputValueError, match="no gene is on all of the 2 slides"):
        select_genes([sdata, slide(counts, [f"x{i}" for i in range(14)])])
    with pytest.raises(InputTypeError, match="needs a SpatialData object"):
        select_genes(sdata["table"])
    with pytest.raises(InputKeyError, match="no table 'counts'"):
        select_genes(sdata, table_key="counts")
    with pytest.raises(InputKeyError, match="no layer 'raw'"):
        select_genes(sdata, layer="raw")
    with pytest.raises(InputValueError, match="looks normalised"):
        select_genes(slide(counts / 2.5, counts.columns))
