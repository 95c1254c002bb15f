"""The training of BLEEP: contrast with softened targets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

import torch

from rankbygene._arguments import checked
from rankbygene._checks import check_weights
from rankbygene.base.spots._tile_plan import SingleTilePlan
from rankbygene.methods.bleep._module import BLEEPModule
from rankbygene.nn.losses import soft_target_contrast
from rankbygene.train._batch_plan import Batch

__all__ = ["BLEEPPlan"]


class BLEEPPlan(SingleTilePlan):
    """Training of :class:`~rankbygene.module.BLEEPModule` by contrast of images and genes.

    Parameters
    ----------
    module
        The networks.
    weights
        Of the only term, ``contrast``.
    temperature, targets
        See :func:`~rankbygene.nn.losses.soft_target_contrast`.
    lr, weight_decay
        Of AdamW.
    warmup
        Share of the steps over which the learning rate rises before it falls along a cosine.
        None keeps it constant, as the released code does.
    chunk_size
        Tiles that a process encodes at a time. None: its whole share of a batch.
    seed
        Of augmentation.

    References
    ----------
    :cite:p:`xie2023bleep`
    """

    default_weights: ClassVar[Mapping[str, float]] = {"contrast": 1.0}

    @checked(weights=partial(check_weights, terms=default_weights))
    def __init__(
        self,
        module: BLEEPModule,
        *,
        weights: Mapping[str, float] | None = None,
        temperature: float = 1.0,
        targets: Literal["corrected", "released"] = "corrected",
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        warmup: float | None = None,
        chunk_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            module,
            weights=weights,
            lr=lr,
            weight_decay=weight_decay,
            warmup=warmup,
            chunk_size=chunk_size,
            seed=seed,
        )
        self.module: BLEEPModule
        self.temperature, self.targets = temperature, targets

    def terms(self, features: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Contrast images with genes."""
        genes = self.module.gene_features(batch["expression"], batch["measured"])
        images = self.module.project(features)
        return {"contrast": soft_target_contrast(genes, images, self.temperature, self.targets)}
