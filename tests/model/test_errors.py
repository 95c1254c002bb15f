"""What bad input gets: every case through the public one-liner, with nothing written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from geopandas import GeoDataFrame
from scipy import sparse
from spatialdata.models import Image2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import (
    Affine,
    Identity,
    get_transformation,
    remove_transformation,
    set_transformation,
)

import rankbygene as rbg
from rankbygene.errors import RankByGeneError


def region_of(sdata: Any) -> str:
    return next(iter(sdata.shapes))


def image_of(sdata: Any) -> str:
    return next(iter(sdata.images))


def pixels(sdata: Any) -> np.ndarray:
    element = sdata.images[image_of(sdata)]
    level = next(iter(element["scale0"].values())) if hasattr(element, "children") else element
    return np.asarray(level.data)


def replace_image(sdata: Any, data: np.ndarray, **kwargs: Any) -> None:
    name = image_of(sdata)
    systems = get_transformation(sdata.images[name], get_all=True)
    channels = kwargs.pop("c_coords", None)
    del sdata.images[name]
    sdata.images[name] = Image2DModel.parse(
        data, dims=("c", "y", "x"), transformations=systems, c_coords=channels, **kwargs
    )


def set_counts(sdata: Any, change: Callable[[np.ndarray], Any]) -> None:
    table = sdata["table"]
    counts = table.X.toarray() if sparse.issparse(table.X) else np.array(table.X)
    table.X = change(counts.astype(np.float32))


def reparse(sdata: Any, table: Any, region: str) -> None:
    attrs = sdata["table"].uns["spatialdata_attrs"]
    table.uns.pop("spatialdata_attrs", None)
    table.obs[attrs["region_key"]] = np.full(table.n_obs, region)
    table.obs[attrs["region_key"]] = table.obs[attrs["region_key"]].astype("category")
    sdata.tables["table"] = TableModel.parse(
        table, region=region, region_key=attrs["region_key"], instance_key=attrs["instance_key"]
    )


# Each case changes a good slide, or the arguments, and names the type and what the text must say.
CASES: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {}


def case(
    error: type[Exception], text: str
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    def add(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
        CASES[change.__name__] = (change, error, text)
        return change

    return add


@case(KeyError, "'counts'.*table")
def table_absent(sdata: Any) -> Any:
    return {"table_key": "counts"}


@case(ValueError, "spatialdata_attrs.*TableModel.parse")
def table_annotates_nothing(sdata: Any) -> None:
    del sdata["table"].uns["spatialdata_attrs"]


@case(KeyError, "not in|absent|no element")
def region_absent(sdata: Any) -> None:
    del sdata.shapes[region_of(sdata)]


@case(ValueError, "points")
def region_is_points(sdata: Any) -> None:
    import pandas as pd

    region = region_of(sdata)
    centres = sdata.shapes[region].geometry
    frame = pd.DataFrame({"x": centres.x.to_numpy(), "y": centres.y.to_numpy()})
    del sdata.shapes[region]
    sdata.points[region] = PointsModel.parse(frame)


@case(ValueError, r"3 of 40 rows of 'table'.*first")
def rows_without_a_shape(sdata: Any) -> None:
    region = region_of(sdata)
    shapes = sdata.shapes[region].iloc[3:]
    del sdata.shapes[region]
    sdata.shapes[region] = shapes


@case(ValueError, "more than one row")
def duplicate_instances(sdata: Any) -> None:
    table = sdata["table"]
    key = table.uns["spatialdata_attrs"]["instance_key"]
    values = table.obs[key].to_numpy().copy()
    values[1] = values[0]
    table.obs[key] = values


@case(ValueError, "system")
def no_image_shares_a_system(sdata: Any) -> None:
    image = sdata.images[image_of(sdata)]
    set_transformation(image, Identity(), "elsewhere")
    for system in list(get_transformation(image, get_all=True)):
        if system != "elsewhere":
            remove_transformation(image, system)


@case(ValueError, "image_key")
def two_equally_fine_images(sdata: Any) -> None:
    name = image_of(sdata)
    sdata.images["copy"] = Image2DModel.parse(
        pixels(sdata),
        dims=("c", "y", "x"),
        transformations=get_transformation(sdata.images[name], get_all=True),
    )


@case(ValueError, "channel")
def image_of_one_channel(sdata: Any) -> Any:
    replace_image(sdata, pixels(sdata)[:1])
    return {"image_key": image_of(sdata)}


@case(TypeError, "uint16.*uint8")
def image_of_another_dtype(sdata: Any) -> Any:
    replace_image(sdata, pixels(sdata).astype(np.uint16))
    return {"image_key": image_of(sdata)}


@case(ValueError, r"stretches one axis 1.2 times")
def unequal_scales(sdata: Any) -> None:
    image = sdata.images[image_of(sdata)]
    for system, old in get_transformation(image, get_all=True).items():
        matrix = old.to_affine_matrix(("x", "y"), ("x", "y")) @ np.diag([1, 1.2, 1])
        set_transformation(image, Affine(matrix, ("x", "y"), ("x", "y")), system)


@case(ValueError, "singular|invert")
def singular_transformation(sdata: Any) -> None:
    image = sdata.images[image_of(sdata)]
    for system in get_transformation(image, get_all=True):
        set_transformation(image, Affine(np.diag([0.0, 1, 1]), ("x", "y"), ("x", "y")), system)


@case(ValueError, "um_per_px")
def unknown_scale(sdata: Any) -> None:
    for element in (sdata.images[image_of(sdata)], sdata.shapes[region_of(sdata)]):
        if "um" in get_transformation(element, get_all=True):
            remove_transformation(element, "um")
    obs = sdata["table"].obs
    obs.drop(columns=["array_row", "array_col"], inplace=True, errors="ignore")


@case(ValueError, r"px of|tile covers|smaller tile_px")
def image_too_coarse(sdata: Any) -> Any:
    return {"model_kwargs": {"tile_px": 2048}}


@case(ValueError, r"outside.*image|coordinate system")
def spots_outside_the_image(sdata: Any) -> None:
    region = region_of(sdata)
    shapes = sdata.shapes[region].copy()
    systems = get_transformation(sdata.shapes[region], get_all=True)
    moved = GeoDataFrame({"radius": shapes.radius, "geometry": shapes.geometry.translate(1e6, 0)})
    del sdata.shapes[region]
    sdata.shapes[region] = ShapesModel.parse(moved, transformations=systems)


@case(ValueError, "negative|-1|looks")
def negative_counts(sdata: Any) -> None:
    set_counts(sdata, lambda counts: counts - 1)


@case(ValueError, "looks normalised.*layer")
def normalised_counts(sdata: Any) -> None:
    set_counts(sdata, np.log1p)


@case(ValueError, "NaN|nan|finite")
def counts_with_nan(sdata: Any) -> None:
    set_counts(sdata, lambda counts: np.where(counts == counts.max(), np.nan, counts))


@case(ValueError, "inf|finite")
def counts_with_infinity(sdata: Any) -> None:
    set_counts(sdata, lambda counts: np.where(counts == counts.max(), np.inf, counts))


@case(ValueError, "filter_cells")
def spots_without_counts(sdata: Any) -> None:
    set_counts(sdata, lambda counts: counts * (np.arange(len(counts)) > 1)[:, None])


@case(KeyError, "'raw_counts'")
def layer_absent(sdata: Any) -> Any:
    return {"layer": "raw_counts"}


@case(KeyError, "NOT_A_GENE")
def unknown_gene(sdata: Any) -> Any:
    return {"genes": ["NOT_A_GENE"]}


@case(ValueError, "empty|at least one")
def empty_panel(sdata: Any) -> Any:
    return {"genes": []}


@case(ValueError, "uplicate|unique")
def duplicate_genes(sdata: Any) -> None:
    table = sdata["table"]
    names = table.var_names.to_list()
    table.var_names = [names[1], *names[1:]]


@case(ValueError, "uplicate|unique")
def duplicate_spots(sdata: Any) -> None:
    table = sdata["table"]
    names = table.obs_names.to_list()
    table.obs_names = [names[1], *names[1:]]


@case(ValueError, r"training spots.*batch")
def fewer_spots_than_a_batch(sdata: Any) -> Any:
    return {"train_kwargs": {"batch_size": 512, "accelerator": "cpu"}}


@case(ValueError, "'nope'.*rankbygene")
def unknown_method(sdata: Any) -> Any:
    return {"method": "nope"}


@case(RuntimeError, r"pretrained=False")
def unknown_backbone_file(sdata: Any) -> Any:
    return {"model_kwargs": {"tile_px": 32, "weights": "missing.safetensors"}}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_named_and_nothing_is_written(
    name: str, make_slides: Any, fit_tiny: Any
) -> None:
    change, error, text = CASES[name]
    (sdata,) = make_slides(1)
    arguments = change(sdata) or {}
    table = sdata["table"]
    before = {slot: set(getattr(table, slot)) for slot in ("obs", "var", "obsm", "layers", "uns")}
    with pytest.raises(error) as caught:
        fit_tiny(sdata, **arguments)
    assert isinstance(caught.value, RankByGeneError), repr(caught.value)
    assert re.search(text, str(caught.value), re.DOTALL), str(caught.value)
    after = {slot: set(getattr(table, slot)) for slot in before}
    assert after == before


@pytest.mark.parametrize(
    "make", [lambda sdata: sdata["table"], lambda sdata: "slide.zarr"], ids=["table", "path"]
)
def test_other_objects_are_refused_with_the_way_to_read_them(
    make: Callable[[Any], Any], make_slides: Any, fit_tiny: Any
) -> None:
    with pytest.raises(TypeError, match="read_zarr"):
        fit_tiny(make(make_slides(1)[0]))


def test_problems_of_several_slides_are_reported_together(make_slides: Any, fit_tiny: Any) -> None:
    slides = dict(zip("ab", make_slides(2), strict=True))
    CASES["normalised_counts"][0](slides["a"])
    CASES["rows_without_a_shape"][0](slides["b"])
    with pytest.raises(ValueError, match=r"(?s)'a'.*looks normalised.*'b'.*3 of 40"):
        fit_tiny(slides)


def test_a_loss_that_is_not_finite_stops_and_names_the_term(
    make_slides: Any, fit_tiny: Any
) -> None:
    train = {"batch_size": 16, "accelerator": "cpu", "enable_progress_bar": False}
    with pytest.raises(
        RuntimeError, match=r"(?s)step \d+.*(expression|contrast|ranking|distillation)"
    ):
        fit_tiny(make_slides(2), train_kwargs=train | {"plan_kwargs": {"lr": 1e14}}, max_epochs=3)


def test_a_slide_that_lacks_panel_genes_is_predicted_and_scoring_says_so(
    model: Any, make_slides: Any
) -> None:
    (new,) = make_slides(1, seed=21)
    table = new["table"]
    new.tables["table"] = table[:, ~table.var_names.isin(model.genes[:2])].copy()
    model.annotate(new)
    with pytest.warns(UserWarning, match="lacks 2 of the 12 genes"):
        rbg.tl.evaluate(model, new, baselines=["mean"])
