"""Micrometres per pixel, as whoever may say them: the judgement that all of them go through."""

from __future__ import annotations

import math

import numpy as np

from rankbygene.data.slides._affine import MAX_ANISOTROPY
from rankbygene.errors import InputValueError

# An oil objective at 100x makes 0.05; the smallest pictures that Space Ranger keeps have up to 45.
MICROSCOPE_UM_PER_PX = (0.05, 50.0)


def check_um_per_px(value: object, source: str) -> float:
    """Return micrometres per pixel of an image's finest level, if a microscope can have made it.

    Every reader and every source goes through here, what the user says included.

    Parameters
    ----------
    value
        A number, or what stands in its place.
    source
        Where it is written, as in ``um_per_px`` or ``MPP of the Aperio description``.

    Raises
    ------
    InputValueError
        It is not a number, or outside of :data:`MICROSCOPE_UM_PER_PX`.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    low, high = MICROSCOPE_UM_PER_PX
    if isinstance(value, bool | np.bool_) or not low <= number <= high:
        found = repr(value) if isinstance(value, str | bool) else value
        msg = (
            f"micrometres per pixel must be a number from {low:g} to {high:g}, what microscopes and "
            f"slide scanners make; {source} says {found}. Pass the right um_per_px=... (of the "
            "image's finest level)."
        )
        raise InputValueError(msg)
    return number


def check_pixel_size(x: object, y: object, source: str) -> float:
    """Return micrometres per pixel where both axes are given; pixels have to be square.

    Raises
    ------
    InputValueError
        As for :func:`check_um_per_px`, or the axes differ by more than 1 %.
    """
    across, down = check_um_per_px(x, source), check_um_per_px(y, source)
    if max(across, down) > min(across, down) * MAX_ANISOTROPY:
        msg = (
            f"{source} says that pixels are {across:g} um wide and {down:g} um high, and tiles are "
            "square; resample the image, or pass the right um_per_px=... (of its finest level)"
        )
        raise InputValueError(msg)
    return math.sqrt(across * down)
