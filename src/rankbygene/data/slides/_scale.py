"""Micrometres per unit of a coordinate system: where that is written, in order, and what is believed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from spatialdata import SpatialData

from rankbygene.data.slides._affine import MAX_ANISOTROPY, similarity_scale
from rankbygene.data.slides._images import level_to_system
from rankbygene.data.slides._pixel_size import check_um_per_px
from rankbygene.data.slides._registration import MICROMETRE_SYSTEMS, Registration, systems_of
from rankbygene.errors import InputValueError

logger = logging.getLogger("rankbygene")

# Distance of neighbouring Visium spots, and their printed diameter.
VISIUM_PITCH_UM = 100.0
VISIUM_SPOT_UM = 55.0
_LATTICE_TOLERANCE = 0.05
_DISAGREEMENT = 0.1
_EQUAL_RADII = 0.01


def micrometres_per_unit(
    sdata: SpatialData,
    registration: Registration,
    *,
    region: str,
    table: AnnData | None,
    um_per_px: float | None,
    centers: NDArray[np.float64],
    array_index: NDArray[np.int64] | None,
) -> tuple[float, str]:
    """Return micrometres per unit of the registration's system, and where they come from.

    Parameters
    ----------
    sdata, registration, region
        The slide.
    table
        Table of the region, if it has one.
    um_per_px
        What the user said of the finest level of the image; goes before everything else.
    centers
        Spot centres in the registration's system, ``[n, 2]``.
    array_index
        ``(array_row, array_col)`` of the spots, ``[n, 2]``.

    Raises
    ------
    InputValueError
        Nothing tells the scale, or it is one that no microscope has.
    """
    region_scale = similarity_scale(registration.region_matrix)
    looked: list[str] = []
    sources = (
        partial(_from_user, um_per_px, registration),
        partial(_from_system, sdata, registration, looked),
        partial(_from_table, table, region, region_scale, looked),
        partial(_from_lattice, centers, array_index, looked),
        partial(_from_diameter, sdata, region, region_scale, array_index, looked),
    )
    # A source is looked at only when those before it say nothing.
    for look in sources:
        found = look()
        if found is not None:
            per_unit, source = found
            # Units are those of the system; the bounds are those of pixels.
            check_um_per_px(per_unit * registration.image_scale, source)
            _compare_with_lattice(per_unit, source, centers, array_index, region)
            return per_unit, source
    msg = (
        f"micrometres per pixel of {registration.image_key!r} are unknown; looked at "
        f"{'; '.join(looked)}. Pass um_per_px=... (of the image's finest level)."
    )
    raise InputValueError(msg)


def _from_user(um_per_px: float | None, registration: Registration) -> tuple[float, str] | None:
    if um_per_px is None:
        return None
    value = check_um_per_px(um_per_px, "um_per_px")
    return value / registration.image_scale, f"um_per_px={value:g}"


def _from_system(
    sdata: SpatialData, registration: Registration, looked: list[str]
) -> tuple[float, str] | None:
    image = sdata.images[registration.image_key]
    systems = systems_of(image)
    found = {
        system: similarity_scale(level_to_system(image, 0, system))
        for system in systems
        if system.lower() in MICROMETRE_SYSTEMS
    }
    if not found:
        looked.append(f"the systems of the image ({systems}, none of them micrometres)")
        return None
    if max(found.values()) > min(found.values()) * MAX_ANISOTROPY:
        msg = (
            f"the systems of {registration.image_key!r} that are named after micrometres disagree: a "
            f"pixel is {found} wide; pass um_per_px=... (of the image's finest level)"
        )
        raise InputValueError(msg)
    system, um_per_px = next(iter(found.items()))
    source = f"coordinate system {system!r} of {registration.image_key!r}"
    return um_per_px / registration.image_scale, source


def _from_table(
    table: AnnData | None, region: str, region_scale: float, looked: list[str]
) -> tuple[float, str] | None:
    """Read Space Ranger's ``microns_per_pixel``, which counts the pixels the shapes are in."""
    libraries = {} if table is None else table.uns.get("spatial", {})
    values = dict(_microns_per_pixel(libraries))
    # A library that is called as another region is that region's.
    others = set() if table is None else set(_regions(table)) - {region}
    own = {values[region]} if region in values else {values[key] for key in set(values) - others}
    if len(own) != 1:
        looked.append(f"uns['spatial'] of the table (microns_per_pixel: {values or 'absent'})")
        return None
    source = "microns_per_pixel in uns['spatial'] of the table"
    return check_um_per_px(own.pop(), source) / region_scale, source


