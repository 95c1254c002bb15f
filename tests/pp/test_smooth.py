from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

from rankbygene.errors import InputKeyError, InputValueError, OutputExistsError
from rankbygene.pp import smooth_expression

SHAPE = (4, 5)


def two_regions(store):
    """Two interleaved regions on one lattice each, rows of the table in random order."""
    n = SHAPE[0] * SHAPE[1]
    index = np.column_stack(np.divmod(np.arange(n), SHAPE[1]))
    rng = np.random.default_rng(0)
    order = rng.permutation(2 * n)
    region, spot = np.divmod(order, n)
    obs = pd.DataFrame(
        {
            "region": pd.Categorical.from_codes(region, ["a", "b"]),
            "spot": spot,
            "array_row": index[spot, 0],
            "array_col": index[spot, 1],
        },
        index=[f"s{i}" for i in order],
    )
    values = rng.normal(size=(2 * n, 3)) * (rng.random((2 * n, 3)) < 0.6)
    table = ad.AnnData(store(values), obs=obs, var=pd.DataFrame(index=["x", "y", "z"]))
    table = TableModel.parse(table, region=["a", "b"], region_key="region", instance_key="spot")
    circles = ShapesModel.parse(index[:, ::-1] * 200.0, geometry=0, radius=50.0)
    return SpatialData(shapes={"a": circles, "b": circles}, tables={"table": table}), values


def windows(image):
    """Mean of the 3 x 3 window of present spots."""
    padded = np.pad(image, 1, constant_values=np.nan)
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return np.nanmean(views, axis=(2, 3))


@pytest.mark.parametrize("store", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_each_region_is_smoothed_on_its_own(store):
    sdata, values = two_regions(store)
    smooth_expression(sdata)
    table = sdata["table"]
    result = table.layers["smoothed"]
    assert sparse.issparse(result) == sparse.issparse(table.X)
    assert result.dtype == np.float32
    result = result.toarray() if sparse.issparse(result) else result
    for region in "ab":
        rows = np.flatnonzero(table.obs["region"] == region)
        rows = rows[np.argsort(table.obs["spot"].to_numpy()[rows])]
        for gene in range(3):
            expected = windows(values[rows, gene].reshape(SHAPE))
            np.testing.assert_allclose(result[rows, gene].reshape(SHAPE), expected, atol=1e-6)
    unchanged = table.X.toarray() if sparse.issparse(table.X) else table.X
    np.testing.assert_array_equal(unchanged, values)


def test_layers_are_named_and_not_replaced_by_accident():
    sdata, values = two_regions(np.asarray)
    table = sdata["table"]
    table.layers["log"] = 2 * values
    smooth_expression(
        sdata, layer="log", key_added="log_smooth", neighbourhood="knn", n_neighbors=3
    )
    with pytest.raises(OutputExistsError, match="has a layer 'log'"):
        smooth_expression(sdata, key_added="log")
    smooth_expression(sdata)
    before = table.layers["smoothed"].copy()
    smooth_expression(sdata, layer="log", key_added="smoothed", overwrite=True)
    np.testing.assert_allclose(table.layers["smoothed"], 2 * before, rtol=1e-5)
    with pytest.raises(InputKeyError, match="no layer 'raw'"):
        smooth_expression(sdata, layer="raw", key_added="new")
    del table.obs["array_row"]
    with pytest.raises(InputValueError, match="'array_row' and 'array_col'"):
        smooth_expression(sdata, key_added="new", neighbourhood="hex6")
