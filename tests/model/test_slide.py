from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from spatialdata.models import get_table_keys


def test_given_shapes_are_predicted_as_the_table_would(model: Any, make_slides: Any) -> None:
    (sdata,) = make_slides(1)
    region = next(iter(sdata.shapes))
    expected = model.get_normalized_expression(sdata)
    instances = sdata["table"].obs[sdata["table"].uns["spatialdata_attrs"]["instance_key"]]
    model.predict_slide(sdata, shapes_key=region)
    table = sdata["rankbygene"]
    assert get_table_keys(table)[0] == region
    assert list(table.var_names) == model.genes
    order = table.obs[table.uns["spatialdata_attrs"]["instance_key"]].astype(str)
    rows = order.reset_index(drop=True).reset_index().set_index("instance_id")["index"]
    np.testing.assert_allclose(
        table.X[rows.loc[instances.astype(str)]], expected.to_numpy(), rtol=1e-4, atol=1e-5
    )
    assert np.isfinite(table.obsm["X_rankbygene"]).all()
    with pytest.raises(FileExistsError, match="table_key"):
        model.predict_slide(sdata, shapes_key=region)


def test_an_image_alone_is_tiled_and_predicted(model: Any, make_slides: Any, tmp_path: Any) -> None:
    from spatialdata import SpatialData

    (source,) = make_slides(1)
    sdata = SpatialData(images=dict(source.images))
    model.predict_slide(sdata, table_key="he")
    n_tiles = sdata["he"].n_obs
    assert n_tiles == len(sdata.shapes["he_tiles"]) > 0
    model.predict_slide(sdata, table_key="dense", step_um=56)
    assert sdata["dense"].n_obs > 2 * n_tiles
    sdata.write(tmp_path / "out.zarr")
    again = SpatialData.read(tmp_path / "out.zarr")
    np.testing.assert_array_equal(again["he"].X, sdata["he"].X)
    assert again["he"].uns["rankbygene_params"]["tile"]["px"] == 32
