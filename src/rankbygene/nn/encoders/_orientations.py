"""The eight ways to lay a square image on a slide: tissue has no up."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rankbygene._arguments import checked

__all__ = ["orientations"]


@checked
def orientations(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the eight rotations and reflections of square images; the first is the input."""
    for turned in (images, images.transpose(-1, -2)):
        yield turned
        yield turned.flip(-1)
        yield turned.flip(-2)
        yield turned.flip((-1, -2))
