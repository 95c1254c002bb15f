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
    monkeypatch.setattr("rankbygene.base.spots._stream.PART_SIZE", 7)
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
    monkeypatch.setattr("rankbygene.base.spots._stream.PART_SIZE", 8)
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
    monkeypatch.setattr("rankbygene.base.spots._stream.PART_SIZE", 8)
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


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("pixels", r"slide \(pixels\)"),
        ("spots", r"slide \(geometry\)"),
        ("weights", r"model \(weights\)"),
        ("normalization", r"model \(settings\)"),
        ("precision", "precision"),
    ],
)
def test_what_differs_from_an_interrupted_run_is_named(
    model: Any, make_slides: Any, tmp_path: Path, monkeypatch: Any, change: str, named: str
) -> None:
    import torch
    from spatialdata.transformations import get_transformation, set_transformation

    import rankbygene as rbg

    monkeypatch.setattr("rankbygene.base.spots._stream.PART_SIZE", 8)
    (sdata,) = make_slides(1)
    region, out = next(iter(sdata.shapes)), tmp_path / "out.zarr"
    model.save(tmp_path / "model")
    again = rbg.model.load(tmp_path / "model")
    wanted: dict[str, Any] = {"shapes_key": region, "out": out}
    model.predict_slide(sdata, shard=(0, 2), **wanted)
    before = sorted((tmp_path / "out.zarr.parts").iterdir())
    if change == "pixels":
        (image,) = sdata.images.values()
        for scale in image.children:
            level = image[scale]["image"]
            image[scale]["image"] = level.copy(data=255 - level.data)
    elif change == "spots":
        shapes = sdata.shapes[region]
        systems = get_transformation(shapes, get_all=True)
        shapes["geometry"] = shapes.geometry.translate(0.4, 0)
        set_transformation(shapes, systems, set_all=True)
    elif change == "weights":
        with torch.no_grad():
            next(again.module.parameters()).flatten()[0] += 1e-3
    elif change == "normalization":
        monkeypatch.setattr(
            type(again.normalization), "to_dict", lambda _: {"kind": "another"}, raising=True
        )
    else:
        wanted["precision"] = "bf16-mixed"
    with pytest.raises(ValueError, match=f"differs from this one in [^;]*{named}"):
        again.predict_slide(sdata, **wanted)
    assert sorted((tmp_path / "out.zarr.parts").iterdir()) == before


def test_a_model_that_was_saved_and_loaded_resumes_its_own_run(
    model: Any, make_slides: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    import rankbygene as rbg

    monkeypatch.setattr("rankbygene.base.spots._stream.PART_SIZE", 8)
    (sdata,) = make_slides(1)
    region, out = next(iter(sdata.shapes)), tmp_path / "out.zarr"
    model.predict_slide(sdata, shapes_key=region, out=tmp_path / "whole.zarr")
    model.predict_slide(sdata, shapes_key=region, out=out, shard=(0, 2))
    model.save(tmp_path / "model")
    rbg.model.load(tmp_path / "model").predict_slide(sdata, shapes_key=region, out=out)
    np.testing.assert_array_equal(stored(out).X, stored(tmp_path / "whole.zarr").X)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_share_without_parts_does_nothing(
    model: Any, make_slides: Any, tmp_path: Path, overwrite: bool
) -> None:
    (sdata,) = make_slides(1)
    out = tmp_path / "out.zarr"
    wanted = {"shapes_key": next(iter(sdata.shapes)), "out": out, "overwrite": overwrite}
    model.predict_slide(sdata, shard=(2, 3), **wanted)
    assert list(tmp_path.iterdir()) == []
    model.predict_slide(sdata, shard=(0, 3), **wanted)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    model.predict_slide(sdata, shard=(1, 3), **wanted)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert list(tmp_path.iterdir()) == [out]
