"""Which spots touch which: neighbour graphs over the spots of one slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data.slides._frame import SpotFrame

__all__ = [
    "LatticeKind",
    "lattice_kind",
    "local_places",
    "nearest_spots",
    "neighbour_graph",
    "smoothing_operator",
    "spot_spacing",
]

LatticeKind = Literal["grid8", "hex6", "checker8", "knn"]

# Steps in (array_row, array_col) from a spot to the spots around it.
_OFFSETS: dict[str, tuple[tuple[int, int], ...]] = {
    "grid8": ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)),
    "hex6": ((0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1)),
    "checker8": ((-1, -1), (-1, 1), (1, -1), (1, 1), (0, -2), (0, 2), (-2, 0), (2, 0)),
}
_REACH = 2
# Printed arrays are measured with the image's own distortion: a 2k array in the field has
# 1.11 where the drawing says 1, while a hexagon has sqrt(3) = 1.73.
_PITCH_TOLERANCE = 0.2
_MAX_RESIDUAL = 0.3
_MAX_COSINE = 0.1


@checked
def lattice_kind(frame: SpotFrame) -> LatticeKind:
    """Tell the lattice that the spots of a slide were printed on.

    The positions are fitted as an affine function of ``(array_row, array_col)``. Where row and
    column always have the same parity, the pitch of a row against that of a column tells the two
    printed layouts apart: ``sqrt(3)`` is the hexagon of Visium, 1 the diagonal square of 2k
    arrays.

    Parameters
    ----------
    frame
        The spots of one slide.

    Returns
    -------
    ``"grid8"`` for a square lattice, ``"hex6"`` for a hexagonal one, ``"checker8"`` for a square
    lattice that is turned by 45 degrees, and ``"knn"`` where there are no array indices or the
    positions do not follow them.
    """
    index = frame.array_index
    if index is None or frame.n_obs < 3 or _has_duplicates(index):
        return "knn"
    ratio = _pitch_ratio(index, frame.centers)
    if ratio is None:
        return "knn"
    is_square = abs(ratio - 1) <= _PITCH_TOLERANCE
    if np.unique(index.sum(axis=1) % 2).size > 1:
        return "grid8" if is_square else "knn"
    if is_square:
        return "checker8"
    return "hex6" if abs(ratio / np.sqrt(3) - 1) <= _PITCH_TOLERANCE else "knn"


@checked
def neighbour_graph(
    frame: SpotFrame,
    *,
    kind: Literal["auto", "grid8", "hex6", "checker8", "knn"] = "auto",
    n_neighbors: int = 8,
) -> sparse.csr_array:
    """Link every spot to the spots around it.

    Parameters
    ----------
    frame
        The spots of one slide.
    kind
        ``"grid8"``: the 3 x 3 window of the array indices. ``"hex6"``: ``(r, c +- 2)`` and
        ``(r +- 1, c +- 1)``. ``"checker8"``: ``(r +- 1, c +- 1)``, ``(r, c +- 2)`` and
        ``(r +- 2, c)``. ``"knn"``: the nearest spots in physical distance. ``"auto"``: what
        :func:`lattice_kind` finds.
    n_neighbors
        Neighbours of each spot when the kind is ``"knn"``; the other kinds do not use it.

    Returns
    -------
    Array of zeros and ones ``[n_obs, n_obs]``, float32, without the spot itself. It is symmetric
    except for ``"knn"``.

    Raises
    ------
    InputValueError
        If the kind is unknown, if a lattice is asked of spots without array indices or with two
        spots at one index, or if ``n_neighbors`` is less than one.
    """
    allowed = ("auto", *get_args(LatticeKind))
    if kind not in allowed:
        msg = f"unknown neighbourhood {kind!r}; allowed are {', '.join(allowed)}"
        raise InputValueError(msg)
    chosen = lattice_kind(frame) if kind == "auto" else kind
    if chosen == "knn":
        rows, columns = _nearest(frame.centers, n_neighbors)
    else:
        rows, columns = _on_lattice(_checked_index(frame, chosen), _OFFSETS[chosen])
    ones = np.ones(rows.size, dtype=np.float32)
    # The smallest type: scipy widens the other operand of a product in full, for every block of rows.
    index = sparse.get_index_dtype(maxval=max(frame.n_obs, rows.size))
    places = rows.astype(index), columns.astype(index)
    return sparse.csr_array((ones, places), shape=(frame.n_obs, frame.n_obs))


@checked
def smoothing_operator(graph: sparse.csr_array) -> sparse.csr_array:
    """Turn a neighbour graph into the mean over a spot and its present neighbours.

    Parameters
    ----------
    graph
        Zeros and ones ``[n_obs, n_obs]`` without a diagonal, from :func:`neighbour_graph`.

    Returns
    -------
    Array ``[n_obs, n_obs]``, float64, whose rows sum to one; its product with values
    ``[n_obs, n_genes]`` is the smoothed values.
    """
    with_self = graph.astype(np.float64) + sparse.eye_array(graph.shape[0], format="csr")
    return sparse.csr_array(sparse.diags_array(1.0 / with_self.sum(axis=1)) @ with_self)


@checked
def nearest_spots(centers: NDArray[np.float64], n: int = 9) -> NDArray[np.intp]:
    """List for every spot of a slide the spots around it, by distance.

    Nine spots are the 3 x 3 window of a square lattice; on a hexagon seven are the spot and its
    ring.

    Parameters
    ----------
    centers
        ``[n_obs, 2]``, x and y in any one unit.
    n
        Spots of a neighbourhood, the spot itself included.

    Returns
    -------
    Rows ``[n_obs, n]``: itself first, then the others from near to far, none twice; -1 where the
    slide has too few spots.

    Raises
    ------
    InputValueError
        ``n`` is less than one.
    """
    if n < 1:
        msg = f"a neighbourhood of {n} spots is asked for; at least 1, the spot itself, is needed"
        raise InputValueError(msg)
    n_obs = len(centers)
    index = np.full((n_obs, n), -1, dtype=np.intp)
    index[:, 0] = np.arange(n_obs)
    if n > 1 and n_obs > 1:
        _, others = _nearest(centers, n - 1)
        index[:, 1 : 1 + len(others) // n_obs] = others.reshape(n_obs, -1)
    return index


@checked
def spot_spacing(centers: NDArray[np.float64]) -> float:
    """Median distance of a spot ``[n_obs, 2]`` to the nearest other one; NaN for a single spot."""
    if len(centers) < 2:
        return float("nan")
    distances, _ = cKDTree(centers).query(centers, k=2)
    return float(np.median(distances[:, 1]))


@checked
def local_places(neighbours: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """List the different rows of neighbourhoods, and where each neighbour is in that list.

    Parameters
    ----------
    neighbours
        ``[B, n]``, rows, or -1 for a missing one.

    Returns
    -------
    rows
        ``[U]``, sorted.
    places
        ``[B, n]``: ``rows[places]`` is ``neighbours``, and -1 stays -1.
    """
    rows, inverse = np.unique(neighbours, return_inverse=True)
    n_missing = int(rows.size > 0 and rows[0] == -1)
    # -1 sorts first, takes place 0 and so becomes -1 again.
    return rows[n_missing:], inverse.reshape(neighbours.shape) - n_missing


def _pitch_ratio(index: NDArray[np.int64], centers: NDArray[np.float64]) -> float | None:
    """Length of a step in rows over a step in columns; None if that is not a right-angled lattice."""
    design = np.column_stack([np.ones(len(index)), index])
    coefficients, _, rank, _ = np.linalg.lstsq(design, centers, rcond=None)
    if rank < 3:
        return None
    row_step, column_step = coefficients[1:]
    row_pitch, column_pitch = np.linalg.norm(row_step), np.linalg.norm(column_step)
    shorter = min(row_pitch, column_pitch)
    residual = np.sqrt(np.mean(np.sum((design @ coefficients - centers) ** 2, axis=1)))
    if shorter == 0 or residual > _MAX_RESIDUAL * shorter:
        return None
    if abs(row_step @ column_step) > _MAX_COSINE * row_pitch * column_pitch:
        return None
    return float(row_pitch / column_pitch)


def _on_lattice(
    index: NDArray[np.int64], offsets: tuple[tuple[int, int], ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of spots whose indices differ by one of the offsets."""
    low = index.min(axis=0)
    # the margin keeps a step past the last column from landing on the next row
    width = int(index[:, 1].max() - low[1]) + 1 + 2 * _REACH
    keys = (index[:, 0] - low[0]) * width + (index[:, 1] - low[1])
    order = np.argsort(keys)
    ordered = keys[order]
    rows, columns = [], []
    for row_step, column_step in offsets:
        wanted = keys + row_step * width + column_step
        place = np.searchsorted(ordered, wanted).clip(max=len(ordered) - 1)
        found = np.flatnonzero(ordered[place] == wanted)
        rows.append(found)
        columns.append(order[place[found]])
    return np.concatenate(rows), np.concatenate(columns)


