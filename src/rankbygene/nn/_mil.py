"""Pooling of a bag of tiles: many features, one representation, a weight for each tile."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError

__all__ = [
    "GatedAttention",
    "MaxPooling",
    "MeanPooling",
    "Pooling",
    "SeedAttention",
    "build_pooling",
]

Pooling = Literal["attention", "transformer", "mean", "max"]
Pooled = tuple[torch.Tensor, torch.Tensor]


class GatedAttention(nn.Module):
    r"""Weighted mean whose weights a small gated network gives :cite:p:`ilse2018attention`.

    .. math::
        z = \sum_i a_i h_i, \qquad
        a = \operatorname{softmax}_i\, w^\top(\tanh(V h_i) \odot \sigma(U h_i))

    Like every pooling here it maps tiles ``[B, T, n_in]`` and a mask ``[B, T]``, True where there is
    a tile, to bags ``[B, n_in]`` and weights ``[B, T]`` that sum to one over the tiles of a bag.
    """

    @checked
    def __init__(self, n_in: int, n_attention: int = 128) -> None:
        super().__init__()
        self.tanh = nn.Linear(n_in, n_attention)
        self.gate = nn.Linear(n_in, n_attention)
        self.score = nn.Linear(n_attention, 1)

    def forward(self, tiles: torch.Tensor, mask: torch.Tensor) -> Pooled:
        gated = torch.tanh(self.tanh(tiles)) * torch.sigmoid(self.gate(tiles))
        weights = _softmax(self.score(gated).squeeze(-1), mask)
        return _weighted(weights, tiles), weights


class MeanPooling(nn.Module):
    """Mean over the tiles; all weigh the same."""

    def forward(self, tiles: torch.Tensor, mask: torch.Tensor) -> Pooled:
        weights = mask / mask.sum(1, keepdim=True)
        return _weighted(weights.to(tiles.dtype), tiles), weights


class MaxPooling(nn.Module):
    """Maximum of each feature; a tile weighs the share of the features that it gives."""

    def forward(self, tiles: torch.Tensor, mask: torch.Tensor) -> Pooled:
        pooled, where = tiles.masked_fill(~mask[..., None], -torch.inf).max(1)
        given = torch.zeros(mask.shape, dtype=tiles.dtype, device=tiles.device)
        return pooled, given.scatter_add(1, where, torch.ones_like(pooled)) / tiles.shape[2]


class SeedAttention(nn.Module):
    """Transformer whose few learnt seeds look at all tiles, then at each other.

    This is the decoder of the set transformer :cite:p:`lee2019settransformer`: multi-head attention
    from ``n_seeds`` seeds to the tiles, a transformer layer between the seeds, and a weighted mean of
    them. Memory is linear in the number of tiles. A tile weighs the sum over seeds of the seed's
    weight times its attention to the tile, mean over heads.
    """

    @checked
    def __init__(
        self, n_in: int, n_seeds: int = 16, n_heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if n_in % n_heads:
            msg = f"the width {n_in} cannot be shared by {n_heads} heads; pass a multiple"
            raise InputValueError(msg)
        self.n_heads = n_heads
        self.seeds = nn.Parameter(torch.randn(n_seeds, n_in) / n_in**0.5)
        self.query = nn.Linear(n_in, n_in)
        self.key_value = nn.Linear(n_in, 2 * n_in)
        self.norm = nn.LayerNorm(n_in)
        self.between = nn.TransformerEncoderLayer(
            n_in, n_heads, 2 * n_in, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.score = nn.Linear(n_in, 1)

    def forward(self, tiles: torch.Tensor, mask: torch.Tensor) -> Pooled:
        query = self.query(self.seeds).unflatten(-1, (self.n_heads, -1))
        key, value = self.key_value(tiles).unflatten(-1, (2 * self.n_heads, -1)).chunk(2, dim=2)
        logits = torch.einsum("shd,bthd->bhst", query, key) / query.shape[-1] ** 0.5
        attention = _softmax(logits, mask[:, None, None])
        seen = torch.einsum("bhst,bthd->bshd", attention, value).flatten(2)
        seeds = self.between(self.norm(self.seeds + seen))
        share = F.softmax(self.score(seeds).squeeze(-1), dim=1)
        return _weighted(share, seeds), torch.einsum("bs,bst->bt", share, attention.mean(1))


@checked
def build_pooling(kind: Pooling, n_in: int, *, dropout: float = 0.0) -> nn.Module:
    """Build a pooling of tiles of width ``n_in`` by name.

    Raises
    ------
    InputValueError
        The name is not known.
    """
    if kind == "attention":
        return GatedAttention(n_in, n_attention=n_in)
    if kind == "transformer":
        return SeedAttention(n_in, dropout=dropout)
    if kind == "mean":
        return MeanPooling()
    if kind == "max":
        return MaxPooling()
    msg = f"pooling={kind!r} is not known; choose {', '.join(map(repr, get_args(Pooling)))}"
    raise InputValueError(msg)


def _softmax(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return F.softmax(logits.masked_fill(~mask, -torch.inf), dim=-1)


def _weighted(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bt,btd->bd", weights, values)
