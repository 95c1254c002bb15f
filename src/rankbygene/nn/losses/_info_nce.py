"""Matching rows of two matrices against all others."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rankbygene._arguments import checked
from rankbygene.nn.losses._shared import check_pair, check_temperature, cosine

__all__ = ["info_nce"]


@checked
def info_nce(
    query: torch.Tensor,
    key: torch.Tensor,
    temperature: float = 0.1,
    symmetric: bool = False,
    negative_logit_scale: float = 1.0,
) -> torch.Tensor:
    r"""Contrast matching rows of two matrices against all others.

    .. math::
        L = -\frac1N \sum_p \log
        \frac{\exp(\cos(q_p, k_p)/\tau)}{\sum_r \exp(\cos(q_p, k_r)/\tau)}

    Parameters
    ----------
    query, key
        ``[N, D]``; row ``p`` of one belongs to row ``p`` of the other.
    temperature
        :math:`\tau`.
    symmetric
        Average with the loss in which the roles are exchanged.
    negative_logit_scale
        Factor of the logits of all other rows. The released code of :cite:p:`qu2025nh2st` has 0.1,
        with which a negative above the positive costs nothing until it is ten times as similar.

    Returns
    -------
    Scalar, the mean over rows.

    Raises
    ------
    InputValueError
        The shapes differ or are not ``[N, D]``, or the temperature is not positive.

    References
    ----------
    :cite:p:`vandenoord2018infonce`; query image and keys genes in :cite:p:`huang2024rankbygene`.
    """
    check_pair(query, key, "query", "key")
    check_temperature(temperature)
    logits = cosine(query, key) / temperature
    if negative_logit_scale != 1:
        itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = torch.where(itself, logits, logits * negative_logit_scale)
    labels = torch.arange(len(logits), device=logits.device)
    loss = F.cross_entropy(logits, labels)
    return (loss + F.cross_entropy(logits.T, labels)) / 2 if symmetric else loss