def _nearest(
    centers: NDArray[np.float64], n_neighbors: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of every spot with its nearest other spots."""
    if n_neighbors < 1:
        msg = f"n_neighbors is {n_neighbors}; at least 1 is needed"
        raise InputValueError(msg)
    n_obs = len(centers)
    k = min(n_neighbors, n_obs - 1)
    if k < 1:
        none = np.empty(0, dtype=np.intp)
        return none, none
    _, found = cKDTree(centers).query(centers, k=k + 1)
    itself: NDArray[Any] = found == np.arange(n_obs)[:, None]
    # where several spots share a position, a spot may be missing from its own list
    itself[~itself.any(axis=1), -1] = True
    return np.repeat(np.arange(n_obs), k), found[~itself].astype(np.intp)


def _checked_index(frame: SpotFrame, kind: str) -> NDArray[np.int64]:
    if frame.array_index is None:
        msg = (
            f"slide {frame.slide!r}: neighbourhood {kind!r} needs the columns 'array_row' and "
            "'array_col' in the table's obs; add them or use 'knn'"
        )
        raise InputValueError(msg)
    if _has_duplicates(frame.array_index):
        msg = (
            f"slide {frame.slide!r}: several spots have the same (array_row, array_col), so "
            f"neighbourhood {kind!r} is not defined; use 'knn'"
        )
        raise InputValueError(msg)
    return frame.array_index


def _has_duplicates(index: NDArray[np.int64]) -> bool:
    return len(np.unique(index, axis=0)) < len(index)
