"""Covering the tissue of an image with tiles, where there are no spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import shapely
from spatialdata import SpatialData
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity, get_transformation

from rankbygene.data import frame_from_shapes
from rankbygene.data._geometry import similarity_scale
from rankbygene.data._images import finest_level, level_shape, level_to_system
from rankbygene.data._registration import only_image, systems_of
from rankbygene.data._samples import check_sdata
from rankbygene.errors import InputKeyError, InputValueError, OutputExistsError
from rankbygene.pp._mask import share_of_windows, tissue_mask

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

_PROBE = "tissue_tiles"


def tile_tissue(
    sdata: SpatialData,
    image_key: str | None = None,
    *,
    tile_um: float = 112.0,
    step_um: float | None = None,
    um_per_px: float | None = None,
    min_tissue: float = 0.25,
    key_added: str = "tissue_tiles",
    overwrite: bool = False,
) -> None:
    """Cover the tissue of an H&E image with square tiles and add them as shapes.

    Parameters
    ----------
    sdata
        Object that gets the new shapes, in memory.
    image_key
        H&E image; the only RGB image if None.
    tile_um
        Width of a tile in micrometres.
    step_um
        Distance of neighbouring tiles in micrometres; ``tile_um`` if None, so that they touch.
    um_per_px
        Micrometres per pixel of the image's finest level, where the image does not tell.
    min_tissue
        Share of a tile that has to be tissue, above 0 and up to 1.
    key_added
        Shapes that are written: squares with the column ``tissue``, the share of tissue in each.
        They have the transformations of the image.
    overwrite
        Whether shapes of that name may be replaced.

    Raises
    ------
    InputTypeError
        If something else than SpatialData is given, or the image is not 8-bit.
    InputKeyError
        If there is no such image.
    InputValueError
        If the scale is unknown, a parameter is out of range, or the image shows no tissue.
    OutputExistsError
        If the shapes exist and ``overwrite`` is False.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> slide = rbg.datasets.synthetic(n_slides=1, n_spots=60, n_genes=40, seed=0)[0]
    >>> rbg.pp.tile_tissue(slide, tile_um=200)
    >>> slide["tissue_tiles"].geometry.geom_type.unique().tolist()
    ['Polygon']
    """
    check_sdata(sdata)
    if key_added in sdata and not (overwrite and key_added in sdata.shapes):
        msg = (
            f"an element named {key_added!r} exists; pass another key_added, "
            "or overwrite=True to replace shapes of that name"
        )
        raise OutputExistsError(msg)
    _, tiles = find_tissue_tiles(
        sdata,
        image_key,
        tile_um=tile_um,
        step_um=step_um,
        um_per_px=um_per_px,
        min_tissue=min_tissue,
    )
    sdata.shapes[key_added] = tiles


def find_tissue_tiles(
    sdata: SpatialData,
    image_key: str | None = None,
    *,
    tile_um: float = 112.0,
    step_um: float | None = None,
    um_per_px: float | None = None,
    min_tissue: float = 0.25,
) -> tuple[str, GeoDataFrame]:
    """Cover the tissue of an H&E image with square tiles; ``sdata`` is not changed.

    Parameters
    ----------
    sdata, image_key, tile_um, step_um, um_per_px, min_tissue
        As in :func:`tile_tissue`.

    Returns
    -------
    Name of the image, and the squares in pixels of its finest level, row by row.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        As in :func:`tile_tissue`.
    """
    check_sdata(sdata)
    step_um = tile_um if step_um is None else step_um
    if not (tile_um > 0 and step_um > 0 and 0 < min_tissue <= 1):
        msg = (
            f"tile_um ({tile_um}) and step_um ({step_um}) have to be positive, "
            f"min_tissue ({min_tissue}) above 0 and at most 1"
        )
        raise InputValueError(msg)
    image_key, pixel_um = _image_and_scale(sdata, image_key, um_per_px)
    image = sdata.images[image_key]
    shape = level_shape(image, 0)
    side, step = tile_um / pixel_um, step_um / pixel_um
    mask = tissue_mask(image, side)
    rows, columns = (_starts(size, side, step) for size in shape)
    y0, x0 = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    share = share_of_windows(mask, x0, y0, side, shape)
    kept = share >= min_tissue
    if not kept.any():
        msg = (
            f"no tissue found in image {image_key!r}: of {len(kept)} tiles of {tile_um:g} um the "
            f"fullest is {share.max():.0%} tissue, {min_tissue:.0%} is asked for; check that it is "
            "an H&E image, lower min_tissue, or pass shapes of your own"
        )
        raise InputValueError(msg)
    squares = shapely.box(x0[kept], y0[kept], x0[kept] + side, y0[kept] + side)
    return image_key, ShapesModel.parse(
        gpd.GeoDataFrame({"tissue": share[kept]}, geometry=squares),
        transformations=dict(get_transformation(finest_level(image), get_all=True)),
    )


def _image_and_scale(
    sdata: SpatialData, image_key: str | None, um_per_px: float | None
) -> tuple[str, float]:
    """Choose the image as for spots, and find the micrometres per pixel of its finest level."""
    if image_key is None:
        if not sdata.images:
            msg = "there is no image in the SpatialData object; add one to find tissue in it"
            raise InputValueError(msg)
        image_key = only_image(sdata, list(sdata.images), "the slide")
    elif image_key not in sdata.images:
        msg = f"there is no image {image_key!r}; the images are {list(sdata.images)}"
        raise InputKeyError(msg)
    image = sdata.images[image_key]
    # Any system will do, for a single point that stands in for the spots.
    system = systems_of(image)[0]
    point = gpd.GeoDataFrame({"radius": [1.0]}, geometry=shapely.points([[0.0, 0.0]]))
    probe = ShapesModel.parse(point, transformations={system: Identity()})
    apart = SpatialData(images={image_key: image}, shapes={_PROBE: probe})
    frame = frame_from_shapes(apart, _PROBE, image_key=image_key, um_per_px=um_per_px)
    matrix = level_to_system(image, 0, system)
    return image_key, similarity_scale(matrix) * frame.um_per_unit


def _starts(size: int, side: float, step: float) -> NDArray[np.floating]:
    """First pixels of the tiles along one axis, with equal margins on both ends."""
    count = max(1, int((size - side) // step) + 1)
    covered = (count - 1) * step + side
    return (size - covered) / 2 + step * np.arange(count)
