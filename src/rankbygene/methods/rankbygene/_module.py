"""The networks of RankByGene: two image branches and a gene encoder; no data, no optimiser."""

from __future__ import annotations

import copy
from itertools import islice
from typing import Literal

import torch
from torch import nn

from rankbygene._arguments import checked
from rankbygene._renamed import renamed
from rankbygene.base.spots._module import SpotModule, split_widths
from rankbygene.errors import InputValueError
from rankbygene.nn import (
    N_STATISTICS,
    ExpressionMLP,
    FeatureScaling,
    ResidualMLP,
    color_texture_statistics,
    orientations,
)
from rankbygene.nn._first_statistics import first_color_texture_statistics
from rankbygene.nn._statistics import STATISTICS_VERSION

__all__ = ["ImageBranch", "RankByGeneModule"]

Network = Literal["student", "teacher"]


class ImageBranch(nn.Module):
    """Image encoder with its heads.

    Attributes
    ----------
    backbone
        ``[B, 3, H, W]`` to features ``[B, n_features]``.
    projection
        Features to the space shared with genes, ``[B, n_latent]``.
    predictor
        Features to standardised expression ``[B, n_genes]``.
    """

    @checked
    def __init__(self, backbone: nn.Module, projection: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection
        self.predictor = predictor


class RankByGeneModule(SpotModule):
    """Student, teacher and gene encoder.

    Parameters
    ----------
    backbone
        Image encoder, ``[B, 3, H, W]`` to ``[B, n_features]``.
    n_features
        Width of its features.
    n_genes
        Size of the panel.
    n_latent
        Width of the space shared by images and genes; ``n_features`` by default.
    head
        ``"joint"``: a linear predictor, trained with the encoders. ``"frozen"``: the perceptron
        of the paper, to be trained on finished features.
    n_hidden, dropout, scaling
        Of the frozen head, see :class:`~rankbygene.nn.ExpressionMLP`.
    statistics
        Whether the prediction is averaged with that of a linear map of colour and texture
        statistics, which :func:`rankbygene.train.fit_statistics` finds.
    n_widths
        Tiles of different widths at each spot, stacked along the channels of an image. The encoder
        sees them one by one, and their features are joined.
    pixel_mean, pixel_std
        Channel statistics that the backbone expects, on the scale [0, 1].

    References
    ----------
    Fig. 2 of :cite:p:`huang2024rankbygene`. The teacher starts as a copy of the whole student,
    heads included: a head of its own would leave the two unaligned for most of the training.
    """

    @checked
    def __init__(
        self,
        backbone: nn.Module,
        *,
        n_features: int,
        n_genes: int,
        n_latent: int | None = None,
        head: Literal["joint", "frozen"] = "joint",
        n_hidden: int = 1024,
        dropout: float = 0.1,
        scaling: FeatureScaling = "standard",
        statistics: bool = False,
        n_widths: int = 1,
        pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__(n_genes, pixel_mean, pixel_std)
        self.statistics_version = STATISTICS_VERSION
        if head not in ("joint", "frozen"):
            msg = f"head={head!r} is not known; choose 'joint' or 'frozen'"
            raise InputValueError(msg)
        n_latent = n_features if n_latent is None else n_latent
        n_features = n_widths * n_features
        predictor: nn.Module = (
            nn.Linear(n_features, n_genes)
            if head == "joint"
            else ExpressionMLP(n_features, n_genes, n_hidden, dropout, scaling)
        )
        self.head = head
        self.n_widths = n_widths
        self.student = ImageBranch(backbone, ResidualMLP(n_features, n_latent), predictor)
        # Frozen weights are the same for both: the teacher has none of its own.
        frozen = {id(p): p for p in self.student.parameters() if not p.requires_grad}
        self.teacher = copy.deepcopy(self.student, frozen).requires_grad_(False)
        self.gene_encoder = ResidualMLP(n_genes, n_latent)
        # Found in closed form, never by the optimiser; from statistics to the training scale.
        self.statistics = (
            nn.Linear(N_STATISTICS, n_genes).requires_grad_(False) if statistics else None
        )

    @property
    def encoders(self) -> list[nn.Module]:
        """The student's image encoder and the teacher's."""
        return [self.student.backbone, self.teacher.backbone]

    def branch(self, network: Network) -> ImageBranch:
        """Return the student or the teacher."""
        return self.student if network == "student" else self.teacher

    def image_features(self, images: torch.Tensor, network: Network = "teacher") -> torch.Tensor:
        """Encode images, uint8 or float in [0, 1].

        Parameters
        ----------
        images
            ``[B, 3 * n_widths, H, W]``.
        network
            Which of the two encoders.

        Returns
        -------
        ``[B, n_widths * n_features]``.
        """
        tiles = self.normalize_images(split_widths(images))
        features: torch.Tensor = self.branch(network).backbone(tiles)
        return features.view(len(images), -1)

    def encode_orientations(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode images ``[B, 3 * n_widths, H, W]`` in each orientation: ``features``."""
        return {"features": torch.stack([self.image_features(v) for v in orientations(images)], 1)}

    def project(self, features: torch.Tensor, network: Network = "teacher") -> torch.Tensor:
        """Map features to the shared space ``[B, n_latent]``."""
        projected: torch.Tensor = self.branch(network).projection(features)
        return projected

    def gene_features(
        self, expression: torch.Tensor, measured: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map expression ``[B, n_genes]`` on the training scale to the shared space."""
        values = self.fill_unmeasured(self.standardize(expression), measured)
        latent: torch.Tensor = self.gene_encoder(values)
        return latent

    def predict_from_features(
        self, features: torch.Tensor, network: Network = "teacher"
    ) -> torch.Tensor:
        """Predict expression ``[B, n_genes]`` on the training scale."""
        standardized: torch.Tensor = self.branch(network).predictor(features)
        return self.to_training_scale(standardized)

    @checked
    @renamed(views="tta")
    def represent(
        self, images: torch.Tensor, *, tta: int = 8, network: Network = "teacher"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Represent and predict, each averaged over orientations of the images.

        Parameters
        ----------
        images
            ``[B, 3 * n_widths, H, W]``, uint8 or float in [0, 1].
        tta
            How many of the eight orientations; the first is the image as it is.

        Returns
        -------
        Features ``[B, n_features]`` and expression ``[B, n_genes]`` on the training scale.
        """
        features, expression = [], []
        for turned in islice(orientations(images), tta):
            features.append(self.image_features(turned, network).float())
            expression.append(self.predict_from_features(features[-1], network).float())
        predicted = torch.stack(expression).mean(0)
        if self.statistics is not None:
            # Weights of correlated statistics are large and cancel: half precision would not do.
            with torch.autocast(images.device.type, enabled=False):
                linear = self.statistics(self.describe(images[:, :3]))
            predicted = (predicted + linear) / 2
        return torch.stack(features).mean(0), predicted

    def describe(self, images: torch.Tensor) -> torch.Tensor:
        """Colour and texture statistics of tiles, as the weights of ``statistics`` were fitted on."""
        first = self.statistics_version == 1
        return first_color_texture_statistics(images) if first else color_texture_statistics(images)
