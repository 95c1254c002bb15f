"""Slides of which there is no table: every element of a region is a spot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from spatialdata import SpatialData

from rankbygene._arguments import checked
from rankbygene._checks import check_sdata
from rankbygene.data.slides._frame import SpatialSetup, SpotFrame
from rankbygene.data.slides._known_scale import known_um_per_px
from rankbygene.data.slides._regions import check_region, region_centers
from rankbygene.data.slides._registration import register
from rankbygene.data.slides._samples import for_region, place
from rankbygene.errors import InputValueError

__all__ = ["frame_from_shapes"]


@checked
def frame_from_shapes(
    sdata: SpatialData,
    shapes_key: str,
    *,
    image_key: str | Mapping[str, str] | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | Mapping[str, float] | None = None,
    name: str | None = None,
) -> SpotFrame:
    """Place every element of a region, without a table; for prediction from the image alone.

    Parameters
    ----------
    sdata
        The object; it is not changed.
    shapes_key
        Shapes or labels element.
    image_key, coordinate_system
        As in :class:`SpatialSetup`.
    um_per_px
        As in :class:`SpatialSetup`; by default that of the spots which a table has on this image.
    name
        Name of the slide; the element's by default.

    Returns
    -------
    A frame whose rows are those of the element, with ``setup.table_key == ""``.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        As for :func:`resolve`.
    """
    check_sdata(sdata)
    check_region(sdata, shapes_key)
    ids, own_centers = region_centers(sdata, shapes_key)
    if len(ids) == 0:
        msg = f"{shapes_key!r} is empty; pass shapes or labels that hold elements"
        raise InputValueError(msg)
    image = for_region(image_key, shapes_key, "image_key")
    registration = register(sdata, shapes_key, image_key=image, system=coordinate_system)
    if um_per_px is None:
        um_per_px = known_um_per_px(sdata, registration.image_key)
    return place(
        sdata,
        SpatialSetup("", image_key, None, coordinate_system, None, um_per_px),
        registration,
        region=shapes_key,
        slide=shapes_key if name is None else name,
        patient=None,
        table=None,
        rows=np.arange(len(ids)),
        obs_names=ids.astype(str).to_numpy(dtype=object),
        instances=ids.to_numpy(),
        own_centers=own_centers,
    )
