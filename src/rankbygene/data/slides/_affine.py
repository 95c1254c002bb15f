"""Affine maps between regions, images and systems, and the one scale that they may have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rankbygene.errors import InputValueError

# Tiles are square both in pixels and in tissue, so the two axes must share one scale.
MAX_ANISOTROPY = 1.01


def similarity_scale(matrix: NDArray[np.float64]) -> float:
    """Return the one scale factor of a 3x3 affine map that rotates, flips, shifts and scales.

    Raises
    ------
    InputValueError
        The map is singular, shears, or scales its axes by factors more than 1 % apart.
    """
    large, small = stretches(matrix)
    if not np.isfinite(large) or small <= large * 1e-9:
        msg = f"the transformation is singular or not finite:\n{matrix}\nSet an invertible one."
        raise InputValueError(msg)
    if large > small * MAX_ANISOTROPY:
        msg = (
            f"the transformation stretches one axis {large / small:.3g} times as much as the other "
            f"(at most {MAX_ANISOTROPY} is allowed, tiles are square):\n{matrix}\n"
            "Resample the image to square pixels, or correct the transformation."
        )
        raise InputValueError(msg)
    return float(np.sqrt(large * small))


def apply_affine(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map points, ``[n, 2]``, by a 3x3 affine matrix."""
    moved: NDArray[np.float64] = points @ matrix[:2, :2].T + matrix[:2, 2]
    return moved


def stretches(matrix: NDArray[np.float64]) -> tuple[float, float]:
    """Return the largest and the smallest factor by which a map stretches; NaN if it is not finite."""
    if not np.isfinite(matrix).all():
        return np.nan, np.nan
    large, small = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    return float(large), float(small)
