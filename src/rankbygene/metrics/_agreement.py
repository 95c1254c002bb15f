"""Whether two representations order the same spots alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from scipy.stats import kendalltau

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics._correlation import pearson
from rankbygene.metrics._inputs import as_features, nanmean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class RankAgreement(NamedTuple):
    """How alike two representations order the other spots around each spot.

    Attributes
    ----------
    pearson
        Pearson correlation of the similarities, mean over spots; 0 for unrelated ones.
    accuracy
        Share of pairs of other spots that both put in the same order, mean over spots; 0.5 for
        unrelated ones. A tie in one of them counts one half.
    """

    pearson: float
    accuracy: float


@checked
def rank_agreement(
    first: ArrayLike,
    second: ArrayLike,
    *,
    metric: Literal["cosine", "precomputed"] = "cosine",
) -> RankAgreement:
    r"""Compare how two representations rank the neighbours of each spot.

    For the anchor :math:`p`, all pairs of other spots :math:`q \ne r` are compared:

    .. math:: \mathrm{sign}(S^A_{pq} - S^A_{pr}) = \mathrm{sign}(S^B_{pq} - S^B_{pr})

    The similarity of a spot with itself takes no part; it would raise the scores of unrelated
    representations far above chance. This measures what the ranking loss of RankByGene
    (arXiv:2411.15076) asks for.

    Parameters
    ----------
    first, second
        Features ``[n_spots, n_features]``, which may differ in width, or similarities
        ``[n_spots, n_spots]``.
    metric
        ``"cosine"`` for features, ``"precomputed"`` for similarities.

    Raises
    ------
    InputValueError
        If there are fewer than three spots, the shapes do not fit, or a value is missing.
    InputTypeError
        If the values are not numbers.
    """
    if metric not in ("cosine", "precomputed"):
        msg = f"metric is {metric!r}; allowed are 'cosine' and 'precomputed'"
        raise InputValueError(msg)
    a, b = as_features(first, second, ("first", "second"))
    if len(a) < 3:
        msg = f"there are {len(a)} spots; ranking others around a spot needs at least three"
        raise InputValueError(msg)
    if metric == "cosine":
        a, b = _cosine(a), _cosine(b)
    elif not a.shape == b.shape == (len(a), len(a)):
        msg = f"similarities have to be square; got the shapes {a.shape} and {b.shape}"
        raise InputValueError(msg)
    others = ~np.eye(len(a), dtype=bool)
    a, b = a[others].reshape(len(a), -1), b[others].reshape(len(b), -1)
    accuracy = np.mean([_same_order(x, y) for x, y in zip(a, b, strict=True)])
    return RankAgreement(float(nanmean(pearson(a.T, b.T))), float(accuracy))


def _cosine(features: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(length == 0, 1, length)
    return unit @ unit.T


def _same_order(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Share of pairs in the same order, from Kendall's tau-b without its correction for ties."""
    n_pairs = x.size * (x.size - 1) / 2
    untied_x, untied_y = n_pairs - _n_tied(x), n_pairs - _n_tied(y)
    if untied_x == 0 or untied_y == 0:
        return 0.5
    surplus = kendalltau(x, y).statistic * np.sqrt(untied_x) * np.sqrt(untied_y)
    return float((surplus / n_pairs + 1) / 2)


def _n_tied(values: NDArray[np.float64]) -> float:
    _, counts = np.unique(values, return_counts=True)
    return float(np.sum(counts * (counts - 1)) / 2)
