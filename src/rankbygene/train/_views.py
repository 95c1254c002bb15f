"""Augmentation of whole batches on the device they are on.

Images are float ``[B, 3, H, W]`` in [0, 1] with ``H == W``. Every random choice is per image and
drawn from a generator on the CPU, so that nothing waits for the device.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

__all__ = [
    "Orientation",
    "color_jitter",
    "random_crop",
    "random_orientation",
    "strong_view",
    "weak_view",
]

Orientation = Literal["all", "released"]

# Weights of the luma of ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


def random_orientation(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Put every image into one of its eight orientations, all equally likely."""
    images = _random_flips(images, generator)
    return torch.where(_coin(images, 0.5, generator), images.transpose(-1, -2), images)


def _random_flips(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    images = torch.where(_coin(images, 0.5, generator), images.flip(-1), images)
    return torch.where(_coin(images, 0.5, generator), images.flip(-2), images)


def weak_view(
    images: torch.Tensor, generator: torch.Generator, *, orientation: Orientation = "all"
) -> torch.Tensor:
    """Return the teacher's view: a random orientation.

    Parameters
    ----------
    images
        float ``[B, 3, H, W]`` in [0, 1].
    generator
        Source of every random choice.
    orientation
        ``"all"``: any of the eight. ``"released"``: the four that the authors' code can reach,
        none of which it ever shows to the student (its quarter turn is never left out).
    """
    if orientation == "all":
        return random_orientation(images, generator)
    return torch.rot90(_random_flips(images, generator), 1, (-2, -1))


def strong_view(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    jitter: float = 0.8,
    grayscale: float = 0.2,
    orientation: Orientation = "all",
    crop: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Return the student's view: random orientation, colour jitter, sometimes no colour.

    Parameters
    ----------
    images
        float ``[B, 3, H, W]`` in [0, 1].
    generator
        Source of every random choice.
    jitter, grayscale
        Probability of colour jitter and of losing colour.
    orientation
        ``"all"``: any of the eight. ``"released"``: flips alone, which reach four.
    crop
        Smallest and largest share of the image's area that is kept, see :func:`random_crop`. None
        keeps the whole.

    References
    ----------
    Strengths (brightness, contrast, saturation 0.2, hue 0.1) after the released code of
    :cite:p:`huang2024rankbygene`.
    """
    oriented = random_orientation if orientation == "all" else _random_flips
    images = oriented(images, generator)
    if crop is not None:
        images = random_crop(images, generator, crop)
    jittered = color_jitter(images, generator)
    images = torch.where(_coin(images, jitter, generator), jittered, images)
    gray = _luma(images).expand_as(images)
    return torch.where(_coin(images, grayscale, generator), gray, images)


def random_crop(
    images: torch.Tensor, generator: torch.Generator, area: tuple[float, float]
) -> torch.Tensor:
    """Cut a random square out of each image and enlarge it to the size of the image.

    Parameters
    ----------
    images
        float ``[B, 3, H, W]``.
    generator
        Source of every random choice.
    area
        Smallest and largest share of the image's area that the square covers, all equally likely;
        above 0 and up to 1.
    """
    low, high = area
    side = (low + (high - low) * _uniform(len(images), generator)).sqrt()
    # Coordinates run from -1 to 1 along each axis, so that 1 - side is the room on either side.
    x, y = ((1 - side) * (2 * _uniform(len(images), generator) - 1) for _ in range(2))
    none = torch.zeros_like(side)
    window = torch.stack([side, none, x, none, side, y], 1).view(-1, 2, 3)
    grid = F.affine_grid(window.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def color_jitter(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
    hue: float = 0.1,
) -> torch.Tensor:
    """Vary brightness, contrast, saturation and hue of each image independently.

    Strengths are the largest relative change; that of ``hue`` is a share of the full circle.
    """
    images = (images * _factor(images, brightness, generator)).clamp(0, 1)
    mean = _luma(images).mean((-1, -2), keepdim=True)
    images = mean + (images - mean) * _factor(images, contrast, generator)
    images = images.clamp(0, 1)
    luma = _luma(images)
    images = luma + (images - luma) * _factor(images, saturation, generator)
    return _turn_hue(images, hue, generator).clamp(0, 1)


def _turn_hue(images: torch.Tensor, hue: float, generator: torch.Generator) -> torch.Tensor:
    """Rotate colours about the grey axis, a linear stand-in for a shift of hue."""
    angle = 2 * torch.pi * (_uniform(len(images), generator) * 2 - 1) * hue
    cos, sin = angle.cos(), angle.sin()
    third, root = (1 - cos) / 3, sin / 3**0.5
    a, b, c = cos + third, third - root, third + root
    matrix = torch.stack([a, b, c, c, a, b, b, c, a], 1).view(-1, 3, 3).to(images)
    return torch.einsum("bij,bjhw->bihw", matrix, images)


def _factor(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    factor = 1 + strength * (_uniform(len(images), generator) * 2 - 1)
    return factor.view(-1, 1, 1, 1).to(images, non_blocking=True)


def _coin(images: torch.Tensor, p: float, generator: torch.Generator) -> torch.Tensor:
    chosen = _uniform(len(images), generator) < p
    return chosen.view(-1, 1, 1, 1).to(images.device, non_blocking=True)


def _uniform(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator, device=generator.device)


def _luma(images: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(_LUMA, dtype=images.dtype, device=images.device)
    return torch.einsum("c,bchw->bhw", weights, images)[:, None]
