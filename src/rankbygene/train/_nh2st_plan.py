"""How NH2ST is trained: two contrasts and the error of predicted expression."""

from __future__ import annotations

from typing import Any

import torch

from rankbygene.module import Encoded, NH2STModule
from rankbygene.nn.losses import info_nce
from rankbygene.train._spot_plan import Batch, SpotPlan
from rankbygene.train._views import random_kept_view, strong_view

__all__ = ["NH2ST_RELEASED", "NH2STPlan"]

# What the authors' training script does, where it departs from the defaults below.
NH2ST_RELEASED: dict[str, Any] = {
    "gamma": 1.0,
    "negative_logit_scale": 0.1,
    "color": False,
    "lr": 5e-4,
    "weight_decay": 0.0,
    "warmup": None,
}


class NH2STPlan(SpotPlan):
    r"""Training of :class:`~rankbygene.module.NH2STModule`.

    .. math::
        L = \lambda_s L_\mathrm{query} + \lambda_n L_\mathrm{neighbour}
        + \gamma L_\mathrm{expression}

    All tiles of a patch, and so of a neighbourhood, are turned and coloured alike.

    Parameters
    ----------
    module
        The networks.
    lambda_query, lambda_neighbour
        Weights of the contrast of spots and of neighbourhoods.
    gamma
        Weight of the mean squared error of standardised genes.
    temperature_query, temperature_neighbour, symmetric, negative_logit_scale
        Of the contrasts, see :func:`~rankbygene.nn.losses.info_nce`. Images are the queries.
    color
        Vary colours in training, see :func:`~rankbygene.train.strong_view`; else orientations alone.
    lr, weight_decay
        Of AdamW.
    warmup
        Share of the steps over which the learning rate rises before it falls along a cosine.
        None keeps it constant.
    seed
        Of augmentation.

    References
    ----------
    :cite:p:`qu2025nh2st`. The hyper-parameters of the released code are in
    ``rankbygene.train.NH2ST_RELEASED``.
    """

    module: NH2STModule

    def __init__(
        self,
        module: NH2STModule,
        *,
        lambda_query: float = 1.0,
        lambda_neighbour: float = 0.5,
        gamma: float = 10.0,
        temperature_query: float = 0.05,
        temperature_neighbour: float = 0.05,
        symmetric: bool = False,
        negative_logit_scale: float = 1.0,
        color: bool = True,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float | None = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            module,
            weights={"query": lambda_query, "neighbour": lambda_neighbour, "expression": gamma},
            lr=lr,
            weight_decay=weight_decay,
            warmup=warmup,
            seed=seed,
        )
        self.temperatures = {"query": temperature_query, "neighbour": temperature_neighbour}
        self.symmetric, self.negative_logit_scale = symmetric, negative_logit_scale
        self.color = color

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute every term that has a weight, unweighted, for one batch."""
        features, places = self._encode(batch, generator)
        # Similarities and exponentials lose too much in half precision.
        with torch.autocast(self.device.type, enabled=False):
            encoded = Encoded(features.float(), None if places is None else places.float())
            return self._terms(batch, encoded)

    def _encode(self, batch: Batch, generator: torch.Generator) -> Encoded:
        """Encode a random view of each tile, the same for the tiles of a patch."""
        if "features" in batch:
            kept = [batch[name] for name in Encoded._fields if name in batch]
            return Encoded(*random_kept_view(kept, generator, batch["patch"]))
        jitter, grayscale = (0.8, 0.2) if self.color else (0.0, 0.0)
        # Products of colours would come back rounded to half precision.
        with torch.autocast(self.device.type, enabled=False):
            view = strong_view(
                batch["image"],
                generator,
                jitter=jitter,
                grayscale=grayscale,
                groups=batch["patch"],
            )
        return self.module.encode(view)

    def _terms(self, batch: Batch, encoded: Encoded) -> dict[str, torch.Tensor]:
        expression, measured = batch["expression"], batch["measured"]
        output = self.module(encoded, expression, measured, batch["neighbours"])
        terms = {}
        pairs = {"query": output.query, "neighbour": output.neighbour}
        for name, (image, gene) in pairs.items():
            if self.weights[name]:
                terms[name] = info_nce(
                    image, gene, self.temperatures[name], self.symmetric, self.negative_logit_scale
                )
        if self.weights["expression"]:
            spots = batch["neighbours"][:, 0]
            terms["expression"] = self._expression_error(
                output.expression, expression[spots], measured[spots]
            )
        return terms

    def judge(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give predictions of the images as they are beside the truth."""
        spots = batch["neighbours"][:, 0]
        if "features" in batch:
            features = batch["features"][:, 0].float()
        else:
            features = self.module.image_features(batch["image"], views=1)
        predicted = self.module.predict_from_features(features, batch["neighbours"])
        return (
            batch["expression"][spots],
            predicted,
            batch["measured"][spots],
            batch["slide"][spots],
        )

    def n_spots(self, batch: Batch) -> int:
        """Count the spots, not the tiles around them."""
        return len(batch["neighbours"])
