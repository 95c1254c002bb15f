"""SpatialData to slides: tables joined to shapes, image and scale chosen, input checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from spatialdata import SpatialData

from rankbygene._arguments import checked
from rankbygene._checks import check_instance, check_sdata
from rankbygene.data.counts._counts import check_counts
from rankbygene.data.slides._affine import apply_affine
from rankbygene.data.slides._annotation import (
    Annotation,
    array_index_of,
    join,
    patient_of,
    read_annotation,
    region_rows,
)
from rankbygene.data.slides._frame import PlacedSetup, SpatialSetup, SpotFrame
from rankbygene.data.slides._regions import check_region, region_centers
from rankbygene.data.slides._registration import Registration, register
from rankbygene.data.slides._scale import micrometres_per_unit
from rankbygene.errors import InputKeyError, InputValueError, Problems

__all__ = [
    "for_region",
    "place",
    "resolve",
    "resolve_object",
]

T = TypeVar("T")


@checked
def resolve(
    sdata: SpatialData,
    setup: SpatialSetup = SpatialSetup(),
    *,
    name: str | None = None,
    counts: bool = True,
) -> list[SpotFrame]:
    """Find, check and place the spots of every region that a table annotates.

    Parameters
    ----------
    sdata
        The object; it is not changed, and no pixel of an image is read.
    setup
        Where to look.
    name
        Name of the slide, by default the region's. With several regions it is ``name-region``.
    counts
        Whether to check the count matrix as well.

    Returns
    -------
    One frame per region, in the order of ``table.uns["spatialdata_attrs"]["region"]``.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        Everything that was found wrong, in one report, with the type of the first problem.
    """
    return resolve_object(sdata, setup, name, counts, "" if name is None else f"slide {name!r}")


def resolve_object(
    sdata: SpatialData,
    setups: SpatialSetup | Callable[[SpatialData], SpatialSetup],
    name: str | None,
    counts: bool,
    place: str,
) -> list[SpotFrame]:
    """Resolve one object as :func:`resolve` does, and name the place in what is wrong with it."""
    problems = Problems(place)
    with problems.collect():
        check_sdata(sdata)
        setup = setups(sdata) if callable(setups) else setups
        check_instance(setup, "what setups gives for an object", SpatialSetup)
        annotation = read_annotation(sdata, setup.table_key)
    problems.raise_if_any()
    if counts:
        check_counts(annotation.table, setup.layer, problems)
    several = len(annotation.regions) > 1
    frames: list[SpotFrame] = []
    for region in annotation.regions:
        slide = region if name is None else f"{name}-{region}" if several else name
        frames += _resolve_region(sdata, setup, annotation, region, slide, problems)
    problems.raise_if_any()
    return frames


def _resolve_region(
    sdata: SpatialData,
    setup: SpatialSetup,
    annotation: Annotation,
    region: str,
    slide: str,
    problems: Problems,
) -> list[SpotFrame]:
    """Return the frame of a region, or nothing and what is wrong in ``problems``."""
    before = len(problems.found)
    patient = None
    with problems.collect():
        check_region(sdata, region)
        rows = region_rows(annotation, region)
        if setup.patient_key is not None:
            with problems.collect():
                patient = patient_of(annotation, region, rows, setup.patient_key)
        with problems.collect():
            ids, centers = region_centers(sdata, region)
            centers = centers[join(annotation, region, rows, ids)]
        with problems.collect():
            image_key = for_region(setup.image_key, region, "image_key")
            system = setup.coordinate_system
            registration = register(sdata, region, image_key=image_key, system=system)
        if len(problems.found) == before:
            frame = place(
                sdata,
                setup,
                registration,
                region=region,
                slide=slide,
                patient=patient,
                table=annotation.table,
                rows=rows,
                obs_names=annotation.table.obs_names.to_numpy(dtype=object)[rows],
                instances=annotation.instance_of_row[rows],
                own_centers=centers,
            )
            return [frame]
    return []


def place(
    sdata: SpatialData,
    setup: SpatialSetup,
    registration: Registration,
    *,
    region: str,
    slide: str,
    patient: str | None,
    table: AnnData | None,
    rows: NDArray[np.intp],
    obs_names: NDArray[np.object_],
    instances: NDArray[np.generic],
    own_centers: NDArray[np.float64],
) -> SpotFrame:
    """Move centres to the common system and find its scale; the frame is then complete."""
    centers = apply_affine(registration.region_matrix, own_centers)
    lost = np.flatnonzero(~np.isfinite(centers).all(axis=1))
    if len(lost):
        msg = (
            f"{len(lost):,} of {len(rows):,} elements of {region!r} have no finite centre "
            f"(first: {', '.join(str(instances[i]) for i in lost[:3])}); drop or mend them"
        )
        raise InputValueError(msg)
    array_index = None if table is None else array_index_of(table, rows)
    if isinstance(setup, PlacedSetup):
        um_per_unit, um_source = setup.um_per_unit, setup.um_source
    else:
        um_per_unit, um_source = micrometres_per_unit(
            sdata,
            registration,
            region=region,
            table=table,
            um_per_px=for_region(setup.um_per_px, region, "um_per_px"),
            centers=centers,
            array_index=array_index,
        )
    return SpotFrame(
        slide=slide,
        sdata=sdata,
        setup=setup,
        region=region,
        image_key=registration.image_key,
        coordinate_system=registration.coordinate_system,
        patient=patient,
        rows=rows,
        obs_names=obs_names,
        instances=instances,
        centers=centers,
        array_index=array_index,
        um_per_unit=um_per_unit,
        um_source=um_source,
    )


def for_region(value: T | Mapping[str, T] | None, region: str, argument: str) -> T | None:
    """Return what an argument says of one region, where it may say it of each."""
    if not isinstance(value, Mapping):
        return value
    if region not in value:
        msg = f"{argument} has no entry for region {region!r}; its keys are {list(value)}"
        raise InputKeyError(msg)
    return value[region]
