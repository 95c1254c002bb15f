"""Whether the spots of a domain lie together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import KDTree

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics._inputs import as_matrix, group_codes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_MIN_DOMAIN = 3
# distances that are equal on the lattice differ by rounding of the positions
_TOLERANCE = 1e-6


@checked
def pas(labels: ArrayLike, positions: ArrayLike, n_neighbors: int = 10) -> float:
    """Proportion of abnormal spots: most of their neighbours are in another domain.

    A spot is abnormal where more than half of its ``n_neighbors`` nearest spots have another
    label :cite:p:`shang2022spatialpca,yuan2024sdmbench`. On a lattice several spots are equally far; all
    spots as near as the last neighbour are counted, which the published code leaves to chance.
    One domain for the whole slide scores 0, the best value: read it beside :func:`ari`.

    Parameters
    ----------
    labels
        Domain of each spot of one slide.
    positions
        ``[n_spots, 2]``, in any unit that is the same for both axes.
    n_neighbors
        Number of nearest spots.

    Returns
    -------
    Between 0 and 1; lower is smoother.

    Raises
    ------
    InputValueError
        If the lengths differ, a position is missing, or there are not more spots than neighbours.
    InputTypeError
        If the positions are not numbers.
    """
    codes, points = _check(labels, positions)
    if not 1 <= n_neighbors < len(points):
        msg = (
            f"n_neighbors is {n_neighbors}; from 1 to {len(points) - 1}, all other spots, is needed"
        )
        raise InputValueError(msg)
    tree = KDTree(points)
    farthest = tree.query(points, k=n_neighbors + 1)[0][:, -1]
    found = tree.query_ball_point(points, farthest * (1 + _TOLERANCE))
    n_found = np.array([len(near) for near in found])
    same = codes[np.concatenate(found).astype(np.int64)] == np.repeat(codes, n_found)
    n_same = np.add.reduceat(same, np.cumsum(n_found) - n_found)
    # a spot is among its own neighbours, with its own label
    return float(np.mean((n_found - n_same) * 2 > n_found - 1))


@checked
def chaos(labels: ArrayLike, positions: ArrayLike) -> float:
    r"""Mean distance from a spot to the nearest other spot of its domain.

    .. math:: \mathrm{CHAOS} = \frac{1}{n} \sum_{d : n_d > 2} \sum_{i \in d}
        \min_{j \in d, j \ne i} \| x_i - x_j \|

    with positions scaled to mean 0 and standard deviation 1 along each axis
    :cite:p:`shang2022spatialpca,yuan2024sdmbench`. As in the published code, domains of one or two spots
    add nothing to the sum, so scattered pairs look smooth. The value depends on the number of
    spots: compare clusterings of one slide only.

    Parameters
    ----------
    labels
        Domain of each spot of one slide.
    positions
        ``[n_spots, 2]``.

    Returns
    -------
    At least 0; lower is smoother.

    Raises
    ------
    InputValueError
        If the lengths differ or a position is missing.
    InputTypeError
        If the positions are not numbers.
    """
    codes, points = _check(labels, positions)
    spread = points.std(axis=0)
    points = (points - points.mean(axis=0)) / np.where(spread == 0, 1, spread)
    total = 0.0
    for domain in range(codes.max() + 1):
        members = points[codes == domain]
        if len(members) >= _MIN_DOMAIN:
            total += float(KDTree(members).query(members, k=2)[0][:, 1].sum())
    return total / len(points)


def _check(labels: ArrayLike, positions: ArrayLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
    points = as_matrix(positions, "positions")
    if np.isnan(points).any():
        msg = f"positions holds {np.isnan(points).sum()} NaN values; leave those spots out"
        raise InputValueError(msg)
    return group_codes(labels, len(points), "labels"), points
