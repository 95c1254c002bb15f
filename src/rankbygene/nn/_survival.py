"""The baseline hazard of Cox's model."""

from __future__ import annotations

import torch

from rankbygene.nn.losses._shared import check_vectors

__all__ = ["breslow_hazard"]


def breslow_hazard(
    log_hazard: torch.Tensor, time: torch.Tensor, event: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Breslow's estimate of the baseline cumulative hazard.

    Parameters
    ----------
    log_hazard, time, event
        As for :func:`~rankbygene.nn.losses.cox_loss`.

    Returns
    -------
    The times of the events, ascending, and the cumulative hazard from each on.

    References
    ----------
    :cite:p:`breslow1974covariance`
    """
    check_vectors(log_hazard, time, event)
    died = event.bool()
    times, count = torch.unique(time[died], return_counts=True)
    at_risk = ((time[None] >= times[:, None]) * log_hazard.exp()).sum(1)
    return times, (count / at_risk).cumsum(0)
