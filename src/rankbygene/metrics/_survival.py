"""Scores of models that tell how long until an event, from data that are right-censored."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import chi2

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics._censoring import (
    Censoring,
    complete_column,
    complete_matrix,
    read_outcome,
)
from rankbygene.metrics._inputs import check_same_rows, group_codes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class LogRank(NamedTuple):
    """Log-rank test of equal survival in all groups.

    Attributes
    ----------
    statistic
        Chi-squared, with one degree of freedom less than there are groups.
    p_value
        Probability of at least this statistic where survival is equal.
    """

    statistic: float
    p_value: float


@checked
def concordance_index(time: ArrayLike, event: ArrayLike, risk: ArrayLike) -> float:
    r"""Harrell's concordance index :cite:p:`harrell1996multivariable`.

    .. math:: C = \frac{\sum_{(i, j)} [r_i > r_j] + \frac{1}{2} [r_i = r_j]}{|\{(i, j)\}|}

    over the comparable pairs: :math:`i` has an event, and :math:`j` is known to live longer,
    which is :math:`T_j > T_i`, or :math:`T_j = T_i` with :math:`j` censored. Two events at one
    time are not compared. Equal risks count one half. The value depends on who was censored when;
    see :func:`concordance_index_ipcw`.

    Parameters
    ----------
    time
        Time to the event or to censoring, ``[n]``.
    event
        Whether the event happened; False for censored.
    risk
        Predicted risk, *large for a short time*.

    Returns
    -------
    Between 0 and 1; 0.5 is chance. NaN where no pair can be compared.

    Raises
    ------
    InputValueError
        If the lengths differ, a value is missing, a time is negative, or ``event`` holds other
        values than 0 and 1.
    InputTypeError
        If the values are not numbers.
    """
    check_same_rows(time=time, event=event, risk=risk)
    times, events = read_outcome(time, event)
    risks = complete_column(risk, "risk", len(times))
    return _concordance(times, events, risks, events.astype(np.float64))


@checked
def concordance_index_ipcw(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    *,
    train_time: ArrayLike | None = None,
    train_event: ArrayLike | None = None,
    tau: float | None = None,
) -> float:
    r"""Uno's concordance index, which does not depend on the censoring :cite:p:`uno2011c`.

    .. math:: C_\tau = \frac{\sum_{(i, j)} [T_i < \tau] \, \hat G(T_i^-)^{-2} \left([r_i > r_j] +
        \frac{1}{2} [r_i = r_j]\right)}{\sum_{(i, j)} [T_i < \tau] \, \hat G(T_i^-)^{-2}}

    over the comparable pairs of :func:`concordance_index`. :math:`\hat G` is the Kaplan-Meier
    estimate of staying uncensored; it is taken just before :math:`T_i`, since a patient who is
    censored at that very time would have been seen to have the event. Censoring must not depend
    on the risk.

    Parameters
    ----------
    time, event, risk
        As in :func:`concordance_index`.
    train_time, train_event
        Data that :math:`\hat G` is estimated from; by default those that are scored.
    tau
        Only events before this time are compared. Choose it where a fair share is still followed:
        late events get large weights.

    Returns
    -------
    Between 0 and 1; 0.5 is chance. NaN where no pair can be compared.

    Raises
    ------
    InputValueError
        As in :func:`concordance_index`, or if an event before ``tau`` lies where nobody in the
        training data was followed any more.
    InputTypeError
        If the values are not numbers.
    """
    check_same_rows(time=time, event=event, risk=risk)
    times, events = read_outcome(time, event)
    risks = complete_column(risk, "risk", len(times))
    within = events & (times < (np.inf if tau is None else tau))
    censoring = Censoring(times, events, train_time, train_event)
    weights = np.zeros(len(times))
    weights[within] = censoring.before(times[within]) ** -2
    return _concordance(times, events, risks, weights)


@checked
def time_dependent_auc(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    times: ArrayLike,
    *,
    train_time: ArrayLike | None = None,
    train_event: ArrayLike | None = None,
) -> NDArray[np.float64]:
    r"""Cumulative/dynamic area under the ROC curve at given times :cite:p:`hung2010auc`.

    .. math:: \mathrm{AUC}(t) = \frac{\sum_{i,j} \delta_i [T_i \le t] [T_j > t] \, \hat G(T_i^-)^{-1}
        \left([r_i > r_j] + \frac{1}{2} [r_i = r_j]\right)}
        {\sum_i \delta_i [T_i \le t] \, \hat G(T_i^-)^{-1} \sum_j [T_j > t]}

    the probability that a patient with the event by :math:`t` has a higher risk than one without
    it. Patients who are censored before :math:`t` are represented by the weights.

    Parameters
    ----------
    time, event
        As in :func:`concordance_index`.
    risk
        Predicted risk ``[n]``, or one for each time ``[n, n_times]``.
    times
        Times :math:`t`, ``[n_times]``.
    train_time, train_event
        As in :func:`concordance_index_ipcw`.

    Returns
    -------
    Float64 ``[n_times]``; NaN where nobody had the event by then, or nobody is followed longer.

    Raises
    ------
    InputValueError, InputTypeError
        As in :func:`concordance_index_ipcw`.
    """
    check_same_rows(time=time, event=event, risk=risk)
    observed, events = read_outcome(time, event)
    horizons = complete_column(times, "times")
    n_columns = 1 if np.ndim(risk) == 1 else len(horizons)
    risks = complete_matrix(risk, "risk", len(observed), n_columns)
    risks = np.broadcast_to(risks, (len(observed), len(horizons)))
    weights = np.zeros(len(observed))
    seen = events & (observed <= horizons.max())
    weights[seen] = 1 / Censoring(observed, events, train_time, train_event).before(observed[seen])
    result = np.full(len(horizons), np.nan)
    for k, horizon in enumerate(horizons):
        case, control = seen & (observed <= horizon), observed > horizon
        if case.any() and control.any():
            wins = _wins(risks[case, k], np.sort(risks[control, k]))
            result[k] = np.average(wins, weights=weights[case]) / control.sum()
    return result


@checked
def brier_score(
    time: ArrayLike,
    event: ArrayLike,
    survival: ArrayLike,
    times: ArrayLike,
    *,
    train_time: ArrayLike | None = None,
    train_event: ArrayLike | None = None,
) -> NDArray[np.float64]:
    r"""Squared error of predicted survival probabilities :cite:p:`graf1999brier`.

    .. math:: \mathrm{BS}(t) = \frac{1}{n} \sum_i \left( \frac{\hat S_i(t)^2 \, \delta_i
        [T_i \le t]}{\hat G(T_i^-)} + \frac{(1 - \hat S_i(t))^2 \, [T_i > t]}{\hat G(t)} \right)

    Patients who are censored before :math:`t` are represented by the weights. Predicting 0.5 for
    everybody scores 0.25.

    Parameters
    ----------
    time, event
        As in :func:`concordance_index`.
    survival
        Predicted probability of no event until each time, ``[n, n_times]``.
    times
        Times :math:`t`, ``[n_times]``.
    train_time, train_event
        As in :func:`concordance_index_ipcw`.

    Returns
    -------
    Float64 ``[n_times]``; 0 is best.

    Raises
    ------
    InputValueError
        As in :func:`concordance_index_ipcw`, or if a probability is not between 0 and 1.
    InputTypeError
        If the values are not numbers.
    """
    check_same_rows(time=time, event=event, survival=survival)
    observed, events = read_outcome(time, event)
    horizons = complete_column(times, "times")
    probability = complete_matrix(survival, "survival", len(observed), len(horizons))
    if probability.min() < 0 or probability.max() > 1:
        msg = (
            f"survival holds values from {probability.min()} to {probability.max()}; probabilities "
            "between 0 and 1 are needed"
        )
        raise InputValueError(msg)
    censoring = Censoring(observed, events, train_time, train_event)
    died = events[:, None] & (observed[:, None] <= horizons)
    alive = observed[:, None] > horizons
    weights = np.zeros(died.shape)
    early = died.any(axis=1)
    weights[early] = died[early] / censoring.before(observed[early])[:, None]
    late = alive.any(axis=0)
    weights[:, late] += alive[:, late] / censoring.after(horizons[late])
    return np.asarray(np.mean(weights * (alive - probability) ** 2, axis=0))


@checked
def integrated_brier_score(
    time: ArrayLike,
    event: ArrayLike,
    survival: ArrayLike,
    times: ArrayLike,
    *,
    train_time: ArrayLike | None = None,
    train_event: ArrayLike | None = None,
) -> float:
    r"""Mean of the Brier score over time :cite:p:`graf1999brier`.

    .. math:: \mathrm{IBS} = \frac{1}{t_K - t_1} \int_{t_1}^{t_K} \mathrm{BS}(t) \, dt

    by the trapezoidal rule over the given times.

    Parameters
    ----------
    time, event, survival, train_time, train_event
        As in :func:`brier_score`.
    times
        At least two increasing times within the follow-up.

    Returns
    -------
    At least 0; lower is better.

    Raises
    ------
    InputValueError
        As in :func:`brier_score`, or if the times do not increase.
    InputTypeError
        If the values are not numbers.
    """
    horizons = complete_column(times, "times")
    if len(horizons) < 2 or np.any(np.diff(horizons) <= 0):
        msg = f"times holds {len(horizons)} values; two or more that increase are needed"
        raise InputValueError(msg)
    scores = brier_score(
        time, event, survival, horizons, train_time=train_time, train_event=train_event
    )
    return float(np.trapezoid(scores, horizons) / (horizons[-1] - horizons[0]))


@checked
def logrank(time: ArrayLike, event: ArrayLike, groups: ArrayLike) -> LogRank:
    r"""Test whether survival is equal in all groups :cite:p:`mantel1966evaluation,peto1972rank`.

    .. math:: \chi^2 = (O - E)^\top V^{-1} (O - E)

    with the observed and expected numbers of events in all groups but one, and their
    hypergeometric covariance; events at one time are taken together. Groups that were found by
    trying cut-offs on the same data give p-values that are far too small.

    Parameters
    ----------
    time, event
        As in :func:`concordance_index`.
    groups
        Group of each patient, ``[n]``.

    Returns
    -------
    Statistic and p-value; NaN with a single group, or where no event tells the groups apart.

    Raises
    ------
    InputValueError
        If the lengths differ, a value is missing, or a time is negative.
    InputTypeError
        If the values are not numbers.
    """
    check_same_rows(time=time, event=event, groups=groups)
    times, events = read_outcome(time, event)
    codes = group_codes(groups, len(times))
    n_groups = codes.max() + 1
    member = np.eye(n_groups)[codes]
    excess, covariance = np.zeros(n_groups), np.zeros((n_groups, n_groups))
    for moment in np.unique(times[events]):
        at_risk = member[times >= moment].sum(axis=0)
        died = member[events & (times == moment)].sum(axis=0)
        n, d = at_risk.sum(), died.sum()
        excess += died - d * at_risk / n
        if n > 1:
            share = at_risk / n
            covariance += d * (n - d) / (n - 1) * (np.diag(share) - np.outer(share, share))
    rank = np.linalg.matrix_rank(covariance, hermitian=True)
    if rank == 0:
        return LogRank(float("nan"), float("nan"))
    # the groups' excesses sum to 0; the pseudo-inverse drops that direction
    statistic = float(excess @ np.linalg.pinv(covariance, hermitian=True) @ excess)
    return LogRank(statistic, float(chi2.sf(statistic, rank)))


def _concordance(
    times: NDArray[np.float64],
    events: NDArray[np.bool_],
    risks: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> float:
    """Share of comparable pairs in the right order, each weighted by its shorter life."""
    right, total = 0.0, 0.0
    for i in np.flatnonzero(weights):
        longer = (times > times[i]) | ((times == times[i]) & ~events)
        right += weights[i] * float(_wins(risks[i], np.sort(risks[longer])))
        total += weights[i] * np.sum(longer)
    return float(right / total) if total > 0 else float("nan")


def _wins(values: ArrayLike, others: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many of the sorted others each value exceeds; ties count one half."""
    below = np.searchsorted(others, values, side="left")
    return np.asarray((below + np.searchsorted(others, values, side="right")) / 2)
