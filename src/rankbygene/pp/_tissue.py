"""Covering the tissue of an image with tiles, where there are no spots."""

from __future__ import annotations

import logging
import sys
from numbers import Integral
from typing import TYPE_CHECKING, Literal

import geopandas as gpd
import numpy as np
import shapely
from spatialdata import SpatialData
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity, get_transformation

from rankbygene._arguments import checked
from rankbygene._checks import check_sdata
from rankbygene.data import frame_from_shapes
from rankbygene.data.slides._affine import similarity_scale
from rankbygene.data.slides._images import finest_level, level_shape, level_to_system
from rankbygene.data.slides._known_scale import known_um_per_px
from rankbygene.data.slides._registration import only_image, systems_of
from rankbygene.errors import InputKeyError, InputValueError, OutputExistsError
from rankbygene.pp._mask import (
    number_in_windows,
    share_of_windows,
    tissue_mask,
    tissue_pieces,
)

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

logger = logging.getLogger("rankbygene")

_PROBE = "tissue_tiles"
# Pieces smaller than a tile, or than one of 112 um where tiles are wider, are crumbs.
_CRUMB_UM2 = 112.0**2


@checked
def tile_tissue(
    sdata: SpatialData,
    image_key: str | None = None,
    *,
    tile_um: float = 112.0,
    step_um: float | None = None,
    um_per_px: float | None = None,
    min_tissue: float = 0.25,
    pieces: Literal["all", "largest"] | int = "all",
    min_area_um2: float | None = None,
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
        Micrometres per pixel of the image's finest level; by default as the spots on it have it, else as
        the image tells.
    min_tissue
        Share of a tile that has to be tissue, above 0 and up to 1.
    pieces
        Which separate pieces of tissue are covered: all, the largest, or so many of the largest. How
        many were found, and how large they are, is logged. A picture within the picture, or another
        section, is a piece of its own.
    min_area_um2
        Smallest area of a piece in square micrometres; that of a tile if None, and at most that of
        one of 112 um.
    key_added
        Shapes that are written: squares with the columns ``tissue``, the share of tissue in each,
        and ``piece``, the number of the piece that most of it belongs to, the largest piece being 1.
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
        pieces=pieces,
        min_area_um2=min_area_um2,
    )
    sdata.shapes[key_added] = tiles


@checked
def find_tissue_tiles(
    sdata: SpatialData,
    image_key: str | None = None,
    *,
    tile_um: float = 112.0,
    step_um: float | None = None,
    um_per_px: float | None = None,
    min_tissue: float = 0.25,
    pieces: Literal["all", "largest"] | int = "all",
    min_area_um2: float | None = None,
) -> tuple[str, GeoDataFrame]:
    """Cover the tissue of an H&E image with square tiles; ``sdata`` is not changed.

    Parameters
    ----------
    sdata, image_key, tile_um, step_um, um_per_px, min_tissue, pieces, min_area_um2
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
    smallest_is_fit = min_area_um2 is None or 0 <= min_area_um2 < np.inf
    if not (tile_um > 0 and step_um > 0 and 0 < min_tissue <= 1 and smallest_is_fit):
        msg = (
            f"tile_um ({tile_um}) and step_um ({step_um}) have to be positive, "
            f"min_tissue ({min_tissue}) above 0 and at most 1, min_area_um2 ({min_area_um2}) at least 0"
        )
        raise InputValueError(msg)
    most = _how_many(pieces)
    image_key, pixel_um = _image_and_scale(sdata, image_key, um_per_px)
    image = sdata.images[image_key]
    shape = level_shape(image, 0)
    side, step = tile_um / pixel_um, step_um / pixel_um
    mask = tissue_mask(image, side)
    sample_um2 = pixel_um**2 * shape[0] * shape[1] / mask.size
    smallest = min_area_um2
    if smallest is None:
        smallest = min(tile_um**2, _CRUMB_UM2)
    numbers = tissue_pieces(mask, min_samples=smallest / sample_um2)
    numbers = _largest_pieces(numbers, most, image_key, sample_um2)
    rows, columns = (_starts(size, side, step) for size in shape)
    y0, x0 = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    share = share_of_windows(numbers > 0, x0, y0, side, shape)
    kept = share >= min_tissue
    if not kept.any():
        msg = (
            f"no tissue found in image {image_key!r}: of {len(kept)} tiles of {tile_um:g} um the "
            f"fullest is {share.max():.0%} tissue, {min_tissue:.0%} is asked for; check that it is "
            "an H&E image, lower min_tissue or min_area_um2, or pass shapes of your own"
        )
        raise InputValueError(msg)
    x0, y0 = x0[kept], y0[kept]
    squares = shapely.box(x0, y0, x0 + side, y0 + side)
    columns_of_tiles = {
        "tissue": share[kept],
        "piece": number_in_windows(numbers, x0, y0, side, shape),
    }
    return image_key, ShapesModel.parse(
        gpd.GeoDataFrame(columns_of_tiles, geometry=squares),
        transformations=dict(get_transformation(finest_level(image), get_all=True)),
    )


def _how_many(pieces: object) -> int:
    if pieces == "all":
        return sys.maxsize
    if pieces == "largest":
        return 1
    if isinstance(pieces, Integral) and not isinstance(pieces, bool) and int(pieces) >= 1:
        return int(pieces)
    msg = f"pieces must be 'all', 'largest' or a number from 1, found {pieces!r}"
    raise InputValueError(msg)


def _largest_pieces(
    numbers: NDArray[np.int32], most: int, image_key: str, sample_um2: float
) -> NDArray[np.int32]:
    """Keep the largest pieces, and say how many there are."""
    areas = np.bincount(numbers.ravel())[1:] * sample_um2 / 1e6
    found = len(areas)
    if found > 1:
        sizes = ", ".join(f"{area:.2g}" for area in areas[:5]) + (", ..." if found > 5 else "")
        logger.warning(
            "image %r shows %d separate pieces of tissue (%s mm2), of which %d are covered; "
            "`rankbygene.pp.tile_tissue(pieces=...)` chooses",
            image_key,
            found,
            sizes,
            min(found, most),
        )
    return np.where(numbers <= most, numbers, 0).astype(np.int32)


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
    um_per_px = known_um_per_px(sdata, image_key, um_per_px)
    frame = frame_from_shapes(apart, _PROBE, image_key=image_key, um_per_px=um_per_px)
    matrix = level_to_system(image, 0, system)
    return image_key, similarity_scale(matrix) * frame.um_per_unit


def _starts(size: int, side: float, step: float) -> NDArray[np.floating]:
    """First pixels of the tiles along one axis, with equal margins on both ends."""
    count = max(1, int((size - side) // step) + 1)
    covered = (count - 1) * step + side
    return (size - covered) / 2 + step * np.arange(count)
