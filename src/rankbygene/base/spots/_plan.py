"""What the training of every method shares: steps, logging, the optimiser's schedule."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from rankbygene._arguments import checked
from rankbygene._checks import check_weights
from rankbygene.base.spots._module import SpotModule
from rankbygene.data.batches._kept import OF_SLIDE
from rankbygene.errors import InputValueError
from rankbygene.train._batch_plan import Batch, BatchPlan
from rankbygene.train._callbacks import Mode
from rankbygene.train._optimizer import adamw, trained, with_warmup
from rankbygene.train._scores import RunningPearson

__all__ = ["Batch", "SpotPlan"]


class SpotPlan(BatchPlan):
    """Training of a :class:`~rankbygene.base.SpotModule` by a weighted sum of losses.

    Subclasses say what the losses are and how spots are predicted.

    Attributes
    ----------
    default_weights
        The terms of the loss, by the names under which they are logged, and their weights; that of
        predicted expression is called ``"expression"``. A method that declares none takes the terms that
        it hands on as ``weights``.

    Parameters
    ----------
    module
        The networks.
    weights
        Weights of terms, over ``default_weights`` entry by entry.
    lr, weight_decay
        Of AdamW.
    warmup
        Share of the steps over which the learning rate rises before it falls along a cosine.
        None keeps it constant.
    chunk_size
        Tiles that a process encodes at a time. None: its whole share of a batch.
    seed
        Of every random choice.
    """

    default_weights: ClassVar[Mapping[str, float]] = {}
    same_everywhere = OF_SLIDE

    @checked(weights=None)
    def __init__(
        self,
        module: SpotModule,
        *,
        weights: Mapping[str, float] | None,
        lr: float,
        weight_decay: float,
        warmup: float | None,
        chunk_size: int | None,
        seed: int,
    ) -> None:
        super().__init__(module, chunk_size=chunk_size, seed=seed)
        self.module: SpotModule
        own = check_weights(weights or {}, "weights", terms=self.default_weights or weights or {})
        self.weights = {**self.default_weights, **own}
        if not any(self.weights.values()):
            msg = f"the weights are {self.weights}, so that nothing would be learned; give a term a weight"
            raise InputValueError(msg)
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup
        self.running_pearson = RunningPearson()

    @abstractmethod
    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute every term that has a weight, unweighted, for one batch."""

    @abstractmethod
    def judge(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give true and predicted expression of the spots, where it was measured, and their slide."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the parameters to optimise, in groups with settings of their own."""
        return [{"params": trained(self.module), "lr": self.lr}]

    @property
    def smallest_batch(self) -> int:
        """Spots that the losses compare at least; normalisation over a batch takes two in any case."""
        return 2

    def check_sizes(self, batch_size: int, n_validation: int) -> None:
        """Refuse batches in which a loss has nothing to compare; say where validation has too few.

        Raises
        ------
        InputValueError
            A batch is too small.
        """
        needed = self.smallest_batch
        if batch_size < needed:
            msg = (
                f"batch_size is {batch_size}, and the losses of this training compare {needed} spots at "
                f"least; pass a batch_size of {needed} or more"
            )
            raise InputValueError(msg)
        if 0 < n_validation < needed:
            text = (
                f"there are {n_validation} validation spots, and the losses of this training compare "
                f"{needed} at least: what cannot be compared counts as 0 in the validation loss. Hold out more"
            )
            warnings.warn(text, UserWarning, stacklevel=2)

    def monitors(self) -> dict[str, Mode]:
        """Name the losses and the score of the validation spots."""
        terms = ["loss", *(name for name, weight in self.weights.items() if weight)]
        known: dict[str, Mode] = {f"validation_{name}": "min" for name in terms}
        return known | {"validation_pearson": "max"} if self.weights.get("expression") else known

    def n_spots(self, batch: Batch) -> int:
        """Count the spots whose losses a batch holds, not the live neighbours around them."""
        return len(batch["neighbours"] if "neighbours" in batch else batch["spot"])

    def join(self, parts: Sequence[Batch], sizes: Sequence[int]) -> dict[str, torch.Tensor]:
        """Make one batch of those of all processes; each numbers its own tiles, groups and context."""
        counted = []
        n_tiles = n_groups = n_kept = 0
        for part, size in zip(parts, sizes, strict=True):
            own = dict(part)
            if "neighbours" in part:
                own["neighbours"] = _moved(part["neighbours"], n_tiles)
                own["group"] = part["group"] + n_groups
                n_groups += int(part["group"].max()) + 1
            if "context" in part:
                own["context"] = _moved(part["context"], n_kept)
                n_kept += len(part["context_features"])
            counted.append(own)
            n_tiles += size
        return super().join(counted, sizes)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return the loss and its terms."""
        terms = self.losses(batch, self.generator)
        loss = self._weighted(terms)
        self.add_to_epoch(_named("train", loss, terms), self.n_spots(batch))
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def on_validation_epoch_start(self) -> None:
        """Make every epoch's validation see the same views and triplets."""
        self.validation_generator = torch.Generator().manual_seed(self.seed)
        self.running_pearson.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the losses; collect predictions."""
        terms = self.losses(batch, self.validation_generator)
        found = _named("validation", self._weighted(terms), terms)
        # All processes know the same losses, up to rounding, which must not make them decide apart.
        how: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True}
        how["batch_size"] = self.n_spots(batch)
        self.log("validation_loss", found.pop("validation_loss"), prog_bar=True, **how)
        self.log_dict(found, **how)
        if self.weights.get("expression"):
            self.running_pearson.update(*self.all_rows(*self.judge(batch)))

    def on_validation_epoch_end(self) -> None:
        """Log the mean Pearson correlation per gene of the predictions."""
        if self.weights.get("expression"):
            score = self.running_pearson.compute().to(self.device)
            self.log("validation_pearson", score, on_epoch=True, sync_dist=True)

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Give the optimiser, AdamW where a method says no other."""
        return adamw(self, self.parameter_groups(), weight_decay=self.weight_decay)

    def configure_optimizers(self) -> Any:
        """The optimiser, by default with a warm-up and half a cosine."""
        optimizer = self.build_optimizer()
        if self.warmup is None:
            return optimizer
        return with_warmup(optimizer, self.warmup, int(self.trainer.estimated_stepping_batches))

    def _expression_error(
        self, standardized: torch.Tensor, expression: torch.Tensor, measured: torch.Tensor
    ) -> torch.Tensor:
        """Mean squared error of standardised genes, where they were measured."""
        return measured_error(standardized, self.module.standardize(expression), measured)

    def _weighted(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()


def _moved(places: torch.Tensor, by: int) -> torch.Tensor:
    """Renumber places; -1 stays a missing one."""
    return torch.where(places >= 0, places + by, places)


def _named(
    part: str, loss: torch.Tensor, terms: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    return {f"{part}_loss": loss, **{f"{part}_{name}": term for name, term in terms.items()}}


def measured_error(
    predicted: torch.Tensor, truth: torch.Tensor, measured: torch.Tensor
) -> torch.Tensor:
    """Mean squared error where there is a truth; what stands elsewhere, NaN too, has no part in it."""
    error = torch.where(measured, predicted - truth, 0.0)
    return error.square().sum() / measured.sum().clamp(min=1)
