"""Two views of each image against all other views."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rankbygene._arguments import checked
from rankbygene.nn.losses._shared import check_pair, check_temperature, cosine

__all__ = ["nt_xent"]


@checked
def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    r"""Contrast two views of each image against all other views of the batch.

    With :math:`z` the ``2 N`` rows of both matrices and :math:`j(i)` the other view of the image
    that row ``i`` shows:

    .. math::
        L = -\frac{1}{2N} \sum_i \log
        \frac{\exp(\cos(z_i, z_{j(i)})/\tau)}{\sum_{k \neq i} \exp(\cos(z_i, z_k)/\tau)}

    It is :func:`info_nce` in both directions with the views of the same side as further
    negatives. Where nothing is told apart it is :math:`\log(2N - 1)`.

    Parameters
    ----------
    first, second
        ``[N, D]``; row ``p`` of both shows image ``p``.
    temperature
        :math:`\tau`.

    Returns
    -------
    Scalar, the mean over rows.

    Raises
    ------
    InputValueError
        The shapes differ or are not ``[N, D]``, or the temperature is not positive.

    References
    ----------
    Equation 1 of :cite:p:`chen2020simclr`.
    """
    check_pair(first, second, "first", "second")
    check_temperature(temperature)
    both = torch.cat([first, second])
    logits = (cosine(both) / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy(logits, partner)
