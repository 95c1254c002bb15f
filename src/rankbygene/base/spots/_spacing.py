"""How far apart the spots were that a model learned to look around from."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from rankbygene.data import spot_spacing

if TYPE_CHECKING:
    from rankbygene.data import SpotFrame

__all__ = ["mean_spacing", "warn_of_spacing"]


def mean_spacing(frames: Iterable[SpotFrame]) -> float:
    """Distance between neighbouring spots in micrometres, the mean over slides."""
    return float(np.nanmean([spot_spacing(frame.centers_um) for frame in frames]))


def warn_of_spacing(frame: SpotFrame, learned: float) -> None:
    """Say when neighbours are nearer or farther than those that the model learned from."""
    found = spot_spacing(frame.centers_um)
    if not (found > 1.5 * learned or learned > 1.5 * found):
        return
    text = (
        f"the spots of slide {frame.slide!r} are {found:.0f} um apart, those of training "
        f"{learned:.0f} um; neighbourhoods of another size shift predictions. Predict at shapes "
        "or with `predict_slide(step_um=...)` at about the spacing of training, or train a method that "
        "does not look at neighbours"
    )
    warnings.warn(text, UserWarning, stacklevel=2)
