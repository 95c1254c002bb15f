"""Augmentation of whole batches on the device they are on.

Images are ``[B, 3, H, W]`` with ``H == W``, uint8 or float in [0, 1]. Every random choice is per image, or per
group of images where ``groups`` ``[B]`` numbers them, and drawn from a generator on the CPU, so that
nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

__all__ = [
    "Orientation",
    "color_jitter",
    "random_crop",
    "random_kept_view",
    "random_orientation",
    "strong_view",
    "weak_view",
]

Orientation = Literal["all", "released"]

# Weights of the luma of ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


def random_orientation(
    images: torch.Tensor, generator: torch.Generator, groups: torch.Tensor | None = None
) -> torch.Tensor:
    """Put every image into one of its eight orientations, all equally likely."""
    images = _random_flips(images, generator, groups)
    return torch.where(_coin(images, 0.5, generator, groups), images.transpose(-1, -2), images)


def _random_flips(
    images: torch.Tensor, generator: torch.Generator, groups: torch.Tensor | None = None
) -> torch.Tensor:
    images = torch.where(_coin(images, 0.5, generator, groups), images.flip(-1), images)
    return torch.where(_coin(images, 0.5, generator, groups), images.flip(-2), images)


def weak_view(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    orientation: Orientation = "all",
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the teacher's view: a random orientation, of the dtype of the images.

    Parameters
    ----------
    images
        ``[B, 3, H, W]``, uint8 or float in [0, 1].
    generator
        Source of every random choice.
    orientation
        ``"all"``: any of the eight. ``"released"``: the four that the authors' code can reach,
        none of which it ever shows to the student (its quarter turn is never left out).
    groups
        int64 ``[B]``, numbered from 0: images of one group are treated alike.
    """
    if orientation == "all":
        return random_orientation(images, generator, groups)
    return torch.rot90(_random_flips(images, generator, groups), 1, (-2, -1))


def strong_view(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    jitter: float = 0.8,
    grayscale: float = 0.2,
    orientation: Orientation = "all",
    crop: tuple[float, float] | None = None,
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the student's view: random orientation, colour jitter, sometimes no colour.

    Parameters
    ----------
    images
        ``[B, 3, H, W]``, uint8 or float in [0, 1]; the view is float. Bytes are turned faster.
    generator
        Source of every random choice.
    jitter, grayscale
        Probability of colour jitter and of losing colour.
    orientation
        ``"all"``: any of the eight. ``"released"``: flips alone, which reach four.
    crop
        Smallest and largest share of the image's area that is kept, see :func:`random_crop`. None
        keeps the whole.
    groups
        int64 ``[B]``, numbered from 0: images of one group are treated alike.

    References
    ----------
    Strengths (brightness, contrast, saturation 0.2, hue 0.1) after the released code of
    :cite:p:`huang2024rankbygene`.
    """
    oriented = random_orientation if orientation == "all" else _random_flips
    images = oriented(images, generator, groups)
    if images.dtype == torch.uint8:
        images = images.float() / 255
    if crop is not None:
        images = random_crop(images, generator, crop, groups)
    jittered = color_jitter(images, generator, groups=groups)
    images = torch.where(_coin(images, jitter, generator, groups), jittered, images)
    gray = _luma(images).expand_as(images)
    return torch.where(_coin(images, grayscale, generator, groups), gray, images)


def random_kept_view(
    kept: Sequence[torch.Tensor],
    generator: torch.Generator,
    groups: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """Draw, for every image, one of the views whose features were kept.

    Parameters
    ----------
    kept
        Of the same images and ``V`` views, each ``[B, V, ...]``.
    generator
        Source of every random choice.
    groups
        int64 ``[B]``, numbered from 0: images of one group get the same view.

    Returns
    -------
    Of each what belongs to the same view, ``[B, ...]``.
    """
    first = kept[0]
    view = (_uniform(first, generator, groups) * first.shape[1]).long()
    view = view.to(first.device, non_blocking=True)
    rows = torch.arange(len(first), device=first.device)
    return [tensor[rows, view] for tensor in kept]


def random_crop(
    images: torch.Tensor,
    generator: torch.Generator,
    area: tuple[float, float],
    groups: torch.Tensor | None = None,
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
    groups
        int64 ``[B]``, numbered from 0: images of one group are treated alike.
    """
    low, high = area
    side = (low + (high - low) * _uniform(images, generator, groups)).sqrt()
    # Coordinates run from -1 to 1 along each axis, so that 1 - side is the room on either side.
    x, y = ((1 - side) * (2 * _uniform(images, generator, groups) - 1) for _ in range(2))
    none = torch.zeros_like(side)
    window = torch.stack([side, none, x, none, side, y], 1).view(-1, 2, 3)
    grid = F.affine_grid(
        window.to(images, non_blocking=True), list(images.shape), align_corners=False
    )
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def color_jitter(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
    hue: float = 0.1,
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """Vary brightness, contrast, saturation and hue of each image, or group, independently.

    Strengths are the largest relative change; that of ``hue`` is a share of the full circle.
    """
    images = (images * _factor(images, brightness, generator, groups)).clamp_(0, 1)
    mean = _luma(images).mean((-1, -2), keepdim=True)
    images.sub_(mean).mul_(_factor(images, contrast, generator, groups)).add_(mean).clamp_(0, 1)
    luma = _luma(images)
    images.sub_(luma).mul_(_factor(images, saturation, generator, groups)).add_(luma)
    return _turn_hue(images, hue, generator, groups).clamp_(0, 1)


def _turn_hue(
    images: torch.Tensor, hue: float, generator: torch.Generator, groups: torch.Tensor | None
) -> torch.Tensor:
    """Rotate colours about the grey axis, a linear stand-in for a shift of hue."""
    angle = 2 * torch.pi * (_uniform(images, generator, groups) * 2 - 1) * hue
    cos, sin = angle.cos(), angle.sin()
    third, root = (1 - cos) / 3, sin / 3**0.5
    a, b, c = cos + third, third - root, third + root
    matrix = torch.stack([a, b, c, c, a, b, b, c, a], 1).view(-1, 3, 3)
    matrix = matrix.to(images, non_blocking=True)
    return torch.einsum("bij,bjhw->bihw", matrix, images)


def _factor(
    images: torch.Tensor,
    strength: float,
    generator: torch.Generator,
    groups: torch.Tensor | None,
) -> torch.Tensor:
    factor = 1 + strength * (_uniform(images, generator, groups) * 2 - 1)
    return factor.view(-1, 1, 1, 1).to(images, non_blocking=True)


def _coin(
    images: torch.Tensor, p: float, generator: torch.Generator, groups: torch.Tensor | None
) -> torch.Tensor:
    chosen = _uniform(images, generator, groups) < p
    return chosen.view(-1, 1, 1, 1).to(images.device, non_blocking=True)


def _uniform(
    images: torch.Tensor, generator: torch.Generator, groups: torch.Tensor | None
) -> torch.Tensor:
    """One number per image, the same for images of one group."""
    # There are no more groups than images, so that no device has to be asked how many.
    numbers = torch.rand(len(images), generator=generator, device=generator.device)
    return numbers if groups is None else numbers.to(groups.device, non_blocking=True)[groups]


def _luma(images: torch.Tensor) -> torch.Tensor:
    # Made on the CPU: a tensor made of numbers on another device would wait for it.
    weights = torch.tensor(_LUMA, dtype=images.dtype).to(images.device, non_blocking=True)
    return torch.einsum("c,bchw->bhw", weights, images)[:, None]
