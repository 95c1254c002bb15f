"""The network of ST-Net: an image encoder and a linear map to expression."""

from __future__ import annotations

import torch
from torch import nn

from rankbygene._arguments import checked
from rankbygene.base.spots._module import TileModule

__all__ = ["STNetModule"]


class STNetModule(TileModule):
    """Image encoder and linear predictor, which starts at the mean of the training spots.

    Parameters
    ----------
    backbone
        Image encoder, ``[B, 3, H, W]`` to ``[B, n_features]``.
    n_features
        Width of its features, over all widths of tiles.
    n_genes
        Size of the panel.
    pixel_mean, pixel_std
        Channel statistics that the backbone expects, on the scale [0, 1].

    References
    ----------
    :cite:p:`he2020stnet`. The predictor works on standardised expression, where a weight and bias of 0
    are the mean of the training spots.
    """

    @checked
    def __init__(
        self,
        backbone: nn.Module,
        *,
        n_features: int,
        n_genes: int,
        pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__(backbone, n_genes, pixel_mean, pixel_std)
        self.predictor = nn.Linear(n_features, n_genes)
        nn.init.zeros_(self.predictor.weight)
        nn.init.zeros_(self.predictor.bias)

    def predict_from_features(self, features: torch.Tensor) -> torch.Tensor:
        """Predict expression ``[B, n_genes]`` on the training scale."""
        return self.to_training_scale(self.predictor(features))
