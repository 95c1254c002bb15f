"""Slides with one thing wrong, and the error that each has to get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from hypothesis import strategies as st
from spatialdata.models import Image2DModel, Image3DModel, PointsModel, TableModel
from spatialdata.transformations import (
    Identity,
    get_transformation,
    remove_transformation,
    set_transformation,
)

from rankbygene._arguments import checked
from rankbygene._checks import check_one_of_names
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError, RankByGeneError
from rankbygene.testing._legal import LegalSlide, affine, draw_slides

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["FAULTS", "IllegalSlide", "illegal_slides"]

# Changes a legal slide, or gives what has to be said of it otherwise.
Spoil = Callable[[LegalSlide], Mapping[str, Any] | None]


@dataclass(frozen=True, eq=False)
class IllegalSlide:
    """A slide with one thing wrong, and the error that it has to get before a pixel is read.

    Attributes
    ----------
    sdata, setup, tile_um, tile_px
        As in :class:`LegalSlide`.
    fault
        What is wrong, one of ``FAULTS``.
    error
        The error that :func:`~rankbygene.data.resolve` or :class:`~rankbygene.data.TileReader` raises.
    match
        Regular expression that is found in its text.
    """

    sdata: SpatialData
    setup: dict[str, Any]
    tile_um: float
    tile_px: int
    fault: str
    error: type[RankByGeneError]
    match: str


@checked
def illegal_slides(fault: str | None = None) -> st.SearchStrategy[IllegalSlide]:
    """Draw slides that are odd in legal ways, and have one thing wrong.

    Parameters
    ----------
    fault
        What is to be wrong, one of ``rankbygene.testing.FAULTS``; any of them by default.

    Raises
    ------
    InputValueError
        There is no such fault.

    Examples
    --------
    >>> import pytest
    >>> from hypothesis import given
    >>> import rankbygene as rbg
    >>> @given(rbg.testing.illegal_slides())
    ... def test_refused(slide):
    ...     with pytest.raises(slide.error, match=slide.match):
    ...         for frame in rbg.data.resolve(slide.sdata, rbg.data.SpatialSetup(**slide.setup)):
    ...             rbg.data.TileReader(frame, tile_um=slide.tile_um, tile_px=slide.tile_px)
    """
    if fault is not None:
        check_one_of_names(fault, "fault", FAULTS, "fault")
    return _illegal(fault)


@st.composite
def _illegal(draw: st.DrawFn, fault: str | None) -> IllegalSlide:
    chosen = fault or draw(st.sampled_from(sorted(FAULTS)))
    spoil, error, match = FAULTS[chosen]
    slide = draw(draw_slides(None, 2, 6, plain=True))
    setup = dict(slide.setup)
    # Changed values of the tiles are told apart from those of the set-up by their names.
    changed = dict(spoil(slide) or {})
    tile_um = changed.pop("tile_um", slide.tile_um)
    return IllegalSlide(
        sdata=slide.sdata,
        setup=setup | changed,
        tile_um=tile_um,
        tile_px=slide.tile_px,
        fault=chosen,
        error=error,
        match=match,
    )


# ---- the table -------------------------------------------------------------------------------------


def _first(slide: LegalSlide) -> str:
    return next(iter(slide.tiles))


def _rows(slide: LegalSlide) -> Any:
    """Rows of the first region."""
    return np.flatnonzero(slide.sdata["table"].obs["region"] == _first(slide))


def _annotates_nothing(slide: LegalSlide) -> None:
    del slide.sdata["table"].uns[TableModel.ATTRS_KEY]


def _lacks_instances(slide: LegalSlide) -> None:
    del slide.sdata["table"].obs["instance"]


def _names_no_shape(slide: LegalSlide) -> None:
    table, row = slide.sdata["table"], _rows(slide)[0]
    instances = table.obs["instance"].tolist()
    instances[row] = "nobody" if isinstance(instances[row], str) else 999_999
    table.obs["instance"] = instances


def _names_a_shape_twice(slide: LegalSlide) -> None:
    table = slide.sdata["table"]
    again = table[[*range(table.n_obs), int(_rows(slide)[0])]].copy()
    again.obs_names = [f"row-{i}" for i in range(again.n_obs)]
    slide.sdata.tables["table"] = again


def _has_a_region_without_rows(slide: LegalSlide) -> None:
    sdata = slide.sdata
    sdata.shapes["ghost"] = sdata[_first(slide)].copy()
    attributes = sdata["table"].uns[TableModel.ATTRS_KEY]
    attributes["region"] = [*slide.tiles, "ghost"]


def _has_undeclared_rows(slide: LegalSlide) -> None:
    table = slide.sdata["table"]
    regions = table.obs["region"].astype(str).tolist()
    regions[0] = "undeclared"
    table.obs["region"] = pd.Categorical(regions)


def _repeats_genes(slide: LegalSlide) -> None:
    table = slide.sdata["table"]
    table.var_names = [table.var_names[0], *table.var_names[:-1]]


def _repeats_spots(slide: LegalSlide) -> None:
    _names_a_shape_twice(slide)  # a slide may have one spot alone
    table = slide.sdata["table"]
    table.obs_names = [table.obs_names[0], *table.obs_names[:-1]]


def _patient_missing(slide: LegalSlide) -> dict[str, Any]:
    table = slide.sdata["table"]
    patients = table.obs["patient"].astype(object)
    patients.iloc[_rows(slide)[0]] = None
    table.obs["patient"] = patients
    return {"patient_key": "patient"}


# ---- the counts ------------------------------------------------------------------------------------


def _counts(value: float) -> Spoil:
    def spoil(slide: LegalSlide) -> None:
        table = slide.sdata["table"]
        matrix = np.asarray(table.X).astype(np.float64)
        matrix[0, 0] = value
        table.X = matrix

    return spoil


def _empty_spot(slide: LegalSlide) -> None:
    table = slide.sdata["table"]
    matrix = np.asarray(table.X).copy()
    matrix[0] = 0
    table.X = matrix


def _no_counts(slide: LegalSlide) -> None:
    slide.sdata["table"].X = None


# ---- the regions -----------------------------------------------------------------------------------


def _no_region(slide: LegalSlide) -> None:
    del slide.sdata.shapes[_first(slide)]


def _points(slide: LegalSlide) -> None:
    name = _first(slide)
    del slide.sdata.shapes[name]
    slide.sdata.points[name] = PointsModel.parse(np.ones((3, 2)))


def _repeats_shapes(slide: LegalSlide) -> None:
    name = _first(slide)
    shapes = slide.sdata[name]
    again = pd.concat([shapes, shapes.iloc[:1]])
    again.attrs = shapes.attrs
    slide.sdata.shapes[name] = again


def _moved(x: float) -> Spoil:
    def spoil(slide: LegalSlide) -> None:
        name = _first(slide)
        shapes = slide.sdata[name]
        wanted = slide.sdata["table"].obs["instance"].tolist()[_rows(slide)[0]]
        geometry = shapes.geometry.to_numpy().copy()
        geometry[list(shapes.index).index(wanted)] = shapely.Point(x, x)
        shapes["geometry"] = geometry

    return spoil


# ---- the images ------------------------------------------------------------------------------------


def _image_key(slide: LegalSlide) -> str:
    return f"he_{_first(slide)}"


def _each_image(slide: LegalSlide, change: Callable[[Any], Any]) -> None:
    """Put another image in the place of each, in the same systems."""
    for name in [name for name in slide.sdata.images if name.startswith("he_")]:
        systems = get_transformation(slide.sdata[name], get_all=True)
        slide.sdata.images[name] = change(systems)


def _replaced(channels: int = 3, dtype: str = "u1", names: list[str] | None = None) -> Spoil:
    def image(systems: Any) -> Any:
        pixels = np.ones((channels, 40, 40), dtype)
        given = names or list("rgbaxy"[:channels])
        return Image2DModel.parse(
            pixels, dims=("c", "y", "x"), c_coords=given, transformations=systems
        )

    return lambda slide: _each_image(slide, image)


def _volume(slide: LegalSlide) -> None:
    def image(systems: Any) -> Any:
        pixels = np.ones((3, 4, 40, 40), np.uint8)
        return Image3DModel.parse(
            pixels, dims=("c", "z", "y", "x"), c_coords=list("rgb"), transformations=systems
        )

    _each_image(slide, image)


def _elsewhere(slide: LegalSlide) -> None:
    for name in [name for name in slide.sdata.images if name.startswith("he_")]:
        set_transformation(slide.sdata[name], {"nowhere": Identity()}, set_all=True)


def _no_image(slide: LegalSlide) -> None:
    for name in list(slide.sdata.images):
        del slide.sdata.images[name]


def _second_image(slide: LegalSlide) -> None:
    name = _image_key(slide)
    slide.sdata.images["second"] = slide.sdata[name].copy()


def _transformed(matrix: Any) -> Spoil:
    """Follow the transformation of the image by another, or by one that leads to nothing."""

    def spoil(slide: LegalSlide) -> None:
        image = slide.sdata[_image_key(slide)]
        for system, known in get_transformation(image, get_all=True).items():
            before = known.to_affine_matrix(("x", "y"), ("x", "y"))
            set_transformation(image, affine(before @ np.array(matrix)), system)

    return spoil


def _systems_disagree(slide: LegalSlide) -> None:
    name = _first(slide)
    set_transformation(slide.sdata[name], Identity(), "second")
    shifted = affine(np.array([[1.0, 0, 500], [0, 1, 500], [0, 0, 1]]))
    set_transformation(slide.sdata[_image_key(slide)], shifted, "second")


def _scale_unknown(slide: LegalSlide) -> dict[str, Any]:
    for name in [name for name in slide.sdata.images if name.startswith("he_")]:
        if "um" in get_transformation(slide.sdata[name], get_all=True):
            remove_transformation(slide.sdata[name], "um")
    return {"um_per_px": None}


def _too_coarse(slide: LegalSlide) -> dict[str, Any]:
    return {"tile_um": slide.um_per_px * slide.tile_px / 3}


def _said(**setup: Any) -> Spoil:
    return lambda _: setup


FAULTS: Mapping[str, tuple[Spoil, type[RankByGeneError], str]] = {
    "no such table": (_said(table_key="other"), InputKeyError, "there is no table 'other'"),
    "the table annotates nothing": (_annotates_nothing, InputValueError, "annotates nothing"),
    "the table lacks the column of ids": (_lacks_instances, InputValueError, "has no column"),
    "a row names no shape": (_names_no_shape, InputValueError, "name instances not in"),
    "two rows name one shape": (_names_a_shape_twice, InputValueError, "more than one row"),
    "a region without rows": (_has_a_region_without_rows, InputValueError, "no row of"),
    "rows of a region that is not declared": (_has_undeclared_rows, InputValueError, "not declare"),
    "a gene twice": (_repeats_genes, InputValueError, "var_names occur more than once"),
    "a spot's name twice": (_repeats_spots, InputValueError, "obs_names occur more than once"),
    "no such patients": (_said(patient_key="who"), InputKeyError, "no column 'who'"),
    "a patient missing": (_patient_missing, InputValueError, "needs one value"),
    "counts below zero": (_counts(-1), InputValueError, "not a count matrix"),
    "counts with fractions": (_counts(0.5), InputValueError, "not a count matrix"),
    "counts that are NaN": (_counts(np.nan), InputValueError, "NaN or infinite"),
    "counts that are infinite": (_counts(np.inf), InputValueError, "NaN or infinite"),
    "a spot without counts": (_empty_spot, InputValueError, "have no counts"),
    "no counts": (_no_counts, InputValueError, "has no X"),
    "no such layer": (_said(layer="raw"), InputKeyError, "no layer 'raw'"),
    "no such region": (_no_region, InputKeyError, "there is no element"),
    "a region of points": (_points, InputValueError, "is in points"),
    "a shape's id twice": (_repeats_shapes, InputValueError, "ids occur more than once"),
    "a spot outside the image": (_moved(1e7), InputValueError, "centre outside"),
    "a spot nowhere": (_moved(np.nan), InputValueError, "no finite centre"),
    "two channels": (_replaced(2), InputValueError, "has 2 channels"),
    "five channels": (_replaced(5), InputValueError, "has 5 channels"),
    "stains": (_replaced(names=["DAPI", "CD3", "CD8"]), InputValueError, "not red, green and blue"),
    "pixels that are floats": (_replaced(dtype="f4"), InputTypeError, "float32"),
    "pixels of 16 bits": (_replaced(dtype="u2"), InputTypeError, "uint16"),
    "a volume": (_volume, InputValueError, "only 2-D images"),
    "an image elsewhere": (_elsewhere, InputValueError, "no image shares a coordinate system"),
    "no image": (_no_image, InputValueError, "no image shares a coordinate system"),
    "two images": (_second_image, InputValueError, "images could be that of"),
    "no such image": (_said(image_key="he"), InputKeyError, "there is no image 'he'"),
    "no such system": (_said(coordinate_system="mm"), InputKeyError, "no coordinate system 'mm'"),
    "a singular transformation": (
        _transformed(np.diag([1.0, 0, 1])),
        InputValueError,
        "singular or not finite",
    ),
    "an uneven transformation": (
        _transformed(np.diag([1.0, 1.5, 1])),
        InputValueError,
        "stretches one axis",
    ),
    "a sheared transformation": (
        _transformed([[1.0, 0.3, 0], [0, 1, 0], [0, 0, 1]]),
        InputValueError,
        "stretches one axis",
    ),
    "systems that disagree": (_systems_disagree, InputValueError, "place them differently"),
    "an unknown scale": (_scale_unknown, InputValueError, "are unknown"),
    "tiles finer than the image": (_too_coarse, InputValueError, "fewer than half"),
}
"""What can be wrong: how a slide is spoiled, and the error and the words that it has to get."""
