"""Tiles of a slide between files, which count pixels, and SpatialData, which has shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity, get_transformation

from rankbygene.data.slides._affine import apply_affine, similarity_scale
from rankbygene.data.slides._annotation import join, read_annotation, region_rows
from rankbygene.data.slides._images import level_shape
from rankbygene.data.slides._pixel_size import check_um_per_px
from rankbygene.data.slides._regions import check_region, region_centers
from rankbygene.data.slides._registration import register, systems_of
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.io._assemble import element_name, pixel_systems

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata.transformations import BaseTransformation

_EQUAL_SIDES = 0.01


@dataclass(frozen=True, eq=False)
class Tiles:
    """Where the tiles of a table lie on the slide.

    Parameters
    ----------
    rows
        Rows of the table, ``[n]``.
    centers
        Centres x and y in pixels of the image's finest level, ``[n, 2]``.
    side
        Width of a tile in these pixels.
    shape
        Height and width of the image, if there is one.
    """

    rows: NDArray[np.intp]
    centers: NDArray[np.float64]
    side: float
    shape: tuple[int, int] | None


def slide_tiles(
    name: str,
    corners: NDArray[np.float64],
    side: float,
    obsm: Mapping[str, NDArray[np.float32]],
    *,
    uns: Mapping[str, Any],
    um_per_px: float | None,
) -> SpatialData:
    """Put squares on a slide and a table that annotates them.

    Raises
    ------
    InputValueError
        A size is not positive, or a corner is not finite.
    """
    if not (np.isfinite(side) and side > 0):
        msg = f"patch_size must be a positive number, found {side}"
        raise InputValueError(msg)
    if not np.isfinite(corners).all():
        msg = f"coordinates of the tiles of {name!r} are not finite"
        raise InputValueError(msg)
    systems: dict[str, BaseTransformation] = {"global": Identity()}
    if um_per_px is not None:
        systems = pixel_systems(check_um_per_px(um_per_px, "um_per_px"))
    region = f"{element_name(name)}_tiles"
    x, y = corners.T
    squares = ShapesModel.parse(
        gpd.GeoDataFrame(geometry=shapely.box(x, y, x + side, y + side)), transformations=systems
    )
    obs = pd.DataFrame(
        {"region": pd.Categorical([region] * len(x)), "instance_id": squares.index},
        index=squares.index.astype(str),
    )
    table = ad.AnnData(obs=obs, obsm={**obsm, "spatial": corners + side / 2}, uns=dict(uns))
    table = TableModel.parse(table, region=region, region_key="region", instance_key="instance_id")
    return SpatialData(shapes={region: squares}, tables={"table": table})


def tiles_of_table(
    sdata: SpatialData,
    table_key: str,
    region: str | None,
    image_key: str | None,
    patch_size: float | None,
) -> Tiles:
    """Find the tiles that the rows of a table are, in pixels of the image.

    Raises
    ------
    InputKeyError, InputValueError
        The table or its region is not there, or the width of the tiles is unknown.
    """
    annotation = read_annotation(sdata, table_key)
    region = _one_region(annotation.regions, region, table_key)
    check_region(sdata, region)
    rows = region_rows(annotation, region)
    ids, centers = region_centers(sdata, region)
    places = join(annotation, region, rows, ids)
    matrix, shape = _to_pixels(sdata, region, image_key)
    if patch_size is None:
        side = _side(sdata, region, places) * similarity_scale(matrix)
    else:
        side = float(patch_size)
    return Tiles(rows, apply_affine(matrix, centers[places]), side, shape)


def _one_region(regions: list[str], region: str | None, table_key: str) -> str:
    if region is None and len(regions) == 1:
        return regions[0]
    if region not in regions:
        msg = f"table {table_key!r} has the regions {regions}; pass one of them as region=..., found {region!r}"
        raise InputKeyError(msg)
    return region


def _to_pixels(
    sdata: SpatialData, region: str, image_key: str | None
) -> tuple[NDArray[np.float64], tuple[int, int] | None]:
    """Return the matrix from a region's own units to pixels of the image, and the image's size."""
    if sdata.images:
        met = register(sdata, region, image_key=image_key, system=None)
        matrix = np.linalg.inv(met.image_matrix) @ met.region_matrix
        return matrix, level_shape(sdata.images[met.image_key], 0)
    if "global" not in systems_of(sdata[region]):
        msg = f"there is no image, and region {region!r} has no system 'global'; add the image"
        raise InputValueError(msg)
    transformation = get_transformation(sdata[region], to_coordinate_system="global")
    return transformation.to_affine_matrix(("x", "y"), ("x", "y")), None


def _side(sdata: SpatialData, region: str, places: NDArray[np.intp]) -> float:
    """Width of the squares in their own units."""
    shapes = sdata.shapes.get(region)
    if shapes is None or (shapes.geom_type == "Point").any():
        msg = f"region {region!r} holds no squares, which would tell the width of a tile; pass patch_size=..."
        raise InputValueError(msg)
    sides = np.sqrt(shapes.geometry.iloc[places].area.to_numpy())
    if not sides.max() <= sides.min() * (1 + _EQUAL_SIDES):
        msg = f"tiles in {region!r} are {sides.min():g} to {sides.max():g} wide; pass patch_size=... for all"
        raise InputValueError(msg)
    return float(np.median(sides))
