"""Colour and texture statistics as the first saved models had them.

They change when a tile is turned or mirrored. Models that were fitted on them keep predicting by
them; nothing new is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rankbygene.nn._statistics import optical_density

__all__ = ["first_color_texture_statistics"]

_LUMA = (0.299, 0.587, 0.114)
_N_SCALES = 4


def first_color_texture_statistics(images: torch.Tensor) -> torch.Tensor:
    """Describe images ``[B, 3, H, W]`` by the 44 statistics of version 1, ``[B, 44]``."""
    values = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    parts = [_color(values), optical_density(values)]
    luma = torch.einsum("c,bchw->bhw", torch.tensor(_LUMA, device=images.device), values)[:, None]
    for _ in range(_N_SCALES):
        parts.append(_roughness(luma))
        luma = F.avg_pool2d(luma, 2, ceil_mode=True)
    return torch.cat(parts, dim=1)


def _color(values: torch.Tensor) -> torch.Tensor:
    flat = values.flatten(2)
    levels = torch.tensor([0.1, 0.5, 0.9], device=values.device)
    percentiles = torch.quantile(flat, levels, dim=2).permute(1, 2, 0)
    statistics = [flat.mean(2, keepdim=True), flat.std(2, keepdim=True), percentiles]
    return torch.cat(statistics, dim=2).flatten(1)


def _roughness(luma: torch.Tensor) -> torch.Tensor:
    down = luma[..., 1:, :-1] - luma[..., :-1, :-1]
    right = luma[..., :-1, 1:] - luma[..., :-1, :-1]
    gradient = (down.square() + right.square() + 1e-12).sqrt().flatten(1)
    laplacian = (luma - F.avg_pool2d(luma, 3, 1, 1, count_include_pad=False)).abs().flatten(1)
    return torch.stack(
        [
            luma.flatten(1).std(1),
            gradient.mean(1),
            gradient.std(1),
            laplacian.mean(1),
            torch.quantile(laplacian, 0.95, dim=1),
        ],
        dim=1,
    )
