"""What optimisers are given: the trained weights, AdamW, and a learning rate that rises and falls."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

__all__ = ["adamw", "trained", "warmup_cosine", "with_warmup"]


def adamw(plan: pl.LightningModule, parameters: Any, **settings: Any) -> torch.optim.AdamW:
    """AdamW, as one kernel where the device has it.

    16-bit precision scales gradients, which that kernel would undo out of the sight of clipping.
    """
    scaled = str(plan.trainer.precision).startswith("16")
    fused = plan.device.type in ("cpu", "cuda") and not scaled
    return torch.optim.AdamW(parameters, fused=fused, **settings)


def trained(module: nn.Module) -> list[nn.Parameter]:
    """Give the weights that training changes."""
    return [weight for weight in module.parameters() if weight.requires_grad]


def with_warmup(optimizer: torch.optim.Optimizer, warmup: float, n_steps: int) -> dict[str, Any]:
    """Let the learning rate rise over a share of the steps, then fall, in Lightning's terms."""
    factor = partial(warmup_cosine, n_warmup=round(warmup * n_steps), n_steps=n_steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def warmup_cosine(step: int, *, n_warmup: int, n_steps: int) -> float:
    """Factor of the learning rate: a linear rise, then half a cosine down to 0."""
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    return (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup))) / 2
