"""The networks of BLEEP: an image encoder and two projections into one space."""

from __future__ import annotations

import torch
from torch import nn

from rankbygene._arguments import checked
from rankbygene.base.spots._module import TileModule
from rankbygene.nn import ResidualMLP

__all__ = ["BLEEPModule"]


class BLEEPModule(TileModule):
    """Image encoder, and projections of its features and of expression.

    Parameters
    ----------
    backbone
        Image encoder, ``[B, 3, H, W]`` to ``[B, n_features]``.
    n_features
        Width of its features, over all widths of tiles.
    n_genes
        Size of the panel.
    n_latent
        Width of the shared space.
    dropout
        Within the projections.
    pixel_mean, pixel_std
        Channel statistics that the backbone expects, on the scale [0, 1].

    References
    ----------
    :cite:p:`xie2023bleep`
    """

    @checked
    def __init__(
        self,
        backbone: nn.Module,
        *,
        n_features: int,
        n_genes: int,
        n_latent: int = 256,
        dropout: float = 0.1,
        pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__(backbone, n_genes, pixel_mean, pixel_std)
        self.image_projection = ResidualMLP(n_features, n_latent, dropout)
        self.gene_projection = ResidualMLP(n_genes, n_latent, dropout)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Map features of images to the shared space ``[B, n_latent]``."""
        projected: torch.Tensor = self.image_projection(features)
        return projected

    def gene_features(
        self, expression: torch.Tensor, measured: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map expression ``[B, n_genes]`` on the training scale to the shared space."""
        values = self.fill_unmeasured(self.standardize(expression), measured)
        projected: torch.Tensor = self.gene_projection(values)
        return projected
