"""Whether a prediction varies, and is spread over the tissue, as the measurement is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import rel_entr
from scipy.stats import rankdata

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics._inputs import as_pair, divide, mean_over_groups, nanmean, varies

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rankbygene.metrics._inputs import Average


@checked
def variance_ratio(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    r"""Variance of the prediction over that of the measurement, for each gene.

    .. math:: v_g = s^2_{\hat y_g} / s^2_{y_g}

    Below 1 the prediction is smoother than the tissue. The best prediction in the sense of the
    squared error has :math:`v_g = R^2_g`, so a ratio of 1 is not what such a model should
    reach; a map that is read as if it were a measurement should.

    Parameters
    ----------
    y_true, y_pred, groups, patients, average
        As in :func:`pearson`.

    Returns
    -------
    Float64 ``[n_genes]``, at least 0; NaN for a gene that is constant in ``y_true``.

    Raises
    ------
    InputValueError, InputTypeError
        As in :func:`pearson`.
    """
    return mean_over_groups(
        _variance_ratio,
        as_pair(y_true, y_pred, groups=groups, patients=patients),
        groups,
        patients,
        average,
    )


@checked
def relative_variation_distance(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    r"""Squared relative difference of the variances of each gene :cite:p:`zhu2025stem`.

    .. math:: \mathrm{RVD}_g = \frac{(s^2_{\hat y_g} - s^2_{y_g})^2}{(s^2_{y_g})^2} = (v_g - 1)^2

    Its mean over genes is the RVD of the paper. A constant prediction scores 1; a few genes whose
    variance is far too large dominate the mean.

    Parameters
    ----------
    y_true, y_pred, groups, patients, average
        As in :func:`pearson`.

    Returns
    -------
    Float64 ``[n_genes]``, 0 is best; NaN for a gene that is constant in ``y_true``.

    Raises
    ------
    InputValueError, InputTypeError
        As in :func:`pearson`.
    """
    return mean_over_groups(
        lambda true, pred: (_variance_ratio(true, pred) - 1) ** 2,
        as_pair(y_true, y_pred, groups=groups, patients=patients),
        groups,
        patients,
        average,
    )


@checked
def jensen_shannon(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    r"""Jensen-Shannon divergence of where each gene is expressed :cite:p:`li2022benchmarking`.

    The values of a gene are divided by their sum over the spots of the slide, so that they say
    which share of the gene's expression lies at which spot:

    .. math:: p_{ig} = \frac{y_{ig}}{\sum_k y_{kg}}, \quad
        q_{ig} = \frac{\max(\hat y_{ig}, 0)}{\sum_k \max(\hat y_{kg}, 0)}, \quad
        \mathrm{JS}_g = \tfrac{1}{2} \mathrm{KL}(p_g \| m_g) + \tfrac{1}{2} \mathrm{KL}(q_g \| m_g)

    with :math:`m_g = (p_g + q_g) / 2` and logarithms to base 2. This is the divergence, not its
    square root, the distance. It depends on the scale: log-normalised values are closer to
    uniform than counts, and score lower. Predictions below zero count as zero.

    Parameters
    ----------
    y_true
        Measured expression ``[n_spots, n_genes]``, not negative; NaN as in :func:`pearson`.
    y_pred, groups, patients, average
        As in :func:`pearson`.

    Returns
    -------
    Float64 ``[n_genes]`` between 0 (equal) and 1 (no spot in common); NaN for a gene without
    expression in ``y_true`` or ``y_pred``.

    Raises
    ------
    InputValueError
        As in :func:`pearson`, or if a measured value is negative.
    InputTypeError
        If the values are not numbers.
    """
    true, pred = as_pair(y_true, y_pred, groups=groups, patients=patients)
    if (true < 0).any():
        msg = (
            f"y_true holds {(true < 0).sum()} negative values; shares of expression need counts "
            "or log-normalised values, not centred ones"
        )
        raise InputValueError(msg)
    return mean_over_groups(_jensen_shannon, (true, pred), groups, patients, average)


@checked
def auc_expressed(
    expressed: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    r"""Area under the ROC curve of telling spots that express a gene from those that do not.

    .. math:: \mathrm{AUC}_g = \frac{1}{n_+ n_-} \sum_{i \in +} \sum_{j \in -}
        \left( [\hat y_{ig} > \hat y_{jg}] + \tfrac{1}{2} [\hat y_{ig} = \hat y_{jg}] \right)

    the probability that a spot with the gene is predicted above one without it
    :cite:p:`hanley1982auc`.

    Parameters
    ----------
    expressed
        Boolean mask, or counts, of which those above 0 are expressed, ``[n_spots, n_genes]``.
        NaN marks a value that was not measured.
    y_pred
        Predicted expression, of the same shape.
    groups, patients, average
        As in :func:`pearson`.

    Returns
    -------
    Float64 ``[n_genes]``; 0.5 is chance. NaN for a gene that all spots, or none, express.

    Raises
    ------
    InputValueError
        As in :func:`pearson`, or if ``expressed`` holds a negative value.
    InputTypeError
        If the values are not numbers.
    """
    true, pred = as_pair(
        expressed, y_pred, ("expressed", "y_pred"), groups=groups, patients=patients
    )
    if (true < 0).any():
        msg = f"expressed holds {(true < 0).sum()} negative values; pass counts or a boolean mask"
        raise InputValueError(msg)
    return mean_over_groups(_auc, (true, pred), groups, patients, average)


def _variance_ratio(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    variances = [nanmean((values - nanmean(values)) ** 2) for values in (pred, true)]
    return divide(variances[0], variances[1], varies(true))


def _jensen_shannon(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    # a spot without a value has no share of either
    p, q = _shares(np.nan_to_num(true)), _shares(np.maximum(np.nan_to_num(pred), 0))
    middle = (p + q) / 2
    divergence = (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=0) / (2 * np.log(2))
    # rounding leaves equal distributions a little below 0
    bounded: NDArray[np.float64] = np.clip(divergence, 0, 1)
    return bounded


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    total = values.sum(axis=0)
    return values / np.where(total > 0, total, np.nan)


def _auc(true: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    positive, n_known = true > 0, np.sum(~np.isnan(true), axis=0)
    # missing values are ranked behind all others, so that they do not shift a rank
    ranks = rankdata(np.where(np.isnan(pred), np.inf, pred), axis=0)
    n_positive = positive.sum(axis=0)
    n_pairs = (n_positive * (n_known - n_positive)).astype(np.float64)
    wins = np.sum(ranks * positive, axis=0) - n_positive * (n_positive + 1) / 2
    return divide(wins, n_pairs, n_pairs > 0)
