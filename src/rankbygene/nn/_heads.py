"""Small networks that sit on top of features."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from rankbygene._arguments import checked

__all__ = ["ExpressionMLP", "FeatureScaling", "ResidualMLP"]

FeatureScaling = Literal["standard", "spot"]


class ResidualMLP(nn.Module):
    """Projection into the shared space: ``p = W1 x``, then ``LayerNorm(p + W2 GELU(p))``.

    Maps ``[B, n_in]`` to ``[B, n_out]``. Image heads and the gene encoder of
    :cite:p:`huang2024rankbygene` have this form.
    """

    @checked
    def __init__(self, n_in: int, n_out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.projection = nn.Linear(n_in, n_out)
        self.residual = nn.Linear(n_out, n_out)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projected = self.projection(x)
        normed: torch.Tensor = self.norm(projected + self.dropout(self.residual(F.gelu(projected))))
        return normed


class Standardize(nn.Module):
    """Centre and scale features ``[B, n]`` by the statistics given to :meth:`fit`."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("std", torch.ones(n))
        self.mean: torch.Tensor
        self.std: torch.Tensor

    def fit(self, features: torch.Tensor) -> None:
        """Take mean and standard deviation from ``features``; a constant feature keeps its scale."""
        std = features.std(0)
        self.mean.copy_(features.mean(0))
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


class SpotRange(nn.Module):
    """Scale the features ``[B, n]`` of each spot to [0, 1] by their own smallest and largest."""

    def fit(self, features: torch.Tensor) -> None:
        """Nothing is learnt: a spot is scaled by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low, high = x.aminmax(dim=1, keepdim=True)
        return (x - low) / (high - low + 1e-8)


class ExpressionMLP(nn.Module):
    """Perceptron with two hidden layers: features ``[B, n_in]`` to expression ``[B, n_genes]``.

    The downstream predictor of :cite:p:`huang2024rankbygene`.

    Parameters
    ----------
    n_in, n_genes, n_hidden
        Widths.
    dropout
        After each hidden layer.
    scaling
        ``"standard"``: each feature is standardised over the training spots. ``"spot"``: the
        features of each spot are scaled to [0, 1], as the authors' code does.
    """

    @checked
    def __init__(
        self,
        n_in: int,
        n_genes: int,
        n_hidden: int = 1024,
        dropout: float = 0.1,
        scaling: FeatureScaling = "standard",
    ) -> None:
        super().__init__()
        self.scale = Standardize(n_in) if scaling == "standard" else SpotRange()
        self.layers = nn.Sequential(
            nn.Linear(n_in, n_hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(n_hidden, n_hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(n_hidden, n_genes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        predicted: torch.Tensor = self.layers(self.scale(x))
        return predicted
