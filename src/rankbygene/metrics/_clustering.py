"""Whether a clustering agrees with reference labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_rand_score,
    homogeneity_completeness_v_measure,
    normalized_mutual_info_score,
)

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics._inputs import as_features, as_labels

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


@checked
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


@checked
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
        If there is not one label and one cluster for each spot, or a label is missing.
    """
    labels = _check_labels(labels_true, labels_pred)
    return VMeasure(*map(float, homogeneity_completeness_v_measure(*labels)))


@checked
def ari(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Adjusted Rand index: pairs of spots that both put together or apart, above chance.

    The index of Hubert and Arabie :cite:p:`hubert1985comparing`, as in scikit-learn. It weighs a
    domain by the square of its size; small domains hardly count.

    Parameters
    ----------
    labels_true
        Reference label of each spot. Leave out spots without one.
    labels_pred
        Cluster of each spot.

    Returns
    -------
    1 for equal partitions, 0 on average for random ones, at least -0.5.

    Raises
    ------
    InputValueError
        If there is not one label and one cluster for each spot, or a label is missing.
    """
    return float(adjusted_rand_score(*_check_labels(labels_true, labels_pred)))


@checked
def nmi(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Normalised mutual information of labels and clusters :cite:p:`strehl2002cluster`.

    Mutual information over the arithmetic mean of the two entropies, as in scikit-learn, which is
    the ``v`` of :func:`v_measure_of_labels`. It is not adjusted for chance: many small clusters
    score well above 0 by accident.

    Parameters
    ----------
    labels_true, labels_pred
        As in :func:`ari`.

    Returns
    -------
    Between 0 and 1.

    Raises
    ------
    InputValueError
        If there is not one label and one cluster for each spot, or a label is missing.
    """
    return float(normalized_mutual_info_score(*_check_labels(labels_true, labels_pred)))


def _check_labels(labels_true: ArrayLike, labels_pred: ArrayLike) -> tuple[NDArray[Any], ...]:
    true, pred = as_labels(labels_true, "labels_true"), as_labels(labels_pred, "labels_pred")
    if true.shape != pred.shape:
        msg = f"the labels have the shapes {true.shape} and {pred.shape}; one per spot is needed"
        raise InputValueError(msg)
    return true, pred


def k_means_labels(matrix: NDArray[np.float64], k: int, seed: int) -> NDArray[np.int64]:
    """Cluster the rows of a matrix."""
    labels: NDArray[np.int64] = KMeans(k, n_init=10, random_state=seed).fit_predict(matrix)
    return labels
