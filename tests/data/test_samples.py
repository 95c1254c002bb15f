from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from shapely import Polygon
from spatialdata import SpatialData
from spatialdata.models import Labels2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import get_transformation

from rankbygene.data import SpatialSetup, frame_from_shapes, resolve
from rankbygene.data.tiles._tiles import TileReader
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError


def relabel(sdata: SpatialData, table: AnnData, **keys: Any) -> None:
    """Put back a table after parsing it anew."""
    table.uns.pop("spatialdata_attrs", None)
    keys = {"region": "spots", "region_key": "region", "instance_key": "id", **keys}
    sdata.tables["table"] = TableModel.parse(table, **keys)


def state_of(sdata: SpatialData) -> dict[str, Any]:
    table = sdata.tables["table"]
    return {
        "radius": sdata.shapes["spots"]["radius"].tolist(),
        "index": sdata.shapes["spots"].index.tolist(),
        "systems": {
            name: {k: repr(v) for k, v in get_transformation(element, get_all=True).items()}
            for _, name, element in sdata.gen_spatial_elements()
        },
        "uns": repr(table.uns),
        "obs": table.obs.copy().to_dict(),
        "keys": [list(table.obsm), [k for k in table.layers if k is not None]],
        "x": table.X.toarray().tolist(),
        "attrs": dict(sdata.attrs),
    }


def test_frame_of_a_plain_slide(build: SimpleNamespace) -> None:
    sdata = build.slide()
    (frame,) = resolve(sdata)
    assert (frame.slide, frame.region, frame.image_key) == ("spots", "spots", "he")
    assert frame.coordinate_system == "global"
    assert frame.n_obs == 4
    assert frame.um_per_unit == 0.5
    assert "'um'" in frame.um_source
    assert frame.table is sdata.tables["table"]
    assert frame.patient is None
    assert frame.array_index is None
    np.testing.assert_array_equal(frame.centers, [[40, 30], [80, 30], [40, 60], [81, 62.5]])
    np.testing.assert_array_equal(frame.centers_um, frame.centers / 2)


def test_input_is_not_changed(build: SimpleNamespace) -> None:
    sdata = build.slide(ids=["a", "b", "c", "d"])
    before = state_of(sdata)
    (frame,) = resolve(sdata)
    TileReader(frame, tile_um=16, tile_px=32).read()
    frame_from_shapes(sdata, "spots")
    assert state_of(sdata) == before


@pytest.mark.parametrize("ids", [[3, 7, 11, 40], ["d", "a", "c", "b"]])
def test_rows_follow_the_table_not_the_shapes(build: SimpleNamespace, ids: list[Any]) -> None:
    sdata = build.slide(ids=ids)
    place = dict(zip(ids, sdata.shapes["spots"].geometry.x, strict=True))
    relabel(sdata, sdata.tables["table"][[2, 0, 3]].copy())
    (frame,) = resolve(sdata)
    assert frame.instances.tolist() == [ids[2], ids[0], ids[3]]
    assert frame.centers[:, 0].tolist() == [place[i] for i in frame.instances]
    assert frame.obs_names.tolist() == [f"spots_{i}" for i in frame.instances]


def test_interleaved_regions_become_slides(build: SimpleNamespace) -> None:
    left, right = build.circles([[40, 30], [40, 60]]), build.circles([[90, 30], [90, 60]])
    table = build.table({"right": [0, 1], "left": [0, 1]})[[3, 0, 2, 1]].copy()
    table.uns.pop("spatialdata_attrs")
    table = TableModel.parse(
        table, region=["right", "left"], region_key="region", instance_key="id"
    )
    sdata = SpatialData(
        images={"he": build.image(build.picture())},
        shapes={"left": left, "right": right},
        tables={"table": table},
    )
    frames = resolve(sdata, name="P1")
    assert [f.slide for f in frames] == ["P1-right", "P1-left"]
    assert [f.rows.tolist() for f in frames] == [[1, 3], [0, 2]]
    assert frames[1].centers.tolist() == [[40, 60], [40, 30]]
    assert frames[0].obs_names.tolist() == ["right_0", "right_1"]


