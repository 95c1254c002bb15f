"""Scores of a choice of genes, and of how genes go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics._correlation import pearson
from rankbygene.metrics._inputs import (
    as_matrix,
    as_pair,
    check_same_names,
    divide,
    mean_over_groups,
    nanmean,
    varies,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@checked
def top_k_mean(scores: ArrayLike, k: int, ranking: ArrayLike) -> float:
    """Mean score of the ``k`` genes that *other* data rank first.

    Taking the best genes of the data that are scored rewards noise: with 250 unpredictable genes
    and 100 spots, their best 50 have a mean correlation of about 0.12. So the list is
    fixed by a ranking that has not seen the scored slides, such as the mean scores of the other
    folds, or the variance on the training slides.

    Parameters
    ----------
    scores
        Score of each gene on the slides that are judged, ``[n_genes]``.
    k
        Number of genes.
    ranking
        Value of each gene from other data, ``[n_genes]``, large for the genes to take. NaN is
        never taken; equal values are taken in the order of the genes.

    Returns
    -------
    Mean over those of the ``k`` genes that have a score; NaN if none has.

    Raises
    ------
    InputValueError
        If lengths or names of genes differ, ``ranking`` equals ``scores``, or fewer than ``k`` genes are ranked.
    InputTypeError
        If the values are not numbers.

    Examples
    --------
    >>> round(top_k_mean([0.1, 0.5, 0.3], 2, ranking=[0.4, 0.2, 0.3]), 3)
    0.2
    """
    check_same_names(scores, ranking, ("scores", "ranking"))
    values, order = _vector(scores, "scores"), _vector(ranking, "ranking")
    if len(values) != len(order):
        msg = f"scores are of {len(values)} genes and ranking of {len(order)}; they have to be the same"
        raise InputValueError(msg)
    if np.array_equal(values, order, equal_nan=True):
        msg = (
            "ranking equals scores; rank the genes on other folds, or call oracle_top_k_mean for "
            "the optimistic score"
        )
        raise InputValueError(msg)
    return _mean_of_first(values, k, order)


@checked
def oracle_top_k_mean(scores: ArrayLike, k: int) -> float:
    """Mean score of the ``k`` best genes, chosen by the scores themselves.

    **Optimistic**: the genes are chosen on the data that judge them, so that noise scores above
    chance, and more so the more genes and the fewer spots there are. Papers often report
    it; use it to compare with them and :func:`top_k_mean` for anything else.

    Parameters
    ----------
    scores
        Score of each gene ``[n_genes]``. NaN is left out before the best are taken.
    k
        Number of genes.

    Returns
    -------
    Mean over the ``k`` genes.

    Raises
    ------
    InputValueError
        If fewer than ``k`` genes have a score.
    InputTypeError
        If the values are not numbers.
    """
    values = _vector(scores, "scores")
    return _mean_of_first(values, k, values)


@checked
def gene_correlation_agreement(
    y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike | None = None
) -> float:
    r"""Whether genes that go together in the measurement do so in the prediction.

    .. math:: \mathrm{corr}\left(\{R_{gh}\}_{g<h}, \{\hat R_{gh}\}_{g<h}\right)

    with :math:`R` and :math:`\hat R` the Pearson correlations of all pairs of genes over spots;
    the statistic of Mantel's test :cite:p:`mantel1967detection`. Predictions from few features
    tie all genes together: their :math:`\hat R` is then close to 1 or -1 everywhere, which this
    score, blind to scale, does not punish.

    Parameters
    ----------
    y_true
        Measured expression ``[n_spots, n_genes]``. NaN marks a value that was not measured; a
        pair of genes is compared over the spots that know both.
    y_pred
        Predicted expression, of the same shape.
    groups
        Slide of each spot; the mean over slides of the agreement in each.

    Returns
    -------
    Between -1 and 1. NaN if there are fewer than two pairs of genes that vary in both, or all
    pairs are equally correlated.

    Raises
    ------
    InputValueError
        If the shapes do not fit or a value is infinite.
    InputTypeError
        If the values are not numbers.
    """
    return float(mean_over_groups(_agreement, as_pair(y_true, y_pred, groups=groups), groups)[0])


def _vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    matrix = as_matrix(values, name)
    if matrix.shape[1] != 1:
        msg = f"{name} has the shape {matrix.shape}; one value per gene is needed"
        raise InputValueError(msg)
    return matrix[:, 0]


def _mean_of_first(values: NDArray[np.float64], k: int, ranking: NDArray[np.float64]) -> float:
    n_ranked = int(np.sum(~np.isnan(ranking)))
    if not 1 <= k <= n_ranked:
        msg = f"k is {k}; from 1 to the number of ranked genes ({n_ranked}) is needed"
        raise InputValueError(msg)
    # a stable sort takes equal values in the order of the genes; NaN is sorted behind
    return float(nanmean(values[np.argsort(-ranking, kind="stable")[:k]]))


def _agreement(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    above = np.triu_indices(true.shape[1], k=1)
    if len(above[0]) == 0:
        return np.array([np.nan])
    return pearson(_gene_correlation(true)[above], _gene_correlation(pred)[above])


def _gene_correlation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of all pairs of columns, each pair over the rows that know both."""
    known = (~np.isnan(values)).astype(np.float64)
    # means of the pairs differ from those of the columns only by what is missing
    filled = np.nan_to_num(values - nanmean(values))
    count = known.T @ known
    sums, squares = filled.T @ known, (filled**2).T @ known
    covariance = count * (filled.T @ filled) - sums * sums.T
    spread = count * squares - sums**2
    exists = varies(values)[:, None] & varies(values) & _clearly(spread, count * squares)
    return np.clip(divide(covariance, np.sqrt(spread * spread.T), exists & exists.T), -1, 1)


def _clearly(spread: NDArray[np.float64], squares: NDArray[np.float64]) -> NDArray[np.bool_]:
    # rounding leaves a gene that is constant on the common spots with a tiny spread
    return spread > 1e-10 * squares
