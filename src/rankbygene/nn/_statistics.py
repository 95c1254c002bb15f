"""Descriptions of a tile that no training goes into."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["N_STATISTICS", "color_statistics", "color_texture_statistics"]

N_STATISTICS = 44

_LUMA = (0.299, 0.587, 0.114)
_N_SCALES = 4


def color_statistics(images: torch.Tensor) -> torch.Tensor:
    """Mean, spread and percentiles of each colour channel.

    Parameters
    ----------
    images
        ``[B, 3, px, px]``, uint8 or float in [0, 1].

    Returns
    -------
    float32 ``[B, 15]``: mean, standard deviation, 10th, 50th and 90th percentile per channel.
    """
    values = _unit(images).flatten(2)
    levels = torch.tensor([0.1, 0.5, 0.9], device=images.device)
    percentiles = torch.quantile(values, levels, dim=2).permute(1, 2, 0)
    statistics = [values.mean(2, keepdim=True), values.std(2, keepdim=True), percentiles]
    return torch.cat(statistics, dim=2).flatten(1)


def color_texture_statistics(images: torch.Tensor) -> torch.Tensor:
    """Colour statistics, optical density, and how rough the tile is at several scales.

    What a person could tell from a blurred and a sharpened look at the tile: how much stain, how
    many edges of which size. A model that does not beat a ridge on these has learnt no histology.

    Parameters
    ----------
    images
        ``[B, 3, px, px]``, uint8 or float in [0, 1].

    Returns
    -------
    float32 ``[B, 44]``: the 15 of :func:`color_statistics`; mean and spread of the optical density
    per channel and its three correlations between channels (9); at four scales, each half as fine
    as the one before, of the grey image: spread, mean and spread of the gradient, mean and 95th
    percentile of the absolute Laplacian (20).
    """
    values = _unit(images)
    parts = [color_statistics(values), _optical_density(values)]
    luma = torch.einsum("c,bchw->bhw", torch.tensor(_LUMA, device=images.device), values)[:, None]
    for _ in range(_N_SCALES):
        parts.append(_roughness(luma))
        luma = F.avg_pool2d(luma, 2, ceil_mode=True)
    return torch.cat(parts, dim=1)


def _optical_density(values: torch.Tensor) -> torch.Tensor:
    density = -torch.log(values.clamp(min=1 / 255)).flatten(2)
    centered = density - density.mean(2, keepdim=True)
    spread = centered.square().mean(2).sqrt()
    scaled = centered / spread[..., None].clamp(min=1e-6)
    pairs = [(scaled[:, i] * scaled[:, j]).mean(1) for i, j in ((0, 1), (0, 2), (1, 2))]
    return torch.cat([density.mean(2), spread, torch.stack(pairs, 1)], dim=1)


def _roughness(luma: torch.Tensor) -> torch.Tensor:
    """Spread, gradients and Laplacian of a grey image, ``[B, 5]``."""
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


def _unit(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()
