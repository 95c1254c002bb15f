"""From pixels to what an image encoder expects."""

from __future__ import annotations

import torch

from rankbygene._arguments import checked

__all__ = ["normalize_pixels"]


@checked
def normalize_pixels(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Scale images, uint8 or float in [0, 1], by channel statistics; channels lie last in memory.

    Parameters
    ----------
    images
        ``[B, 3, H, W]``.
    mean, std
        ``[3, 1, 1]``, on the scale [0, 1].
    """
    if images.dtype == torch.uint8:
        images = images.to(mean.dtype) / 255
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)
