"""The scale that an object's own spots give to an image, for calls that look at no table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from weakref import WeakKeyDictionary

from spatialdata import SpatialData

from rankbygene.data.slides._affine import MAX_ANISOTROPY, similarity_scale
from rankbygene.data.slides._frame import SpatialSetup, SpotFrame
from rankbygene.data.slides._images import level_to_system
from rankbygene.data.slides._samples import resolve
from rankbygene.errors import InputValueError, RankByGeneError

__all__ = ["SETUPS", "known_um_per_px"]

# What ``setup_spatialdata`` was told. Keyed by identity and weak: the user's object gets no extra
# key, and is freed when the user drops it.
SETUPS: WeakKeyDictionary[SpatialData, SpatialSetup] = WeakKeyDictionary()


def known_um_per_px(
    sdata: SpatialData, image_key: str, um_per_px: float | None = None
) -> float | None:
    """Return micrometres per pixel of an image's finest level: as passed, else as its spots have it.

    Tiles that no table holds are then cut at the scale of those that one does.

    Returns
    -------
    None where no spots are on the image; only its own systems may tell the scale then.

    Raises
    ------
    InputValueError
        The spots of several regions give the image different scales.
    """
    if um_per_px is not None:
        return um_per_px
    image = sdata.images[image_key]
    found = {
        frame.region: similarity_scale(level_to_system(image, 0, frame.coordinate_system))
        * frame.um_per_unit
        for frame in _placed(sdata)
        if frame.image_key == image_key
    }
    if not found:
        return None
    if max(found.values()) > min(found.values()) * MAX_ANISOTROPY:
        scales = ", ".join(f"{region!r}: {value:.4g}" for region, value in found.items())
        msg = (
            f"the spots on image {image_key!r} give it different micrometres per pixel ({scales}); pass "
            "um_per_px=... (of the image's finest level)"
        )
        raise InputValueError(msg)
    return next(iter(found.values()))


def _placed(sdata: SpatialData) -> Iterator[SpotFrame]:
    """Spots of the table that was set up, or of each that can be read without having been."""
    setup = SETUPS.get(sdata)
    if setup is not None:
        yield from resolve(sdata, replace(setup, patient_key=None), counts=False)
        return
    for table_key in sdata.tables:
        try:
            yield from resolve(sdata, SpatialSetup(table_key), counts=False)
        except RankByGeneError:
            continue
