"""Descriptions of a tile that no training goes into."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rankbygene._arguments import checked

__all__ = ["N_STATISTICS", "color_statistics", "color_texture_statistics"]

N_STATISTICS = 44
# Counts the definitions of the statistics: weights fitted on one say nothing of another.
STATISTICS_VERSION = 2

_LUMA = (0.299, 0.587, 0.114)
_N_SCALES = 4


@checked
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
    return _color(_unit(images)).float()


@checked
def color_texture_statistics(images: torch.Tensor) -> torch.Tensor:
    """Colour statistics, optical density, and how rough the tile is at several scales.

    All eight orientations of a tile have the same statistics: every one is symmetric, and none hangs
    on the order in which pixels are summed, as they are computed in double precision.

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
    percentile of the absolute Laplacian (20), 0 where a tile has too few pixels.
    """
    values = _unit(images)
    parts = [_color(values), optical_density(values)]
    weights = torch.tensor(_LUMA, dtype=values.dtype, device=images.device)
    luma = torch.einsum("c,bchw->bhw", weights, values)
    for _ in range(_N_SCALES):
        parts.append(_roughness(luma))
        # Cells of two by two; where a side is odd, those of the middle overlap, not those of one end.
        height, width = luma.shape[-2:]
        luma = F.adaptive_avg_pool2d(luma, (-(-height // 2), -(-width // 2)))
    return torch.cat(parts, dim=1).float()


def _color(values: torch.Tensor) -> torch.Tensor:
    values = values.flatten(2)
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=values.dtype, device=values.device)
    percentiles = torch.quantile(values, levels, dim=2).permute(1, 2, 0)
    statistics = [values.mean(2, keepdim=True), _spread(values)[..., None], percentiles]
    return torch.cat(statistics, dim=2).flatten(1)


def optical_density(values: torch.Tensor) -> torch.Tensor:
    """Mean and spread per channel and the three correlations of channels in [0, 1], ``[B, 9]``."""
    density = -torch.log(values.clamp(min=1 / 255)).flatten(2)
    centered = density - density.mean(2, keepdim=True)
    spread = centered.square().mean(2).sqrt()
    scaled = centered / spread[..., None].clamp(min=1e-6)
    pairs = [(scaled[:, i] * scaled[:, j]).mean(1) for i, j in ((0, 1), (0, 2), (1, 2))]
    return torch.cat([density.mean(2), spread, torch.stack(pairs, 1)], dim=1)


def _roughness(luma: torch.Tensor) -> torch.Tensor:
    """Spread, gradients and Laplacian of a grey image ``[B, H, W]``: ``[B, 5]``."""
    gradient = _gradient(luma).flatten(1)
    mean = F.avg_pool2d(luma, 3, 1, 1, count_include_pad=False)
    laplacian = (luma - mean).abs().flatten(1)
    return torch.stack(
        [
            _spread(luma.flatten(1)),
            gradient.mean(1),
            _spread(gradient),
            laplacian.mean(1),
            torch.quantile(laplacian, 0.95, dim=1),
        ],
        dim=1,
    )


def _gradient(luma: torch.Tensor) -> torch.Tensor:
    """Length of the gradient between pixels: in each cell of two by two, from its four sides."""
    if min(luma.shape[-2:]) < 2:
        return torch.zeros_like(luma)
    down = (luma[:, 1:] - luma[:, :-1]).square()
    right = (luma[:, :, 1:] - luma[:, :, :-1]).square()
    sides = down[:, :, 1:] + down[:, :, :-1] + right[:, 1:] + right[:, :-1]
    return (sides / 2 + 1e-12).sqrt()


def _spread(values: torch.Tensor) -> torch.Tensor:
    """Standard deviation over the last dimension; of one value, 0."""
    return values.std(-1, correction=min(1, values.shape[-1] - 1))


def _unit(images: torch.Tensor) -> torch.Tensor:
    """Values in [0, 1], in double precision where the device has it."""
    wide = torch.float32 if images.device.type == "mps" else torch.float64
    return images.to(wide) / 255 if images.dtype == torch.uint8 else images.to(wide)
