"""Compact groups of points, whatever lattice they are on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["compact_groups", "halve", "tilted"]

# Largest angle, in radians: enough to move the far ends of a cut by several spots.
_TILT = 0.2


def compact_groups(
    points: NDArray[np.float64], size: int, rng: np.random.Generator | None = None
) -> list[NDArray[np.intp]]:
    """Cut points into compact groups of nearly equal size, by halving along the longer side.

    Parameters
    ----------
    points
        ``[n, 2]``.
    size
        Largest number of points in a group, up to rounding.
    rng
        Tilts the points a little first, so that every call cuts along other lines. Groups of a
        lattice are the most compact when it is cut nearly along its rows.

    Returns
    -------
    Rows of ``points`` per group; each row is in one group.
    """
    points = points if rng is None else tilted(points, rng)
    return halve(np.arange(len(points)), points, -(-len(points) // size))


def tilted(points: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Turn points by a small random angle."""
    angle = rng.uniform(-_TILT, _TILT)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    tilted: NDArray[np.float64] = points @ turn
    return tilted


def halve(
    rows: NDArray[np.intp], points: NDArray[np.float64], n_groups: int, size: int | None = None
) -> list[NDArray[np.intp]]:
    """Halve until there are so many groups, nearly equal, or of ``size`` but the last."""
    axis = np.ptp(points[rows], axis=0).argmax() if len(rows) else 0
    ordered = rows[np.argsort(points[rows, axis], kind="stable")]
    if n_groups <= 1:
        return [rows if size is None else ordered]
    first = n_groups // 2
    cut = round(len(rows) * first / n_groups) if size is None else first * size
    return [
        *halve(ordered[:cut], points, first, size),
        *halve(ordered[cut:], points, n_groups - first, size),
    ]
