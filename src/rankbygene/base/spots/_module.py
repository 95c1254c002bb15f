"""What the networks of every method share: the scale of images and of expression."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import islice
from typing import Self

import torch
from torch import nn

from rankbygene._arguments import checked
from rankbygene.nn import normalize_pixels, orientations
from rankbygene.nn.encoders._fine_tune import rest_frozen

__all__ = ["SpotModule", "TileModule", "split_widths"]


class SpotModule(nn.Module, ABC):
    """Networks over spots, each an image and a profile.

    Parameters
    ----------
    n_genes
        Size of the panel.
    pixel_mean, pixel_std
        Channel statistics that the backbone expects, on the scale [0, 1].
    """

    @checked
    def __init__(
        self,
        n_genes: int,
        pixel_mean: tuple[float, float, float],
        pixel_std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.register_buffer("expression_mean", torch.zeros(n_genes))
        self.register_buffer("expression_std", torch.ones(n_genes))
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1))
        self.expression_mean: torch.Tensor
        self.expression_std: torch.Tensor
        self.pixel_mean: torch.Tensor
        self.pixel_std: torch.Tensor

    @property
    @abstractmethod
    def encoders(self) -> list[nn.Module]:
        """The image encoders, that which is trained first."""

    @abstractmethod
    def encode_orientations(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode images in each of their eight orientations, for heads to be trained on.

        Parameters
        ----------
        images
            ``[B, C, H, W]``, uint8 or float in [0, 1].

        Returns
        -------
        What a batch holds instead of ``image``, each ``[B, 8, ...]``, in the order of
        :func:`rankbygene.nn.orientations`.
        """

    @property
    def context_encoder(self) -> nn.Module:
        """The network whose features of frozen context are kept; no training may change it."""
        return self.encoders[0]

    def encode_context(self, images: torch.Tensor) -> torch.Tensor:
        """Encode tiles ``[B, C, H, W]`` to what is kept of frozen context, ``[B, ...]`` of any shape.

        By default the vector of the spot's own tile, without its wider ones.
        """
        features: torch.Tensor = self.context_encoder(self.normalize_images(images[:, :3]))
        return features

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation; what no training changes always evaluates."""
        super().train(mode)
        rest_frozen(self)
        return self

    def set_expression_stats(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Store mean and standard deviation ``[n_genes]`` of the training spots."""
        self.expression_mean.copy_(mean)
        self.expression_std.copy_(std)

    def standardize(self, expression: torch.Tensor) -> torch.Tensor:
        """Centre and scale expression ``[B, n_genes]`` by the training statistics."""
        return (expression - self.expression_mean) / self.expression_std

    def to_training_scale(self, standardized: torch.Tensor) -> torch.Tensor:
        """Undo :meth:`standardize`."""
        return standardized * self.expression_std + self.expression_mean

    def fill_unmeasured(
        self, standardized: torch.Tensor, measured: torch.Tensor | None
    ) -> torch.Tensor:
        """Put the training mean where a gene was not measured (``[B, n_genes]`` False).

        The mean says nothing, while a zero would say that the gene is silent.
        """
        return standardized if measured is None else torch.where(measured, standardized, 0.0)

    def normalize_images(self, images: torch.Tensor) -> torch.Tensor:
        """Scale images, uint8 or float in [0, 1], to what the backbone expects."""
        return normalize_pixels(images, self.pixel_mean, self.pixel_std)


class TileModule(SpotModule):
    """Networks on top of one image encoder that sees each tile by itself.

    Parameters
    ----------
    backbone
        ``[B, 3, H, W]`` to ``[B, n_features]``.
    n_genes
        Size of the panel.
    pixel_mean, pixel_std
        Channel statistics that the backbone expects, on the scale [0, 1].
    """

    @checked
    def __init__(
        self,
        backbone: nn.Module,
        n_genes: int,
        pixel_mean: tuple[float, float, float],
        pixel_std: tuple[float, float, float],
    ) -> None:
        super().__init__(n_genes, pixel_mean, pixel_std)
        self.backbone = backbone

    @property
    def encoders(self) -> list[nn.Module]:
        """The image encoder."""
        return [self.backbone]

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images ``[B, 3 * n_widths, H, W]`` to ``[B, n_widths * n_features]``."""
        features: torch.Tensor = self.backbone(self.normalize_images(split_widths(images)))
        return features.view(len(images), -1)

    def encode_orientations(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode images in each orientation: ``features``."""
        return {"features": torch.stack([self.image_features(v) for v in orientations(images)], 1)}

    def averaged_features(self, images: torch.Tensor, tta: int = 8) -> torch.Tensor:
        """Encode images, the mean over ``tta`` of their eight orientations."""
        turned = islice(orientations(images), tta)
        return torch.stack([self.image_features(view).float() for view in turned]).mean(0)


def split_widths(images: torch.Tensor) -> torch.Tensor:
    """Take tiles apart that are stacked along the channels: ``[B, 3 * n, H, W]`` to ``[B * n, 3, H, W]``."""
    return images.view(-1, 3, *images.shape[2:])