def test_polygons_and_labels_are_placed_like_circles(
    build: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    centers = np.array([[40, 30], [80.5, 60]])
    squares = [Polygon(c + np.array([[-4, -4], [4, -4], [4, 4], [-4, 4]])) for c in centers]
    mask = np.zeros((120, 160), dtype=np.int32)
    mask[26:34, 36:44], mask[56:64, 76:85] = 5, 9
    sdata = SpatialData(
        images={"he": build.image(build.picture())},
        shapes={"squares": ShapesModel.parse(gpd.GeoDataFrame(geometry=squares, index=[5, 9]))},
        labels={
            "cells": Labels2DModel.parse(da.from_array(mask, chunks=(33, 40)), dims=("y", "x")),
            "pyramid": Labels2DModel.parse(mask, dims=("y", "x"), scale_factors=[2]),
        },
    )
    for region in ("squares", "cells", "pyramid"):
        with caplog.at_level(logging.INFO, logger="rankbygene"):
            caplog.clear()
            frame = frame_from_shapes(sdata, region)
        assert frame.instances.tolist() == [5, 9]
        assert frame.setup.table_key == ""
        np.testing.assert_allclose(frame.centers, centers)
        assert ("every pixel" in caplog.text) == (region != "squares")


def test_patient_has_one_value_per_slide(build: SimpleNamespace) -> None:
    sdata = build.slide()
    sdata.tables["table"].obs["who"] = pd.Categorical(["P7"] * 4)
    setup = SpatialSetup(patient_key="who")
    assert resolve(sdata, setup)[0].patient == "P7"
    sdata.tables["table"].obs["who"] = ["P7", "P8", "P7", "P7"]
    with pytest.raises(InputValueError, match=r"one value .* \['P7', 'P8'\]"):
        resolve(sdata, setup)
    sdata.tables["table"].obs["who"] = ["P7", None, "P7", "P7"]
    with pytest.raises(InputValueError, match=r"\['P7'\] and 1 missing"):
        resolve(sdata, setup)
    with pytest.raises(InputKeyError, match="no column 'age'"):
        resolve(sdata, SpatialSetup(patient_key="age"))


def test_array_index_needs_whole_numbers(build: SimpleNamespace) -> None:
    sdata = build.slide()
    obs = sdata.tables["table"].obs
    obs["array_row"], obs["array_col"] = [0, 0, 1, 1], ["0", "1", "0", "1"]
    (frame,) = resolve(sdata)
    assert frame.array_index is not None
    assert frame.array_index.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    obs["array_row"] = [0.05, 0, 1, 1]
    assert resolve(sdata)[0].array_index is None


@pytest.mark.parametrize("given", [AnnData(np.ones((2, 2))), "slide.zarr", None])
def test_other_types_are_refused(given: Any) -> None:
    with pytest.raises(InputTypeError, match="spatialdata.read_zarr"):
        resolve(given)


def test_table_errors(build: SimpleNamespace) -> None:
    sdata = build.slide()
    with pytest.raises(InputKeyError, match=r"no table 'cells'; the tables are \['table'\]"):
        resolve(sdata, SpatialSetup(table_key="cells"))
    sdata.tables["free"] = AnnData(np.ones((2, 2)))
    with pytest.raises(InputValueError, match="annotates nothing.*TableModel.parse"):
        resolve(sdata, SpatialSetup(table_key="free"))
    del sdata.tables["table"].obs["id"]
    with pytest.raises(InputValueError, match="no column"):
        resolve(sdata)


def test_empty_table_and_undeclared_regions(build: SimpleNamespace) -> None:
    sdata = build.slide()
    sdata.tables["table"].obs["region"] = ["spots", "spots", "other", "spots"]
    with pytest.raises(InputValueError, match="1 rows of 'table' belong to regions"):
        resolve(sdata)
    sdata = build.slide()
    sdata.tables["table"]._inplace_subset_obs(np.zeros(4, dtype=bool))
    with pytest.raises(InputValueError, match="no rows"):
        resolve(sdata)


def test_region_errors(build: SimpleNamespace) -> None:
    sdata = build.slide()
    sdata.points["dots"] = PointsModel.parse(np.ones((4, 2)))
    for region, error, text in [
        ("gone", InputKeyError, "no element 'gone'; shapes: "),
        ("dots", InputValueError, "is in points; .* shapes or labels"),
        ("he", InputValueError, "is in images"),
    ]:
        table = sdata.tables["table"]
        table.obs["region"] = pd.Categorical([region] * 4)
        table.uns["spatialdata_attrs"]["region"] = region
        with pytest.raises(error, match=text):
            resolve(sdata)
    with pytest.raises(InputValueError, match="is in points"):
        frame_from_shapes(sdata, "dots")


def test_rows_without_a_shape_and_duplicates(build: SimpleNamespace) -> None:
    sdata = build.slide()
    sdata.tables["table"].obs["id"] = [0, 17, 41, 3]
    with pytest.raises(InputValueError, match=r"2 of 4 rows .* not in 'spots' \(first: 17, 41\)"):
        resolve(sdata)
    sdata.tables["table"].obs["id"] = ["0", "1", "2", "3"]
    with pytest.raises(InputValueError, match="4 of 4 rows .*those of the element int64"):
        resolve(sdata)
    sdata.tables["table"].obs["id"] = [0, 1, 1, 3]
    with pytest.raises(InputValueError, match=r"1 ids .* more than one row .*\(first: \[1\]\)"):
        resolve(sdata)
    sdata = build.slide()
    sdata.shapes["spots"].index = [0, 1, 1, 3]
    with pytest.raises(InputValueError, match="1 ids occur more than once in 'spots'"):
        resolve(sdata)


def test_problems_are_reported_together(build: SimpleNamespace) -> None:
    sdata = build.slide()
    table = sdata.tables["table"]
    table.X = table.X * 0.5
    table.obs["id"] = [0, 17, 41, 3]
    with pytest.raises(InputValueError) as caught:
        resolve(sdata, SpatialSetup(image_key="gone", patient_key="age"), name="S")
    text = str(caught.value)
    assert text.startswith("slide 'S': 4 problems")
    for part in ("looks normalised", "17, 41", "no image 'gone'", "no column 'age'"):
        assert part in text
    assert len(resolve(build.slide(), counts=False)) == 1


def test_shapes_without_a_place(build: SimpleNamespace) -> None:
    sdata = build.slide()
    shapes = sdata.shapes["spots"]
    shapes.loc[2, "geometry"] = None
    with pytest.raises(InputValueError, match=r"1 of 4 elements .* no finite centre \(first: 2\)"):
        resolve(sdata)
    sdata.labels["blank"] = Labels2DModel.parse(np.zeros((9, 9), dtype=int), dims=("y", "x"))
    with pytest.raises(InputValueError, match="is empty"):
        frame_from_shapes(sdata, "blank")


def test_entries_per_region(build: SimpleNamespace) -> None:
    sdata = build.slide()
    setup = SpatialSetup(image_key={"spots": "he"}, um_per_px={"spots": 0.25})
    assert resolve(sdata, setup)[0].um_per_unit == 0.25
    with pytest.raises(InputKeyError, match="image_key has no entry for region 'spots'"):
        resolve(sdata, SpatialSetup(image_key={"spot": "he"}))
