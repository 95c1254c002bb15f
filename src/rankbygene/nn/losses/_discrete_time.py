"""The likelihood of times known by interval."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.nn.losses._shared import check_vectors

__all__ = ["discrete_time_loss"]


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
    check_vectors(logits[:, 0], interval, event)
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
