"""Whether clusters of image features are clusters of expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import homogeneity_completeness_v_measure

from rankbygene.errors import InputValueError
from rankbygene.metrics._inputs import as_features

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class VMeasure(NamedTuple):
    """Agreement of a clustering with reference labels, each between 0 and 1.

    Attributes
    ----------
    homogeneity
        1 if each cluster holds one label only.
    completeness
        1 if each label lies in one cluster only.
    v
        Harmonic mean of the two.
    """

    homogeneity: float
    completeness: float
    v: float


def v_measure(features: ArrayLike, expression: ArrayLike, k: int, seed: int = 0) -> VMeasure:
    """Cluster image features and expression apart, and compare the two clusterings.

    Both are clustered by K-means with the same number of clusters; the clusters of expression
    are the reference, as in figure 1 of RankByGene (arXiv:2411.15076). Use the spots of one
    slide.

    Parameters
    ----------
    features
        Image features ``[n_spots, n_features]``.
    expression
        Expression ``[n_spots, n_genes]``.
    k
        Number of clusters of each.
    seed
        Seed of K-means.

    Raises
    ------
    InputValueError
        If ``k`` is not between 2 and the number of spots, the numbers of spots differ, or a value
        is missing.
    InputTypeError
        If the values are not numbers.
    """
    matrices = as_features(features, expression, ("features", "expression"))
    n_spots = len(matrices[0])
    if not 2 <= k <= n_spots:
        msg = f"k is {k}; from 2 to the number of spots ({n_spots}) is needed"
        raise InputValueError(msg)
    found, reference = (k_means_labels(matrix, k, seed) for matrix in matrices)
    return v_measure_of_labels(reference, found)


def v_measure_of_labels(labels_true: ArrayLike, labels_pred: ArrayLike) -> VMeasure:
    r"""Compare a clustering with reference labels, such as annotated tissue regions.

    .. math:: h = 1 - \frac{H(C|K)}{H(C)}, \quad c = 1 - \frac{H(K|C)}{H(K)}, \quad
        v = \frac{2 h c}{h + c}

    with the entropies of the reference :math:`C` and the clusters :math:`K` (Rosenberg and
    Hirschberg, 2007). Names of labels and clusters do not matter.

    Parameters
    ----------
    labels_true
        Reference label of each spot.
    labels_pred
        Cluster of each spot.

    Raises
    ------
    InputValueError
        If there is not one label and one cluster for each spot.
    """
    true, pred = np.asarray(labels_true), np.asarray(labels_pred)
    if true.ndim != 1 or true.shape != pred.shape or true.size == 0:
        msg = f"the labels have the shapes {true.shape} and {pred.shape}; one per spot is needed"
        raise InputValueError(msg)
    return VMeasure(*map(float, homogeneity_completeness_v_measure(true, pred)))


def k_means_labels(matrix: NDArray[np.float64], k: int, seed: int) -> NDArray[np.int64]:
    """Cluster the rows of a matrix."""
    labels: NDArray[np.int64] = KMeans(k, n_init=10, random_state=seed).fit_predict(matrix)
    return labels
