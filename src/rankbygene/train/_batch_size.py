"""The largest batch that fits on a device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rankbygene._arguments import checked
from rankbygene.errors import TrainingError
from rankbygene.train._batch_plan import Batch, BatchPlan
from rankbygene.train._optimizer import trained

__all__ = ["find_batch_size"]


@checked
def find_batch_size(
    plan: BatchPlan,
    make_batch: Callable[[int], Batch],
    *,
    largest: int,
    smallest: int = 8,
    dtype: torch.dtype | None = None,
) -> int:
    """Double a batch until a step of training does not fit on the device.

    Each size is tried with a whole step, gradients and the optimiser's memory included. Weights,
    running statistics and random states stay as they were.

    Parameters
    ----------
    plan
        On the device to train on.
    make_batch
        Gives a batch of a number of spots.
    largest, smallest
        Sizes not to go beyond and to start from.
    dtype
        Of autocast; none by default.

    Returns
    -------
    ``smallest`` times a power of two.

    Raises
    ------
    TrainingError
        Not even the smallest batch fits.
    """
    found, size = 0, smallest
    buffers = {name: value.clone() for name, value in plan.module.named_buffers()}
    try:
        while size <= largest and _fits(plan, make_batch(size), dtype):
            found, size = size, 2 * size
    finally:
        for name, value in plan.module.named_buffers():
            value.copy_(buffers[name])
        plan.zero_grad(set_to_none=True)
    if not found:
        msg = (
            f"a batch of {smallest} spots does not fit on {plan.device}; pass "
            "gradient_checkpointing=True, a smaller backbone or tile_px, or a batch_size"
        )
        raise TrainingError(msg)
    return found


def _fits(plan: BatchPlan, batch: Batch, dtype: torch.dtype | None) -> bool:
    try:
        _step(plan, {name: tensor.to(plan.device) for name, tensor in batch.items()}, dtype)
    except torch.OutOfMemoryError:
        return False
    finally:
        plan.zero_grad(set_to_none=True)
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def _step(plan: BatchPlan, batch: Batch, dtype: torch.dtype | None) -> None:
    """Take all steps of training but the last: the room of the optimiser's averages stays empty."""
    averages = [torch.empty_like(weight) for weight in trained(plan.module) for _ in range(2)]
    with torch.autocast(plan.device.type, dtype, enabled=dtype is not None):
        terms = plan.losses(batch, torch.Generator().manual_seed(0))
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    del averages
