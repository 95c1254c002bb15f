"""The teacher: an exponential moving average of the student."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["default_momentum", "momentum_schedule", "update_teacher"]


def momentum_schedule(step: int, n_steps: int, start: float = 0.996, end: float = 1.0) -> float:
    r"""Momentum that rises from ``start`` to ``end`` along a cosine.

    .. math:: m(s) = m_1 - (m_1 - m_0)\,\frac{\cos(\pi s / (S - 1)) + 1}{2}

    A schedule of a single step, and every step past the last, is at ``end``.
    """
    if n_steps <= 1 or step >= n_steps - 1:
        return end
    return end - (end - start) * (math.cos(math.pi * step / (n_steps - 1)) + 1) / 2


def default_momentum(n_updates: int) -> float:
    """Momentum to start from so that the teacher forgets its initial weights.

    After all updates of a cosine to 1 their share is about ``exp(-(1 - m) * n_updates / 2)``. It
    is kept at ``exp(-10)`` in short runs; from 5,000 updates on the start is 0.996.
    """
    return 1 - min(0.1, max(0.004, 20 / n_updates))


@torch.no_grad()
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
