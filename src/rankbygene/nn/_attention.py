"""Attention from the tokens of one modality to those of another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError

__all__ = ["CrossAttention"]


class CrossAttention(nn.Module):
    """Transformer blocks whose queries come from one modality and whose keys from the other.

    Each block is ``x = q + Attention(LN(q), LN(kv))``, then ``x + FFN(LN(x))``; a layer norm follows
    the last. Over a single key the softmax is 1 whatever the query: the block then adds a linear map
    of that key, and only several keys leave attention something to choose.

    Parameters
    ----------
    n_features
        Width of the tokens.
    n_heads
        Attention heads; they share ``n_features``.
    depth
        Number of blocks.
    mlp_ratio
        Width of the hidden layer of the FFN over ``n_features``.
    dropout
        After each linear map that leaves a block's branch.

    Raises
    ------
    InputValueError
        ``n_features`` is no multiple of ``n_heads``.

    References
    ----------
    :cite:p:`qu2025nh2st`
    """

    @checked
    def __init__(
        self,
        n_features: int,
        *,
        n_heads: int = 8,
        depth: int = 1,
        mlp_ratio: float = 1.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if n_features % n_heads:
            msg = f"n_latent={n_features} is no multiple of the {n_heads} attention heads; change either"
            raise InputValueError(msg)
        n_hidden = round(mlp_ratio * n_features)
        self.blocks = nn.ModuleList(
            _Block(n_features, n_heads, n_hidden, dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(n_features)

    def forward(
        self, query: torch.Tensor, keys: torch.Tensor, present: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend.

        Parameters
        ----------
        query
            ``[B, C]``, or tokens ``[B, Q, C]``.
        keys
            ``[B, C]``, or tokens ``[B, T, C]``.
        present
            bool ``[B, T]``; keys that are False are not looked at.

        Returns
        -------
        Of the shape of ``query``.
        """
        x = query[:, None] if query.ndim == 2 else query
        keys = keys[:, None] if keys.ndim == 2 else keys
        for block in self.blocks:
            x = block(x, keys, present)
        fused: torch.Tensor = self.norm(x)
        return fused[:, 0] if query.ndim == 2 else fused


class _Block(nn.Module):
    def __init__(self, n_features: int, n_heads: int, n_hidden: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query_norm = nn.LayerNorm(n_features)
        self.key_norm = nn.LayerNorm(n_features)
        self.to_query = nn.Linear(n_features, n_features, bias=False)
        self.to_key_value = nn.Linear(n_features, 2 * n_features, bias=False)
        self.out = nn.Sequential(nn.Linear(n_features, n_features), nn.Dropout(dropout))
        self.mlp = nn.Sequential(
            nn.LayerNorm(n_features),
            nn.Linear(n_features, n_hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(n_hidden, n_features),
            nn.Dropout(dropout),
        )

    def forward(
        self, query: torch.Tensor, keys: torch.Tensor, present: torch.Tensor | None
    ) -> torch.Tensor:
        x = query + self.attend(query, keys, present)
        fused: torch.Tensor = x + self.mlp(x)
        return fused

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, present: torch.Tensor | None
    ) -> torch.Tensor:
        """Give what attention adds to the query."""
        q = self._split(self.to_query(self.query_norm(query)))
        key, value = self.to_key_value(self.key_norm(keys)).chunk(2, dim=-1)
        mask = None if present is None else present[:, None, None, :]
        attended = F.scaled_dot_product_attention(
            q, self._split(key), self._split(value), attn_mask=mask
        )
        added: torch.Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return added

    def _split(self, tokens: torch.Tensor) -> torch.Tensor:
        """Reshape ``[B, T, C]`` to ``[B, heads, T, C / heads]``."""
        return tokens.view(*tokens.shape[:2], self.n_heads, -1).transpose(1, 2)
