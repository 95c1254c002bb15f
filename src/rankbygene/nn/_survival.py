"""Losses for censored times, differentiable and safe with ties."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError

__all__ = ["Ties", "breslow_hazard", "cox_loss", "discrete_time_loss"]

Ties = Literal["efron", "breslow"]


@checked
def cox_loss(
    log_hazard: torch.Tensor, time: torch.Tensor, event: torch.Tensor, *, ties: Ties = "efron"
) -> torch.Tensor:
    r"""Negative log partial likelihood of Cox's model, per event.

    .. math::
        L = -\frac{1}{n_\mathrm{events}} \sum_{t} \Bigl[ \sum_{i \in D_t} \eta_i -
        \sum_{l=0}^{d_t - 1} \log \Bigl( \sum_{j: t_j \ge t} e^{\eta_j}
        - \frac{l}{d_t} \sum_{j \in D_t} e^{\eta_j} \Bigr) \Bigr]

    over the times :math:`t` of the events :math:`D_t`, :math:`d_t` of them (Efron). Breslow's form
    leaves out the term with :math:`l`. Who is censored at :math:`t` is still at risk there.

    Parameters
    ----------
    log_hazard
        :math:`\eta`, ``[n]``.
    time
        Time to event or censoring, ``[n]``.
    event
        Whether the event was seen, ``[n]``.
    ties
        How events at the same time are handled.

    Returns
    -------
    Scalar. Without any event it is zero, and so is its gradient.

    Raises
    ------
    InputValueError
        The shapes differ, or ``ties`` is not known.

    References
    ----------
    :cite:p:`cox1972regression,efron1977efficiency,breslow1974covariance`
    """
    _check_vectors(log_hazard, time, event)
    if ties not in ("efron", "breslow"):
        msg = f"ties={ties!r} is not known; choose 'efron' or 'breslow'"
        raise InputValueError(msg)
    order = torch.argsort(time, descending=True, stable=True)
    hazard, died = log_hazard[order], event[order].bool()
    if not died.any():
        return 0.0 * log_hazard.sum()
    _, group, size = torch.unique_consecutive(time[order], return_inverse=True, return_counts=True)
    # The last of a group of equal times has everybody at risk at that time before it.
    at_risk = torch.logcumsumexp(hazard, 0)[size.cumsum(0) - 1][group[died]]
    if ties == "efron":
        at_risk = at_risk + _efron_term(hazard[died], group[died], at_risk)
    return (at_risk - hazard[died]).sum() / died.sum()


def _efron_term(hazard: torch.Tensor, group: torch.Tensor, at_risk: torch.Tensor) -> torch.Tensor:
    """``log(1 - l/d * tied / at_risk)`` for the l-th event of each time, in logarithms."""
    _, tie, count = torch.unique_consecutive(group, return_inverse=True, return_counts=True)
    first = torch.cat([count.new_zeros(1), count.cumsum(0)[:-1]])
    rank = torch.arange(len(group), device=group.device) - first[tie]
    # Relative to all at risk, every summand is at most 1.
    share = torch.zeros_like(count, dtype=hazard.dtype).index_add(0, tie, (hazard - at_risk).exp())
    return torch.log1p(-(rank.to(hazard.dtype) / count[tie]) * share[tie].clamp(max=1))


@checked
def discrete_time_loss(
    logits: torch.Tensor, interval: torch.Tensor, event: torch.Tensor, *, alpha: float = 0.0
) -> torch.Tensor:
    r"""Negative log likelihood of a time known by interval, per row.

    With hazards :math:`h_k = \sigma(\mathrm{logit}_k)` and survival
    :math:`S_k = \prod_{j \le k} (1 - h_j)`, an event in interval :math:`k` costs
    :math:`-\log(S_{k-1} h_k)` and censoring in it :math:`-\log S_k`.

    Parameters
    ----------
    logits
        ``[n, n_intervals]``.
    interval
        Interval of the event or of censoring, ``[n]``.
    event
        Whether the event was seen, ``[n]``.
    alpha
        Weight taken from the censored rows, 0 to 1; 0 is the likelihood.

    Returns
    -------
    Scalar, the mean over rows.

    Raises
    ------
    InputValueError
        The shapes do not fit, or an interval does not exist.

    References
    ----------
    :cite:p:`zadeh2021bias`
    """
    _check_vectors(logits[:, 0], interval, event)
    if len(interval) and not 0 <= int(interval.min()) <= int(interval.max()) < logits.shape[1]:
        msg = f"intervals from {int(interval.min())} to {int(interval.max())}; there are {logits.shape[1]}"
        raise InputValueError(msg)
    steps = torch.arange(logits.shape[1], device=logits.device)
    survived, died = F.logsigmoid(-logits), F.logsigmoid(logits)
    before = (survived * (steps < interval[:, None])).sum(1)
    at = steps == interval[:, None]
    seen = event.to(logits.dtype)
    last = torch.where(event.bool()[:, None], died, survived)
    loss = -(before + (last * at).sum(1))
    return (loss * (seen + (1 - alpha) * (1 - seen))).mean()


def breslow_hazard(
    log_hazard: torch.Tensor, time: torch.Tensor, event: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Breslow's estimate of the baseline cumulative hazard.

    Parameters
    ----------
    log_hazard, time, event
        As for :func:`cox_loss`.

    Returns
    -------
    The times of the events, ascending, and the cumulative hazard from each on.

    References
    ----------
    :cite:p:`breslow1974covariance`
    """
    _check_vectors(log_hazard, time, event)
    died = event.bool()
    times, count = torch.unique(time[died], return_counts=True)
    at_risk = ((time[None] >= times[:, None]) * log_hazard.exp()).sum(1)
    return times, (count / at_risk).cumsum(0)


def _check_vectors(values: torch.Tensor, time: torch.Tensor, event: torch.Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (values, time, event)]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1:
        msg = f"predictions, times and events have the shapes {shapes}; one value per row is needed"
        raise InputValueError(msg)
