"""Augmentation of whole batches on the device they are on.

Images are ``[B, 3, H, W]`` with ``H == W``, uint8 or float in [0, 1]. Every random choice is per image, or per
group of images where ``groups`` ``[B]`` numbers them, and drawn from a generator on the CPU, so that
nothing waits for the device. A part of a batch gets what it would get within the whole where
``groups`` are its places there and ``n_draws`` is the size of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError

__all__ = [
    "Orientation",
    "color_jitter",
    "random_crop",
    "random_kept_view",
    "strong_view",
    "weak_view",
]

Orientation = Literal["all", "released"]

# Gives one number in [0, 1) per image ``[B]``, others at every call.
Draw = Callable[[], torch.Tensor]

# Weights of the luma of ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


@checked
def weak_view(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    orientation: Orientation = "all",
    groups: torch.Tensor | None = None,
    n_draws: int | None = None,
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
    n_draws
        Groups to draw for, ``B`` by default; more where ``images`` are a part of a batch.
    """
    draw = _draw_for(images, generator, groups, n_draws)
    if orientation == "all":
        return _orient(images, draw)
    return torch.rot90(_flip(images, draw), 1, (-2, -1))


@checked
def strong_view(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    jitter: float = 0.8,
    grayscale: float = 0.2,
    orientation: Orientation = "all",
    crop: tuple[float, float] | None = None,
    groups: torch.Tensor | None = None,
    n_draws: int | None = None,
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
    n_draws
        Groups to draw for, ``B`` by default; more where ``images`` are a part of a batch.

    References
    ----------
    Strengths (brightness, contrast, saturation 0.2, hue 0.1) after the released code of
    :cite:p:`huang2024rankbygene`.
    """
    draw = _draw_for(images, generator, groups, n_draws)
    images = _orient(images, draw) if orientation == "all" else _flip(images, draw)
    if images.dtype == torch.uint8:
        images = images.float() / 255
    # Products of colours would come back rounded to half precision.
    with torch.autocast(images.device.type, enabled=False):
        if crop is not None:
            images = _crop(images, draw, crop)
        jittered = _jitter(images, draw)
        images = torch.where(_coin(images, draw, jitter), jittered, images)
        gray = _luma(images).expand_as(images)
        return torch.where(_coin(images, draw, grayscale), gray, images)


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
    view = (_draw_for(first, generator, groups)() * first.shape[1]).long()
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
    return _crop(images, _draw_for(images, generator, groups), area)


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
    draw = _draw_for(images, generator, groups)
    return _jitter(images, draw, brightness, contrast, saturation, hue)


def _flip(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    images = torch.where(_coin(images, draw, 0.5), images.flip(-1), images)
    return torch.where(_coin(images, draw, 0.5), images.flip(-2), images)


def _orient(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Put every image into one of its eight orientations, all equally likely."""
    images = _flip(images, draw)
    # A turned view of the memory would hand its layout on to everything that follows.
    turned = images.transpose(-1, -2).contiguous()
    return torch.where(_coin(images, draw, 0.5), turned, images)


def _crop(images: torch.Tensor, draw: Draw, area: tuple[float, float]) -> torch.Tensor:
    low, high = area
    side = (low + (high - low) * draw()).sqrt()
    # Coordinates run from -1 to 1 along each axis, so that 1 - side is the room on either side.
    x, y = ((1 - side) * (2 * draw() - 1) for _ in range(2))
    none = torch.zeros_like(side)
    window = torch.stack([side, none, x, none, side, y], 1).view(-1, 2, 3)
    grid = F.affine_grid(
        window.to(images, non_blocking=True), list(images.shape), align_corners=False
    )
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _jitter(
    images: torch.Tensor,
    draw: Draw,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
    hue: float = 0.1,
) -> torch.Tensor:
    images = (images * _factor(images, draw, brightness)).clamp_(0, 1)
    mean = _luma(images).mean((-1, -2), keepdim=True)
    images.sub_(mean).mul_(_factor(images, draw, contrast)).add_(mean).clamp_(0, 1)
    luma = _luma(images)
    images.sub_(luma).mul_(_factor(images, draw, saturation)).add_(luma)
    return _turn_hue(images, draw, hue).clamp_(0, 1)


def _turn_hue(images: torch.Tensor, draw: Draw, hue: float) -> torch.Tensor:
    """Rotate colours about the grey axis, a linear stand-in for a shift of hue."""
    angle = 2 * torch.pi * (draw() * 2 - 1) * hue
    cos, sin = angle.cos(), angle.sin()
    third, root = (1 - cos) / 3, sin / 3**0.5
    a, b, c = cos + third, third - root, third + root
    matrix = torch.stack([a, b, c, c, a, b, b, c, a], 1).view(-1, 3, 3)
    matrix = matrix.to(images, non_blocking=True)
    return torch.einsum("bij,bjhw->bihw", matrix, images)


def _factor(images: torch.Tensor, draw: Draw, strength: float) -> torch.Tensor:
    factor = 1 + strength * (draw() * 2 - 1)
    return factor.view(-1, 1, 1, 1).to(images, non_blocking=True)


def _coin(images: torch.Tensor, draw: Draw, p: float) -> torch.Tensor:
    return (draw() < p).view(-1, 1, 1, 1).to(images.device, non_blocking=True)


def _draw_for(
    images: torch.Tensor,
    generator: torch.Generator,
    groups: torch.Tensor | None,
    n_draws: int | None = None,
) -> Draw:
    """Draw one number per image, the same for images of one group."""
    # There are no more groups than images, so that no device has to be asked how many.
    n = len(images) if n_draws is None else n_draws
    if groups is None and n != len(images):
        msg = f"n_draws is {n} and there are {len(images)} images; pass groups, the place of each"
        raise InputValueError(msg)

    def draw() -> torch.Tensor:
        numbers = torch.rand(n, generator=generator, device=generator.device)
        return numbers if groups is None else numbers.to(groups.device, non_blocking=True)[groups]

    return draw


def _luma(images: torch.Tensor) -> torch.Tensor:
    # Made on the CPU: a tensor made of numbers on another device would wait for it.
    weights = torch.tensor(_LUMA, dtype=images.dtype).to(images.device, non_blocking=True)
    return torch.einsum("c,bchw->bhw", weights, images)[:, None]
