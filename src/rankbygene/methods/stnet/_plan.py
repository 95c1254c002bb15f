"""The training of ST-Net: squared error, by stochastic gradient descent or AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch

from rankbygene._arguments import checked
from rankbygene._checks import check_weights
from rankbygene.base.spots._plan import measured_error
from rankbygene.base.spots._tile_plan import SingleTilePlan
from rankbygene.methods.stnet._module import STNetModule
from rankbygene.train._batch_plan import Batch

__all__ = ["STNET_RELEASED", "STNetPlan"]

# The released training on batches of 32: its step of 1e-6 on a sum is one of 3.2e-5 on a mean.
STNET_RELEASED: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 3.2e-5,
    "weight_decay": 0.0,
    "warmup": None,
    "standardize": False,
    "color": False,
}


class STNetPlan(SingleTilePlan):
    """Training of :class:`~rankbygene.module.STNetModule` by the squared error of expression.

    Parameters
    ----------
    module
        The network.
    weights
        Of the only term, ``expression``.
    standardize
        Compare standardised genes, so that every gene counts alike. False compares them on the training
        scale, where genes that vary much count for more.
    color
        Vary colours, and leave them out of some views.
    optimizer
        ``"adamw"``, or ``"sgd"`` with momentum 0.9.
    lr, weight_decay
        Of the optimiser.
    warmup
        Share of the steps over which the learning rate rises before it falls along a cosine.
        None keeps it constant.
    chunk_size
        Tiles that a process encodes at a time. None: its whole share of a batch.
    seed
        Of augmentation.

    References
    ----------
    :cite:p:`he2020stnet`. The released code sums errors over the spots of a batch, so that its size
    changes the step; here they are averaged. Its other choices are ``rankbygene.methods.stnet.STNET_RELEASED``.
    """

    default_weights: ClassVar[Mapping[str, float]] = {"expression": 1.0}

    @checked(weights=partial(check_weights, terms=default_weights))
    def __init__(
        self,
        module: STNetModule,
        *,
        weights: Mapping[str, float] | None = None,
        standardize: bool = True,
        color: bool = True,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float | None = 0.1,
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
        self.module: STNetModule
        self.standardize, self.optimizer, self.color = standardize, optimizer, color

    def terms(self, features: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean squared error over the genes that were measured."""
        if self.standardize:
            standardized = self.module.predictor(features)
            return {
                "expression": self._expression_error(
                    standardized, batch["expression"], batch["measured"]
                )
            }
        predicted = self.module.predict_from_features(features)
        return {"expression": measured_error(predicted, batch["expression"], batch["measured"])}

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Give the chosen optimiser."""
        if self.optimizer == "adamw":
            return super().build_optimizer()
        return torch.optim.SGD(
            self.parameter_groups(), lr=self.lr, momentum=0.9, weight_decay=self.weight_decay
        )
