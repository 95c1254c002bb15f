"""Whether an image finds its own expression among all others, and the reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics._inputs import as_features, check_same_rows, mean_over_groups

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_SIMILARITIES_AT_ONCE = 4_000_000
# cosines of equal vectors differ by rounding, and by where they stand in a matrix
_TOLERANCE = 1e-12


class RecallAtK(NamedTuple):
    """Share of spots whose partner is among the ``k`` most similar candidates.

    Attributes
    ----------
    image_to_gene
        The image asks, the expression of all spots is searched.
    gene_to_image
        The expression asks, the images are searched.
    """

    image_to_gene: float
    gene_to_image: float


@checked
def recall_at_k(
    image: ArrayLike, gene: ArrayLike, k: int = 5, groups: ArrayLike | None = None
) -> RecallAtK:
    r"""Retrieve the other modality of the same spot by cosine similarity.

    .. math:: \mathrm{R@}k = \frac{1}{n} \sum_i
        \left[\, |\{j \ne i : S_{ij} > S_{ii}\}| < k \,\right]

    Where others are as similar as the partner, the order among them is taken as random and the
    expected share is returned; an encoder that has collapsed to one point so scores the chance
    of :math:`k / n`. Chance depends on the number of candidates: compare equal numbers only.
    Similarities are computed in blocks of rows; no matrix of all pairs is held.

    Parameters
    ----------
    image, gene
        Features of the two modalities in their common space, ``[n_spots, n_features]``, row by
        row of the same spots.
    k
        Number of candidates that count as found.
    groups
        Slide of each spot. Candidates are then those of the same slide, and the result is the
        mean over slides; without it, telling slides apart already helps.

    Raises
    ------
    InputValueError
        If the shapes differ, a value is missing, or ``k`` is not between 1 and the number of
        spots of the smallest slide.
    InputTypeError
        If the values are not numbers.
    """
    check_same_rows(image=image, gene=gene, groups=groups)
    queries, targets = as_features(image, gene, ("image", "gene"))
    if queries.shape != targets.shape:
        msg = f"image has the shape {queries.shape} and gene {targets.shape}; they have to be equal"
        raise InputValueError(msg)

    def on_slide(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        if not 1 <= k <= len(a):
            msg = f"k is {k}; from 1 to the number of spots ({len(a)}) of every slide is needed"
            raise InputValueError(msg)
        return np.array([_recall(a, b, k), _recall(b, a, k)])

    scores = mean_over_groups(on_slide, (_unit(queries), _unit(targets)), groups)
    return RecallAtK(*map(float, scores))


def _recall(queries: NDArray[np.float64], targets: NDArray[np.float64], k: int) -> float:
    n = len(queries)
    step = max(1, _SIMILARITIES_AT_ONCE // n)
    found = 0.0
    for start in range(0, n, step):
        similarity = queries[start : start + step] @ targets.T
        rows = np.arange(len(similarity))
        own = similarity[rows, start + rows][:, None]
        n_better = np.sum(similarity > own + _TOLERANCE, axis=1)
        n_equal = np.sum(np.abs(similarity - own) <= _TOLERANCE, axis=1)
        found += float(np.sum(np.clip((k - n_better) / n_equal, 0, 1)))
    return found / n


def _unit(features: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length == 0, 1, length)
