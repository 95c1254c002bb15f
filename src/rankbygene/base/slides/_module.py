"""The network that judges a slide from the features of its tiles."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from rankbygene._arguments import checked
from rankbygene.nn import Pooling, build_pooling
from rankbygene.nn._heads import Standardize

__all__ = ["SlideModule"]


class SlideModule(nn.Module):
    """Standardised tile features, a layer per tile, pooling, a linear head.

    Parameters
    ----------
    n_features
        Width of the tile features.
    n_outputs
        Width of the result.
    pooling
        ``"attention"`` (:class:`~rankbygene.nn.GatedAttention`), ``"transformer"``
        (:class:`~rankbygene.nn.SeedAttention`), ``"mean"`` or ``"max"``.
    n_hidden
        Width of a tile after the first layer.
    dropout
        After that layer, within the attention and before the head.
    """

    @checked
    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        pooling: Pooling = "attention",
        n_hidden: int = 128,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.scale = Standardize(n_features)
        self.encoder = nn.Sequential(
            nn.Linear(n_features, n_hidden), nn.ReLU(), nn.Dropout(dropout)
        )
        self.pooling = build_pooling(pooling, n_hidden, dropout=dropout)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(n_hidden, n_outputs))

    def set_scale(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Set mean and standard deviation ``[n_features]`` of the tile features."""
        self.scale.mean.copy_(mean)
        self.scale.std.copy_(std)

    def forward(
        self, features: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Judge bags ``[B, T, n_features]``: outputs ``[B, n_outputs]``, tile weights ``[B, T]``.

        ``mask`` ``[B, T]`` is True where there is a tile.
        """
        pooled, weights = self.pooling(self.encoder(self.scale(features)), mask)
        return self.head(pooled), weights

    def encode(self, blocks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Encode the tiles of a bag that comes in blocks ``[t, n_features]``: ``[T, n_hidden]``.

        Encoded tiles are narrower than features, and fit into memory where those would not.
        """
        return torch.cat([self.encoder(self.scale(block)) for block in blocks])

    def judge(self, tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Judge one bag of encoded tiles: outputs ``[n_outputs]``, tile weights ``[T]``."""
        mask = torch.ones(1, len(tiles), dtype=torch.bool, device=tiles.device)
        pooled, weights = self.pooling(tiles[None], mask)
        return self.head(pooled)[0], weights[0]
