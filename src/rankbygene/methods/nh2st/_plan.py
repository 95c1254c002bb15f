"""How NH2ST is trained: two contrasts and the error of predicted expression."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch

from rankbygene._arguments import checked
from rankbygene._checks import check_weights
from rankbygene._renamed import renamed
from rankbygene.base.spots._plan import SpotPlan
from rankbygene.methods.nh2st._module import Encoded, NH2STModule
from rankbygene.nn.losses import info_nce
from rankbygene.train._batch_plan import Batch, WholeBatch
from rankbygene.train._grad_cache import Tiles
from rankbygene.train._views import random_kept_view, strong_view

__all__ = ["NH2ST_RELEASED_PLAN", "NH2STPlan"]

# What the authors' training script does, where it departs from the defaults below.
NH2ST_RELEASED_PLAN: dict[str, Any] = {
    "weights": {"expression": 1.0},
    "negative_logit_scale": 0.1,
    "color": False,
    "lr": 5e-4,
    "weight_decay": 0.0,
    "warmup": None,
}


class NH2STPlan(SpotPlan):
    r"""Training of :class:`~rankbygene.module.NH2STModule`.

    .. math::
        L = w_\mathrm{query} L_\mathrm{query} + w_\mathrm{neighbour} L_\mathrm{neighbour}
        + w_\mathrm{expression} L_\mathrm{expression}

    All tiles of a group, and so of a neighbourhood, are turned and coloured alike.

    Parameters
    ----------
    module
        The networks.
    weights
        :math:`w`, over the defaults ``{"query": 1, "neighbour": 0.5, "expression": 10}`` entry by entry:
        contrast of spots, contrast of neighbourhoods, and the mean squared error of standardised genes.
        A term of weight 0 is not computed.
    temperature_query, temperature_neighbour, symmetric, negative_logit_scale
        Of the contrasts, see :func:`~rankbygene.nn.losses.info_nce`. Images are the queries.
    color
        Vary colours in training, see :func:`~rankbygene.train.strong_view`; else orientations alone.
    lr, weight_decay
        Of AdamW.
    warmup
        Share of the steps over which the learning rate rises before it falls along a cosine.
        None keeps it constant.
    chunk_size
        Tiles that a process encodes at a time, so that large batches fit in little memory. None: its
        whole share of a batch.
    seed
        Of augmentation.

    References
    ----------
    :cite:p:`qu2025nh2st`. The hyper-parameters of the released code are in
    ``rankbygene.train.NH2ST_RELEASED_PLAN``.
    """

    module: NH2STModule

    default_weights: ClassVar[Mapping[str, float]] = {
        "query": 1.0,
        "neighbour": 0.5,
        "expression": 10.0,
    }

    @checked(weights=partial(check_weights, terms=default_weights))
    @renamed(
        lambda_query=("weights", "query"),
        lambda_neighbour=("weights", "neighbour"),
        gamma=("weights", "expression"),
    )
    def __init__(
        self,
        module: NH2STModule,
        *,
        weights: Mapping[str, float] | None = None,
        temperature_query: float = 0.05,
        temperature_neighbour: float = 0.05,
        symmetric: bool = False,
        negative_logit_scale: float = 1.0,
        color: bool = True,
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
        self.temperatures = {"query": temperature_query, "neighbour": temperature_neighbour}
        self.symmetric, self.negative_logit_scale = symmetric, negative_logit_scale
        self.color = color

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute every term that has a weight, unweighted, for one batch."""
        whole = self.whole(batch)
        encoded = Encoded(*self._representations(whole, generator))
        # Similarities and exponentials lose too much in half precision.
        with torch.autocast(self.device.type, enabled=False):
            return self._terms(whole.targets, encoded)

    def _representations(
        self, whole: WholeBatch, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        """Represent a random view of each tile, the same for the tiles of a group."""
        group = whole.targets["group"]
        if whole.tiles is not None:
            return self.encode(partial(self._encoded, group), whole, generator)
        kept = [whole.targets[name] for name in Encoded._fields if name in whole.targets]
        return tuple(rows.float() for rows in random_kept_view(kept, generator, group))

    def _encoded(
        self, group: torch.Tensor, tiles: Tiles, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        """Encode tiles of a batch, of which ``group`` tells the group of every tile."""
        jitter, grayscale = (0.8, 0.2) if self.color else (0.0, 0.0)
        view = strong_view(
            tiles.images,
            generator,
            jitter=jitter,
            grayscale=grayscale,
            groups=group[tiles.places],
            n_draws=tiles.n,
        )
        return tuple(rows.float() for rows in self.module.encode(view) if rows is not None)

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
            features = self.module.image_features(batch["image"], tta=1)
        predicted = self.module.predict_from_features(features, batch["neighbours"])
        return (
            batch["expression"][spots],
            predicted,
            batch["measured"][spots],
            batch["slide"][spots],
        )
