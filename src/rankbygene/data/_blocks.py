"""Compact parts of one slide, and the spots between them that belong to neither side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from rankbygene.data._expression import Normalization, smoother

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data._frame import SpotFrame

__all__ = ["buffer_between", "spatial_blocks"]


def spatial_blocks(points: NDArray[np.float64], n_blocks: int) -> NDArray[np.intp]:
    """Cut points into compact blocks of equal size, give or take one point.

    The points are halved across their longer side, and the halves again, until there are enough
    blocks. The order of the points does not matter.

    Parameters
    ----------
    points
        Positions ``[n, 2]``.
    n_blocks
        Number of blocks.

    Returns
    -------
    Block of each point ``[n]``, counted from 0.
    """
    labels = np.zeros(len(points), dtype=np.intp)
    pending = [(np.arange(len(points)), 0, n_blocks)]
    while pending:
        rows, first, count = pending.pop()
        if count == 1 or rows.size == 0:
            labels[rows] = first
            continue
        axis = int(np.argmax(np.ptp(points[rows], axis=0)))
        rows = rows[np.lexsort((points[rows, 1 - axis], points[rows, axis]))]
        cut = round(rows.size * (count // 2) / count)
        pending.append((rows[:cut], first, count // 2))
        pending.append((rows[cut:], first + count // 2, count - count // 2))
    return labels


def buffer_between(
    frame: SpotFrame,
    held_out: NDArray[np.bool_],
    *,
    buffer_um: float | None,
    tile_um: float,
    normalization: Normalization,
) -> NDArray[np.bool_]:
    """Find the spots that share pixels or expression with held-out spots.

    Parameters
    ----------
    frame
        The spots of one slide.
    held_out
        Bool ``[n_obs]``.
    buffer_um
        Spots up to this distance from a held-out one, in micrometres. If None: spots whose tile
        can overlap that of a held-out spot, and spots whose smoothed expression uses a spot that
        a held-out spot uses as well.
    tile_um
        Width of a tile in micrometres.
    normalization
        Says how expression is smoothed.

    Returns
    -------
    Bool ``[n_obs]``, False for the held-out spots themselves.
    """
    # tiles follow the image's axes, which the coordinate system may turn: take their diagonal
    reach = np.sqrt(2) * tile_um if buffer_um is None else buffer_um
    tree = cKDTree(frame.centers_um[held_out])
    distance, _ = tree.query(frame.centers_um, k=1)
    near: NDArray[np.bool_] = distance <= reach
    operator = smoother(frame, normalization) if buffer_um is None else None
    if operator is not None:
        used = (operator.T @ held_out.astype(np.float64)) > 0
        near = near | ((operator @ used.astype(np.float64)) > 0)
    return near & ~held_out
