r"""One batch over several processes: each encodes its share of the tiles, all compare the whole batch.

Why the gradients are those of one process. With :math:`W` processes, process :math:`r` encodes its
share to :math:`h_r = f(x_r; \theta)`, and each computes the same loss :math:`L(h_1, \dots, h_W;
\phi)` of all shares. One process with the whole batch would have

.. math::
    \frac{\partial L}{\partial\theta} = \sum_r \frac{\partial L}{\partial h_r}
    \frac{\partial h_r}{\partial\theta}

Lightning's strategies average the gradients of the processes. Those of the heads :math:`\phi` are
the same everywhere, so that their mean is :math:`\partial L / \partial\phi`. For the encoder the
mean is right if process :math:`r` contributes :math:`W \, \partial L / \partial h_r`. That is the
sum of what the losses of all :math:`W` processes say of :math:`h_r`, and the sum is what the
backward of the gather takes. (Dropout in heads makes losses differ between processes; the sum is
then the gradient of their mean.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["gather", "gather_batch"]


def gather(rows: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Join the rows of all processes, in the order of their ranks; gradients flow back.

    Parameters
    ----------
    rows
        ``[sizes[rank], ...]``.
    sizes
        Number of rows of each process.

    Returns
    -------
    ``[sum(sizes), ...]``, the same in every process.
    """
    if len(sizes) == 1:
        return rows
    joined: torch.Tensor = _Gather.apply(rows, tuple(sizes))  # type: ignore[no-untyped-call]
    return joined


def gather_batch(
    batch: Mapping[str, torch.Tensor], leave: Collection[str] = ()
) -> tuple[dict[str, list[int]], list[dict[str, torch.Tensor]]]:
    """Give the tensors of all processes to each of them, without gradients.

    Parameters
    ----------
    batch
        Tensors, each with a number of rows of its own.
    leave
        Those that stay where they are.

    Returns
    -------
    Rows of each tensor in each process, and the tensors of each process but those left.
    """
    device = next(iter(batch.values())).device
    own = torch.tensor([len(rows) for rows in batch.values()], device=device)
    per_process = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(per_process, own)
    sizes = dict(zip(batch, torch.stack(per_process, 1).tolist(), strict=True))
    columns = {n: _all_rows(rows, sizes[n]) for n, rows in batch.items() if n not in leave}
    ranks = range(len(per_process))
    return sizes, [{name: rows[rank] for name, rows in columns.items()} for rank in ranks]


def _all_rows(rows: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Collect tensors that differ in length: collectives take equal ones alone."""
    # Not every backend knows booleans.
    sent = rows.view(torch.uint8) if rows.dtype == torch.bool else rows
    padded = sent.new_zeros(max(sizes), *sent.shape[1:])
    padded[: len(sent)] = sent
    received = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(received, padded)
    return [part[:size].view(rows.dtype) for part, size in zip(received, sizes, strict=True)]


class _Gather(torch.autograd.Function):
    """Join forward; backward, sum over processes what they say of this one's rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
        start = sum(sizes[: dist.get_rank()])
        ctx.own = slice(start, start + len(rows))
        return torch.cat(_all_rows(rows, sizes))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.own], None
