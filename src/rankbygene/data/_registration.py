"""Which image a region meets, and in which coordinate system."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from spatialdata import SpatialData
from spatialdata.transformations import get_transformation

from rankbygene.data._geometry import similarity_scale
from rankbygene.data._images import check_rgb_uint8, level_to_system
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError

logger = logging.getLogger("rankbygene")

MICROMETRE_SYSTEMS = frozenset(
    {
        "um",
        "µm",  # micro sign
        "μm",  # Greek mu
        "micron",
        "microns",
        "micrometer",
        "micrometers",
        "micrometre",
        "micrometres",
    }
)
# How `spatialdata_io` names the two pictures that Space Ranger shrinks.
_DOWNSAMPLED = ("_hires_image", "_lowres_image")
# Two images whose pixels differ by less than this in width are the same one for our purpose.
_EQUAL_WIDTH = 1e-3


@dataclass(frozen=True, eq=False)
class Registration:
    """An image and a region brought together in one coordinate system.

    Parameters
    ----------
    image_key, coordinate_system
        Names of the image and of the system.
    region_matrix, image_matrix
        3x3 matrices to the system: from the region's own units, from pixels of the finest level.
    image_scale
        Units of the system per pixel of the finest level.
    """

    image_key: str
    coordinate_system: str
    region_matrix: NDArray[np.float64]
    image_matrix: NDArray[np.float64]
    image_scale: float


def systems_of(element: Any) -> list[str]:
    """Return the coordinate systems an element has a transformation to."""
    return list(get_transformation(element, get_all=True))


def register(
    sdata: SpatialData, region: str, *, image_key: str | None, system: str | None
) -> Registration:
    """Choose the image for a region, and the system in which they meet.

    Parameters
    ----------
    sdata
        The object that holds both.
    region
        Shapes or labels element.
    image_key
        Image to use; ``None`` takes the finest 8-bit RGB image that shares a system.
    system
        Coordinate system to use; ``None`` takes one that both have.

    Raises
    ------
    InputKeyError
        A named image or system is absent.
    InputValueError
        No image shares a system with the region, none of them can be read as RGB, two are
        equally fine, only Space Ranger's downsampled pictures are there and none was named, or a
        transformation cannot carry square tiles.
    InputTypeError
        The pixels are not 8-bit.
    """
    shared = _shared_systems(sdata, region, image_key=image_key, system=system)
    usable = _usable_images(sdata, shared)
    found = [_meet(sdata, region, key, systems) for key, systems in shared.items() if key in usable]
    chosen = _finest(found, region)
    if image_key is None and chosen.image_key.endswith(_DOWNSAMPLED):
        msg = (
            f"the finest image of region {region!r} is {chosen.image_key!r}, a downsampled picture of "
            "Space Ranger, which is not taken unasked; read the full-resolution image "
            f"(`fullres_image_file=...`), or pass image_key={chosen.image_key!r}"
        )
        raise InputValueError(msg)
    return chosen


def _shared_systems(
    sdata: SpatialData, region: str, *, image_key: str | None, system: str | None
) -> dict[str, list[str]]:
    """Return the systems each candidate image shares with the region, images with none left out."""
    own = systems_of(sdata[region])
    if system is not None and system not in own:
        msg = f"region {region!r} has no coordinate system {system!r}; it has {own}"
        raise InputKeyError(msg)
    if image_key is not None and image_key not in sdata.images:
        msg = f"there is no image {image_key!r}; the images are {list(sdata.images)}"
        raise InputKeyError(msg)
    keys = list(sdata.images) if image_key is None else [image_key]
    theirs = {key: systems_of(sdata.images[key]) for key in keys}
    wanted = own if system is None else [system]
    shared = {key: [s for s in wanted if s in theirs[key]] for key in keys}
    shared = {key: systems for key, systems in shared.items() if systems}
    if not shared:
        msg = (
            f"no image shares a coordinate system with region {region!r}, which is in {wanted}; "
            f"images and their systems: {theirs}. Add an image, or a transformation with "
            "`spatialdata.transformations.set_transformation`."
        )
        raise InputValueError(msg)
    return shared


def _usable_images(sdata: SpatialData, shared: dict[str, list[str]]) -> set[str]:
    """Return the names of the 8-bit RGB images; an error of their own where there are none."""
    usable, refused = set(), []
    for key in shared:
        try:
            check_rgb_uint8(sdata.images[key], key)
            usable.add(key)
        except (InputValueError, InputTypeError) as error:
            refused.append(error)
    if not usable:
        if len(refused) == 1:
            raise refused[0]
        msg = "none of the images is 8-bit RGB: " + "; ".join(str(error) for error in refused)
        raise InputValueError(msg)
    return usable


def _meet(sdata: SpatialData, region: str, image_key: str, systems: list[str]) -> Registration:
    # Systems shared by both differ by an affine map; pixels are the safer units to think in.
    system = next((s for s in systems if s.lower() not in MICROMETRE_SYSTEMS), systems[0])
    transformation = get_transformation(sdata[region], to_coordinate_system=system)
    region_matrix = transformation.to_affine_matrix(("x", "y"), ("x", "y"))
    image_matrix = level_to_system(sdata.images[image_key], 0, system)
    scale = _checked_scale(image_matrix, f"image {image_key!r} to system {system!r}")
    _checked_scale(region_matrix, f"region {region!r} to system {system!r}")
    return Registration(
        image_key=image_key,
        coordinate_system=system,
        region_matrix=region_matrix,
        image_matrix=image_matrix,
        image_scale=scale,
    )


def _checked_scale(matrix: NDArray[np.float64], place: str) -> float:
    try:
        return similarity_scale(matrix)
    except InputValueError as error:
        msg = f"from {place}: {error}"
        raise InputValueError(msg) from error


def _finest(found: list[Registration], region: str) -> Registration:
    # Widths are compared in the region's own units, since images may meet it in several systems.
    widths = [r.image_scale / similarity_scale(r.region_matrix) for r in found]
    best = int(np.argmin(widths))
    ties = [r.image_key for r, w in zip(found, widths, strict=True) if _equal(w, widths[best])]
    if len(ties) > 1:
        msg = f"the images {ties} are equally fine for region {region!r}; pass image_key=..."
        raise InputValueError(msg)
    if len(found) > 1:
        others = [r.image_key for r in found if r is not found[best]]
        logger.info(
            "region %r: took the finest image %r (others: %s)",
            region,
            found[best].image_key,
            others,
        )
    return found[best]


def _equal(width: float, smallest: float) -> bool:
    return width <= smallest * (1 + _EQUAL_WIDTH)
