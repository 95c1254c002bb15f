"""The network of contrastive pretraining: an image encoder under a projection."""

from __future__ import annotations

import torch
from torch import nn

from rankbygene._arguments import checked
from rankbygene.nn import normalize_pixels

__all__ = ["SimCLRModule"]


class SimCLRModule(nn.Module):
    """Image encoder and the projection in whose space views are compared.

    Parameters
    ----------
    backbone
        Image encoder, ``[B, 3, H, W]`` to ``[B, n_features]``.
    n_features
        Width of its features.
    n_projection
        Width of the space of the loss.
    pixel_mean, pixel_std
        Channel statistics that the backbone expects, on the scale [0, 1].

    References
    ----------
    :cite:p:`chen2020simclr`. The loss removes from its space what the views do not share, colour
    and scale among it; the projection takes that on itself, and is thrown away in the end.
    """

    @checked
    def __init__(
        self,
        backbone: nn.Module,
        *,
        n_features: int,
        n_projection: int = 128,
        pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = nn.Sequential(
            nn.Linear(n_features, n_features, bias=False),
            nn.BatchNorm1d(n_features),
            nn.ReLU(),
            nn.Linear(n_features, n_projection),
        )
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1))
        self.pixel_mean: torch.Tensor
        self.pixel_std: torch.Tensor

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images ``[B, 3, H, W]``, uint8 or float in [0, 1], to ``[B, n_features]``."""
        normalized = normalize_pixels(images, self.pixel_mean, self.pixel_std)
        features: torch.Tensor = self.backbone(normalized)
        return features

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Map features to the space of the loss, ``[B, n_projection]``."""
        projected: torch.Tensor = self.projection(features)
        return projected