def _regions(table: AnnData) -> list[str]:
    regions = table.uns.get("spatialdata_attrs", {}).get("region", [])
    return [regions] if isinstance(regions, str) else list(regions)


def _microns_per_pixel(libraries: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(libraries, Mapping):
        return
    for name, library in libraries.items():
        factors = library.get("scalefactors", {}) if isinstance(library, Mapping) else {}
        value = factors.get("microns_per_pixel")
        if value is not None:
            yield str(name), value


def _from_lattice(
    centers: NDArray[np.float64], array_index: NDArray[np.int64] | None, looked: list[str]
) -> tuple[float, str] | None:
    if array_index is None:
        looked.append("array_row and array_col (absent)")
        return None
    pitch = hexagon_pitch(centers, array_index)
    if pitch is None:
        looked.append("array_row and array_col (not the hexagonal lattice of Visium)")
        return None
    return VISIUM_PITCH_UM / pitch, f"Visium lattice, neighbours {VISIUM_PITCH_UM:g} um apart"


def hexagon_pitch(centers: NDArray[np.float64], array_index: NDArray[np.int64]) -> float | None:
    """Return the distance of neighbours on a Visium lattice; ``None`` if it is not one.

    On that lattice ``array_row + array_col`` keeps its parity, neighbours in a row are two
    columns apart, and a row is as wide as ``sqrt(3)`` columns.
    """
    if len(np.unique(array_index.sum(axis=1) % 2)) != 1:
        return None
    design = np.column_stack([np.ones(len(array_index)), array_index])
    solution, _, rank, _ = np.linalg.lstsq(design, centers, rcond=None)
    if rank < 3:
        return None
    row, column = solution[1:]
    row_step, column_step = np.linalg.norm(row), np.linalg.norm(column)
    if min(row_step, column_step) == 0:
        return None
    stretch = row_step / (column_step * np.sqrt(3)) - 1
    skew = row @ column / (row_step * column_step)
    off = np.sqrt(np.mean(np.sum((design @ solution - centers) ** 2, axis=1))) / (2 * column_step)
    if max(abs(stretch), abs(skew), off) > _LATTICE_TOLERANCE:
        return None
    # Two columns apart within a row, one row and one column apart across rows: six in all.
    neighbours = [2 * column_step, np.linalg.norm(row + column), np.linalg.norm(row - column)]
    return float(np.mean(neighbours))


def _compare_with_lattice(
    per_unit: float,
    source: str,
    centers: NDArray[np.float64],
    array_index: NDArray[np.int64] | None,
    region: str,
) -> None:
    """Warn where the printed lattice contradicts what was believed."""
    printed = _from_lattice(centers, array_index, [])
    if printed is not None and abs(per_unit / printed[0] - 1) > _DISAGREEMENT:
        logger.warning(
            "region %r: by %s neighbouring spots are %.3g um apart, on a Visium slide they are %g; check "
            "which one is right, and pass um_per_px=...",
            region,
            source,
            VISIUM_PITCH_UM * per_unit / printed[0],
            VISIUM_PITCH_UM,
        )


def _from_diameter(
    sdata: SpatialData,
    region: str,
    region_scale: float,
    array_index: NDArray[np.int64] | None,
    looked: list[str],
) -> tuple[float, str] | None:
    """Take Visium circles as 55 um wide, where no lattice says it better."""
    reader = sdata.attrs.get("spatialdata_io_reader")
    if reader != "visium" or array_index is not None or region not in sdata.shapes:
        looked.append(f"the spots' diameter (known for the Visium reader only, found {reader!r})")
        return None
    shapes = sdata.shapes[region]
    radii = shapes["radius"].to_numpy(dtype=float) if "radius" in shapes else np.array([])
    if len(radii) == 0 or radii.max() > radii.min() * (1 + _EQUAL_RADII) or radii.min() <= 0:
        looked.append("the spots' diameter (sizes differ or are absent)")
        return None
    width = 2 * float(np.median(radii)) * region_scale
    return VISIUM_SPOT_UM / width, f"Visium spots, {VISIUM_SPOT_UM:g} um wide"
