"""Which image a region meets, and in which coordinate system."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from spatialdata import SpatialData
from spatialdata.transformations import get_transformation

from rankbygene.data.slides._affine import apply_affine, similarity_scale
from rankbygene.data.slides._images import (
    check_rgb_uint8,
    finest_level,
    level_shape,
    level_to_system,
    may_be_rgb,
)
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
# How `spatialdata_io` names the pictures of one Visium library, finest first. The last two are
# shrunk by Space Ranger, the instrument's own picture is of another light.
_FULL = "_full_image"
_DOWNSAMPLED = ("_hires_image", "_lowres_image")
_OF_A_LIBRARY = (_FULL, *_DOWNSAMPLED, "_cytassist_image")
# Two ways from a region to an image that part by more than this across the image are two
# alignments: pixels, and a share of its width for factors that were rounded when written.
_SAME_PLACE_PX = 1.0
_SAME_PLACE_SHARE = 1e-4


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
    """Find the image of a region, and the system in which they meet.

    An image is taken unasked only where no other could be meant, or where all others are smaller
    copies of it by the names that `spatialdata_io` gives the pictures of a Visium library. That
    images share a coordinate system, or that one of them is finer or holds all spots, does not
    say whose they are.

    Parameters
    ----------
    sdata
        The object that holds both.
    region
        Shapes or labels element.
    image_key
        Image to use; ``None`` takes the only one that shares a system.
    system
        Coordinate system to use; ``None`` takes one that both have.

    Raises
    ------
    InputKeyError
        A named image or system is absent.
    InputValueError
        No image shares a system with the region, none of them can be read as RGB, several could
        be meant, only Space Ranger's downsampled pictures are there and none was named, the shared
        systems place the region differently, or a transformation cannot carry square tiles.
    InputTypeError
        The pixels are not 8-bit.
    """
    shared = _shared_systems(sdata, region, image_key=image_key, system=system)
    if image_key is None:
        per_region = f"..., or image_key={{{region!r}: ...}} where there are several regions"
        image_key = only_image(sdata, list(shared), f"region {region!r}", per_region)
    else:
        check_rgb_uint8(sdata.images[image_key], image_key, named=True)
    return _meet(sdata, region, image_key, shared[image_key])


def only_image(sdata: SpatialData, keys: Sequence[str], what: str, example: str = "...") -> str:
    """Return the only image among some that can be meant where none was named.

    Parameters
    ----------
    sdata
        The object that holds them.
    keys
        Names of images, at least one.
    what
        What the image is for, as in ``region 'spots'``.
    example
        What can be passed as ``image_key``.

    Raises
    ------
    InputValueError, InputTypeError
        As for :func:`register`.
    """
    refused: dict[str, InputValueError | InputTypeError] = {}
    for key in keys:
        try:
            check_rgb_uint8(sdata.images[key], key)
        except (InputValueError, InputTypeError) as error:
            refused[key] = error
    usable = [key for key in keys if key not in refused]
    if not usable:
        if len(refused) == 1:
            raise next(iter(refused.values()))
        msg = "none of the images is 8-bit RGB: " + "; ".join(map(str, refused.values()))
        raise InputValueError(msg)
    # An H&E image in another format could be the one that was meant; other stains could not.
    likely = [key for key in refused if may_be_rgb(sdata.images[key])]
    chosen = usable[0] if len(usable) == 1 else _of_one_library(usable)
    if likely or chosen is None:
        sizes = [_described(sdata, key) for key in (*usable, *likely)]
        msg = (
            f"{len(sizes)} images could be that of {what}: {'; '.join(sizes)}. Which one it is, is not "
            f"guessed; pass image_key={example}"
        )
        raise InputValueError(msg)
    if chosen.endswith(_DOWNSAMPLED):
        msg = (
            f"the finest image of {what} is {chosen!r}, a downsampled picture of "
            "Space Ranger, which is not taken unasked; read the full-resolution image "
            f"(`fullres_image_file=...`), or pass image_key={chosen!r}"
        )
        raise InputValueError(msg)
    if len(keys) > 1:
        others = [key for key in keys if key != chosen]
        logger.info("%s: took the image %r (others: %s)", what, chosen, others)
    return chosen


def _of_one_library(keys: Sequence[str]) -> str | None:
    """Return the finest of several pictures of one Visium library; None if they are not that."""
    names = {
        suffix: key.removesuffix(suffix)
        for key in keys
        for suffix in _OF_A_LIBRARY
        if key.endswith(suffix)
    }
    if len(names) < len(keys) or len(set(names.values())) > 1:
        return None
    finest = next(suffix for suffix in _OF_A_LIBRARY if suffix in names)
    return names[finest] + finest


def _described(sdata: SpatialData, key: str) -> str:
    image = sdata.images[key]
    height, width = level_shape(image, 0)
    return f"{key!r} ({width:,} x {height:,} px, {finest_level(image).dtype})"


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


def _meet(sdata: SpatialData, region: str, image_key: str, systems: list[str]) -> Registration:
    # Systems shared by both differ by an affine map; pixels are the safer units to think in.
    pixels_first = sorted(systems, key=lambda system: system.lower() in MICROMETRE_SYSTEMS)
    found = [_meet_in(sdata, region, image_key, system) for system in pixels_first]
    _check_same_place(sdata, region, found)
    return found[0]


def _meet_in(sdata: SpatialData, region: str, image_key: str, system: str) -> Registration:
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


def _check_same_place(sdata: SpatialData, region: str, found: Sequence[Registration]) -> None:
    """Refuse systems that lead from a region to different pixels: one of them is not aligned."""
    first = found[0]
    height, width = level_shape(sdata.images[first.image_key], 0)
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    allowed = _SAME_PLACE_PX + _SAME_PLACE_SHARE * max(height, width)
    # Corners to the region by the first system, and back by each other one.
    to_region = np.linalg.inv(first.region_matrix) @ first.image_matrix
    for other in found[1:]:
        back = np.linalg.inv(other.image_matrix) @ other.region_matrix @ to_region
        moved = float(np.linalg.norm(apply_affine(back, corners) - corners, axis=1).max())
        if moved > allowed:
            systems = [registration.coordinate_system for registration in found]
            msg = (
                f"region {region!r} and image {first.image_key!r} share the systems {systems}, which "
                f"place them differently: {first.coordinate_system!r} and "
                f"{other.coordinate_system!r} differ by up to {moved:,.0f} px of the image. Pass "
                "coordinate_system=..., the one in which they are aligned"
            )
            raise InputValueError(msg)


def _checked_scale(matrix: NDArray[np.float64], place: str) -> float:
    try:
        return similarity_scale(matrix)
    except InputValueError as error:
        msg = f"from {place}: {error}"
        raise InputValueError(msg) from error
