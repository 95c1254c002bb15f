from __future__ import annotations

from pathlib import Path
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


def stored(path: Path) -> Any:
    from spatialdata import SpatialData

    return SpatialData.read(path)["rankbygene"]


def contents(store: Path) -> dict[str, bytes]:
    files = (path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


@pytest.mark.parametrize("method", ["rankbygene", "nh2st"])
def test_a_store_of_predictions_is_the_table_in_memory(
    method: str, model: Any, make_slides: Any, fit_tiny: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("rankbygene.model._stream.PART_SIZE", 7)
    if method == "nh2st":
        model = fit_tiny(make_slides(2), method="nh2st")
    (sdata,) = make_slides(1)
    region = next(iter(sdata.shapes))
    model.predict_slide(sdata, shapes_key=region)
    expected = sdata.tables.pop("rankbygene")
    # One part after the other, by shares in any order, or all at once: the same store.
    for index in (2, 0, 1):
        model.predict_slide(sdata, shapes_key=region, out=tmp_path / "b.zarr", shard=(index, 3))
        assert (tmp_path / "b.zarr").exists() == (index == 1)
    model.predict_slide(sdata, shapes_key=region, out=tmp_path / "a.zarr")
    assert "rankbygene" not in sdata.tables
    whole, shares = stored(tmp_path / "a.zarr"), stored(tmp_path / "b.zarr")
    key = f"X_{method}"
    np.testing.assert_array_equal(whole.X, shares.X)
    np.testing.assert_array_equal(whole.obsm[key], shares.obsm[key])
    assert get_table_keys(whole)[0] == region
    expected.obs_names = expected.obs["instance_id"].astype(str)
    rows = expected.obs_names.get_indexer(whole.obs["instance_id"].astype(str))
    assert sorted(rows) == list(range(expected.n_obs))
    np.testing.assert_allclose(whole.X, expected.X[rows], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole.obsm[key], expected.obsm[key][rows], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(whole.obsm["spatial"], expected.obsm["spatial"][rows])
    assert {path.name for path in tmp_path.iterdir()} == {"a.zarr", "b.zarr"}
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")


def test_an_interrupted_store_goes_on_where_it_stopped(
    model: Any, make_slides: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("rankbygene.model._stream.PART_SIZE", 8)
    (sdata,) = make_slides(1)
    region, out = next(iter(sdata.shapes)), tmp_path / "out.zarr"
    model.predict_slide(sdata, shapes_key=region, out=tmp_path / "whole.zarr")
    apply, seen = model._apply, []

    def stopped(images: Any) -> Any:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(images))
        return apply(images)

    monkeypatch.setattr(model, "_apply", stopped)
    with pytest.raises(KeyboardInterrupt):
        model.predict_slide(sdata, shapes_key=region, out=out)
    assert not out.exists()
    assert len(list((tmp_path / "out.zarr.parts").glob("0*"))) == 2
    seen.clear()

    def counted(images: Any) -> Any:
        seen.append(len(images))
        return apply(images)

    monkeypatch.setattr(model, "_apply", counted)
    model.predict_slide(sdata, shapes_key=region, out=out)
    assert sum(seen) == sdata.shapes[region].shape[0] - 16
    assert contents(out) == contents(tmp_path / "whole.zarr")
    with pytest.raises(FileExistsError, match="overwrite"):
        model.predict_slide(sdata, shapes_key=region, out=out)


def test_parts_of_another_run_are_not_mixed(
    model: Any, make_slides: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("rankbygene.model._stream.PART_SIZE", 8)
    (sdata,) = make_slides(1)
    region, out = next(iter(sdata.shapes)), tmp_path / "out.zarr"
    model.predict_slide(sdata, shapes_key=region, out=out, shard=(0, 2))
    sdata.shapes[region] = sdata.shapes[region].iloc[1:]
    with pytest.raises(ValueError, match=r"n_rows, slide \(geometry\).*delete the folder"):
        model.predict_slide(sdata, shapes_key=region, out=out)
    with pytest.raises(ValueError, match="no share"):
        model.predict_slide(sdata, shapes_key=region, out=out, shard=(2, 2))
    with pytest.raises(ValueError, match="out="):
        model.predict_slide(sdata, shapes_key=region, shard=(0, 2))
