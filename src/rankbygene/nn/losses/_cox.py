"""The partial likelihood of Cox's model, differentiable and safe with ties."""

from __future__ import annotations

from typing import Literal

import torch

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.nn.losses._shared import check_vectors

__all__ = ["Ties", "cox_loss"]

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
    check_vectors(log_hazard, time, event)
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
