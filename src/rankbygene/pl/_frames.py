"""Finding the slide that a picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rankbygene.base._setup import recall_setup
from rankbygene.data import SpatialSetup, resolve
from rankbygene.errors import InputKeyError, InputValueError

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from rankbygene.data import SpotFrame


def one_frame(sdata: SpatialData, *, table_key: str, region: str | None) -> SpotFrame:
    """Resolve one slide of ``sdata``, with what its set-up says of images and scale.

    Raises
    ------
    InputKeyError
        The table has no such region.
    InputValueError
        The table has several regions and none was named.
    """
    setup = replace(recall_setup(sdata, default=SpatialSetup()), table_key=table_key)
    frames = {frame.region: frame for frame in resolve(sdata, setup, counts=False)}
    return frames[choose_region(list(frames), table_key, region)]


def choose_region(regions: Sequence[str], table_key: str, region: str | None) -> str:
    """Return the region that was asked for, or the only one.

    Raises
    ------
    InputKeyError
        The table has no such region.
    InputValueError
        The table has several regions and none was named.
    """
    if region is None and len(regions) == 1:
        return regions[0]
    names = ", ".join(map(repr, regions))
    if region is None:
        msg = f"table {table_key!r} has several regions; pass region=... (one of {names})"
        raise InputValueError(msg)
    if region not in regions:
        msg = f"table {table_key!r} has no region {region!r}; it has {names}"
        raise InputKeyError(msg)
    return region
