"""Whether spots that are far apart in expression are far apart in the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics._correlation import pearson
from rankbygene.metrics._inputs import as_features

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@checked
def distance_r2(
    features: ArrayLike,
    expression: ArrayLike,
    *,
    metric: Literal["cosine", "euclidean"] = "cosine",
    n_pairs: int = 100,
    seed: int = 0,
) -> float:
    """Share of the variance of image distances that gene distances explain linearly.

    Pairs of spots are drawn at random without repetition; the result is the squared Pearson
    correlation of their two distances, as in figure 4 of RankByGene (arXiv:2411.15076), which
    does not name the distance.

    Parameters
    ----------
    features
        Image features ``[n_spots, n_features]``.
    expression
        Gene features or expression ``[n_spots, n_genes]``.
    metric
        Distance of two spots, used for both.
    n_pairs
        Number of pairs; all of them where there are fewer.
    seed
        Seed of the draw.

    Returns
    -------
    Between 0 and 1; NaN if all distances of one kind are equal.

    Raises
    ------
    InputValueError
        If there are fewer than three spots or pairs, the numbers of spots differ, or a value is
        missing.
    InputTypeError
        If the values are not numbers.
    """
    image, genes = sampled_distances(
        features, expression, metric=metric, n_pairs=n_pairs, seed=seed
    )
    return r_squared(image, genes)


def sampled_distances(
    features: ArrayLike,
    expression: ArrayLike,
    *,
    metric: Literal["cosine", "euclidean"],
    n_pairs: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the pairs of :func:`distance_r2` and give their image and their gene distances."""
    if metric not in ("cosine", "euclidean"):
        msg = f"metric is {metric!r}; allowed are 'cosine' and 'euclidean'"
        raise InputValueError(msg)
    image, genes = as_features(features, expression, ("features", "expression"))
    if len(image) < 3 or n_pairs < 3:
        msg = f"a fit needs at least 3 pairs of 3 spots; there are {n_pairs} of {len(image)}"
        raise InputValueError(msg)
    left, right = _draw_pairs(len(image), n_pairs, seed)
    return _distance(image[left], image[right], metric), _distance(
        genes[left], genes[right], metric
    )


def r_squared(image: NDArray[np.float64], genes: NDArray[np.float64]) -> float:
    """Squared Pearson correlation of two kinds of distance."""
    return float(pearson(image, genes)[0] ** 2)


def _draw_pairs(
    n_spots: int, n_pairs: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw pairs of different spots, each at most once."""
    # pairs are numbered row by row through the upper triangle
    ends = np.cumsum(np.arange(n_spots - 1, 0, -1))
    rng = np.random.default_rng(seed)
    numbers = rng.choice(int(ends[-1]), size=min(n_pairs, int(ends[-1])), replace=False)
    left = np.searchsorted(ends, numbers, side="right")
    return left, numbers - ends[left] + n_spots


def _distance(
    left: NDArray[np.float64], right: NDArray[np.float64], metric: str
) -> NDArray[np.float64]:
    if metric == "euclidean":
        return np.asarray(np.linalg.norm(left - right, axis=1))
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    # a spot without direction has no cosine distance; its pairs are left out
    lengths[lengths == 0] = np.nan
    return np.asarray(1 - np.sum(left * right, axis=1) / lengths)
