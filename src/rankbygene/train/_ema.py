"""The teacher: an exponential moving average of the student."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rankbygene._arguments import checked

__all__ = ["StartlessAverage", "default_momentum", "momentum_schedule", "update_teacher"]


@checked
def momentum_schedule(step: int, n_steps: int, start: float = 0.996, end: float = 1.0) -> float:
    r"""Momentum that rises from ``start`` to ``end`` along a cosine.

    .. math:: m(s) = m_1 - (m_1 - m_0)\,\frac{\cos(\pi s / (S - 1)) + 1}{2}

    A schedule of a single step, and every step past the last, is at ``end``.
    """
    if n_steps <= 1 or step >= n_steps - 1:
        return end
    return end - (end - start) * (math.cos(math.pi * step / (n_steps - 1)) + 1) / 2


@checked
def default_momentum(n_updates: int) -> float:
    """Momentum to start from so that the teacher forgets its initial weights.

    After all updates of a cosine to 1 their share is at most ``exp(-(1 - m) * n_updates / 2)``. It is
    kept at ``exp(-10)`` or below: from 5,000 updates on the start is 0.996, below 20 it is 0, so that
    the first update copies the student.
    """
    return 1 - min(1.0, max(0.004, 20 / n_updates))


class StartlessAverage:
    r"""Momenta of an average that leaves out where it started, as Adam corrects its averages.

    After updates with momenta :math:`m_1, \dots, m_k` a moving average still holds the share
    :math:`\pi_k = \prod_i m_i` of its start. Divided by :math:`1 - \pi_k`, what the updates brought
    is an average by itself. One moves to it from that of the step before with the momentum

    .. math:: \tilde m_k = m_k \, \frac{1 - \pi_{k-1}}{1 - \pi_k}

    The first update copies what is averaged. As long as all :math:`m` are 1 nothing moves.

    Attributes
    ----------
    start_share
        :math:`\pi_k`, what the start would have kept so far.
    """

    def __init__(self, start_share: float = 1.0) -> None:
        self.start_share = start_share

    def __call__(self, momentum: float) -> float:
        """Give the momentum of the next update, whose momentum without correction is ``momentum``."""
        known = 1 - self.start_share
        self.start_share *= momentum
        return 1.0 if self.start_share == 1 else momentum * known / (1 - self.start_share)


@torch.no_grad()
@checked
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    r"""Move the teacher towards the student: :math:`\theta_t \leftarrow m\theta_t + (1-m)\theta_s`.

    Buffers (the running statistics of batch normalisation) are copied: an average of weights
    needs the statistics of its inputs, not of its start. Frozen weights belong to both and stay.
    """
    pairs = zip(teacher.parameters(), student.parameters(), strict=True)
    own = [(theirs, ours) for theirs, ours in pairs if theirs is not ours]
    if own:  # all at once, which on a GPU is a few kernels instead of one per weight
        move = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
        move(*map(list, zip(*own, strict=True)), None)
    for kept, current in zip(teacher.buffers(), student.buffers(), strict=True):
        kept.copy_(current)
