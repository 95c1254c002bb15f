"""Compact parts of one slide, and the spots between them that belong to neither side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from rankbygene.data.expression._expression import Normalization, smoother
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data.slides._frame import SpotFrame

__all__ = ["buffer_between", "hold_out_block", "spatial_blocks"]

_LARGEST_SHARE = 0.5


def hold_out_block(
    frame: SpotFrame,
    share: float,
    rng: np.random.Generator,
    *,
    buffer_um: float | None,
    tile_um: float,
    normalization: Normalization,
) -> NDArray[np.str_]:
    """Label the spots of a slide of which one block is held out.

    Parameters
    ----------
    frame
        The spots of one slide.
    share
        Share of the spots in the block; the slide is cut into ``round(1 / share)`` blocks.
    rng
        Chooses the block.
    buffer_um, tile_um, normalization
        As in :func:`buffer_between`.

    Returns
    -------
    ``"train"``, ``"validation"`` or ``"buffer"`` for each spot ``[n_obs]``.

    Raises
    ------
    InputValueError
        If the share is more than one half, or no spot is left on a side.
    """
    if share > _LARGEST_SHARE:
        msg = (
            f"validation_size is {share}; of a single slide at most {_LARGEST_SHARE} can be held "
            "out as a block"
        )
        raise InputValueError(msg)
    n_blocks = round(1 / share)
    held = spatial_blocks(frame.centers_um, n_blocks) == rng.integers(n_blocks)
    buffer = np.zeros_like(held)
    if held.any():
        buffer = buffer_between(
            frame, held, buffer_um=buffer_um, tile_um=tile_um, normalization=normalization
        )
    n_train = np.count_nonzero(~held & ~buffer)
    if not held.any() or n_train == 0:
        msg = (
            f"slide {frame.slide!r} with {held.size} spots is too small for a spatial split: "
            f"{np.count_nonzero(held)} for validation, {np.count_nonzero(buffer)} in the buffer, "
            f"{n_train} for training; pass a smaller buffer_um or validation_size=0"
        )
        raise InputValueError(msg)
    return np.where(held, "validation", np.where(buffer, "buffer", "train"))


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
