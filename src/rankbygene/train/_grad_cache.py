"""Large batches in little memory: encode in chunks, keep representations alone.

A loss that compares the tiles of a batch needs the representations of all, but the activations that
led to them only one chunk at a time (GradCache): a first pass keeps no graph; the loss gives the gradient
of every representation; a second pass over each chunk turns it into gradients of the weights and frees
its activations before the next one. PyTorch's checkpointing of one chunk does exactly that within a single
graph, so that mixed precision, accumulation, clipping and many devices work as they do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["Encoder", "Tiles", "encode_in_chunks"]


class Tiles(NamedTuple):
    """Some of the tiles of a batch.

    Attributes
    ----------
    images
        uint8 ``[U, 3, H, W]``.
    places
        int64 ``[U]``: which tiles of the batch they are.
    n
        Tiles of the batch.
    """

    images: torch.Tensor
    places: torch.Tensor
    n: int


Encoder = Callable[[Tiles, torch.Generator], tuple[torch.Tensor, ...]]


def encode_in_chunks(
    encoder: Encoder,
    tiles: Tiles,
    generator: torch.Generator,
    *,
    n_chunks: int,
    module: nn.Module,
) -> tuple[torch.Tensor, ...]:
    """Encode tiles chunk by chunk, with the result and the gradients of doing it at once.

    Parameters
    ----------
    encoder
        Maps tiles to representations, each ``[U, ...]``. What it draws from the generator must
        depend on ``tiles.n`` and ``tiles.places`` alone, not on which tiles are at hand.
    tiles
        All tiles.
    generator
        Source of augmentation.
    n_chunks
        How many chunks. One is encoded directly.
    module
        Network whose batch normalisation, if it has any, is to count a tile once.

    References
    ----------
    :cite:p:`gao2021gradcache`
    """
    if n_chunks == 1:
        return encoder(tiles, generator)
    state = generator.get_state()
    same = torch.Generator(generator.device)

    def encode(images: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Every chunk, and the second pass over it, draws what the whole batch would draw.
        same.set_state(state)
        return encoder(Tiles(images, places, tiles.n), same)

    chunks = [
        checkpoint(
            encode,
            *chunk,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _fixed_statistics(module)),
        )
        for chunk in zip(
            tiles.images.tensor_split(n_chunks), tiles.places.tensor_split(n_chunks), strict=True
        )
    ]
    generator.set_state(same.get_state())
    return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))


@contextmanager
def _fixed_statistics(module: nn.Module) -> Iterator[None]:
    """Keep running statistics as they are: the first pass has counted these tiles."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    kept = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked = layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (momentum, counted) in zip(layers, kept, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, counted
