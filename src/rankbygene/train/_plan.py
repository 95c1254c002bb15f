"""How RankByGene is trained: losses, teacher, optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.nn.functional as F

from rankbygene.errors import InputValueError
from rankbygene.module import RankByGeneModule
from rankbygene.nn.losses import (
    RankingReduction,
    RankingVariant,
    Similarity,
    info_nce,
    ranking_consistency,
    similarity,
)
from rankbygene.train._ema import default_momentum, momentum_schedule, update_teacher
from rankbygene.train._scores import RunningPearson
from rankbygene.train._views import Orientation, strong_view, weak_view

__all__ = ["RELEASED", "RankByGenePlan"]

Batch = Mapping[str, torch.Tensor]

# What the authors' training script does, where it departs from the defaults below.
RELEASED: dict[str, Any] = {
    "gamma": 0.0,
    "ranking_variant": "released",
    "ranking_similarity": "softmax",
    "detach_gene": False,
    "orientation": "released",
    "lr": 1e-4,
    "gene_lr": 1e-3,
    "weight_decay": 0.0,
    "warmup": None,
    "ema_start": 0.96,
    "ema_every": "epoch",
}


class RankByGenePlan(pl.LightningModule):
    r"""Training of :class:`~rankbygene.module.RankByGeneModule`.

    .. math::
        L = L_\mathrm{contrast} + \alpha L_\mathrm{rank} + \beta L_\mathrm{distill}
        + \gamma L_\mathrm{expression}

    Parameters
    ----------
    module
        The networks.
    contrast, alpha, beta
        Weights of gene-image contrast, ranking consistency and distillation.
    gamma
        Weight of the mean squared error of standardised genes; used with ``head="joint"``.
    temperature, symmetric
        Of both contrasts, see :func:`~rankbygene.nn.losses.info_nce`; ``symmetric`` applies to
        the contrast of genes and images.
    ranking_variant, ranking_reduction, n_shifts
        See :func:`~rankbygene.nn.losses.ranking_consistency`.
    ranking_similarity
        See :func:`~rankbygene.nn.losses.similarity`.
    detach_gene
        Let genes lead: the ranking loss then moves the image side alone.
    orientation
        Which orientations the views take, see :func:`~rankbygene.train.weak_view`.
    lr, gene_lr, weight_decay
        Of AdamW, for the image side and for the gene encoder.
    warmup
        Share of the steps over which the learning rate rises before it falls along a cosine.
        None keeps it constant.
    ema_start, ema_end, ema_every
        Momentum of the teacher, from the first to the last ``"step"`` or ``"epoch"``. By default
        it starts where :func:`~rankbygene.train.default_momentum` puts it.
    seed
        Of augmentation and of the sampling of triplets.

    References
    ----------
    :cite:p:`huang2024rankbygene`. The expression term is an addition of this package. The
    hyper-parameters of the released code are in ``rankbygene.train.RELEASED``.
    """

    def __init__(
        self,
        module: RankByGeneModule,
        *,
        contrast: float = 1.0,
        alpha: float = 5.0,
        beta: float = 1.0,
        gamma: float = 10.0,
        temperature: float = 0.1,
        symmetric: bool = False,
        ranking_variant: RankingVariant = "paper",
        ranking_reduction: RankingReduction | None = None,
        ranking_similarity: Similarity = "cosine",
        n_shifts: int | None = 1,
        detach_gene: bool = True,
        orientation: Orientation = "all",
        lr: float = 1e-3,
        gene_lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float | None = 0.1,
        ema_start: float | None = None,
        ema_end: float = 1.0,
        ema_every: Literal["step", "epoch"] = "step",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if ema_every not in ("step", "epoch"):
            msg = f"ema_every={ema_every!r} is not known; choose 'step' or 'epoch'"
            raise InputValueError(msg)
        self.module = module
        self.weights = {
            "contrast": contrast,
            "ranking": alpha,
            "distillation": beta,
            "expression": gamma if module.head == "joint" else 0.0,
        }
        self.temperature, self.symmetric = temperature, symmetric
        self.ranking_variant, self.n_shifts = ranking_variant, n_shifts
        self.ranking_reduction, self.ranking_similarity = ranking_reduction, ranking_similarity
        self.orientation = orientation
        self.detach_gene = detach_gene
        self.lr, self.gene_lr, self.weight_decay = lr, gene_lr, weight_decay
        self.warmup = warmup
        self.ema_start, self.ema_end, self.ema_every = ema_start, ema_end, ema_every
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.n_updates = 0
        self.running_pearson = RunningPearson()

    # ---- losses --------------------------------------------------------------------------------

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute every term that has a weight, unweighted, for one batch."""
        module = self.module
        images = batch["image"].to(module.pixel_mean.dtype) / 255
        strong = strong_view(images, generator, orientation=self.orientation)
        features = module.image_features(strong, "student")
        # Similarities and exponentials lose too much in half precision.
        with torch.autocast(self.device.type, enabled=False):
            return self._terms(batch, images, features.float(), generator)

    def _terms(
        self,
        batch: Batch,
        images: torch.Tensor,
        features: torch.Tensor,
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        module, terms = self.module, {}
        latent = module.project(features, "student")
        if self.weights["contrast"] or self.weights["ranking"]:
            genes = module.gene_features(batch["expression"], batch["measured"])
        if self.weights["contrast"]:
            terms["contrast"] = info_nce(latent, genes, self.temperature, self.symmetric)
        if self.weights["ranking"]:
            terms["ranking"] = ranking_consistency(
                similarity(latent, self.ranking_similarity),
                similarity(genes.detach() if self.detach_gene else genes, self.ranking_similarity),
                n_shifts=self.n_shifts,
                variant=self.ranking_variant,
                generator=generator,
                reduction=self.ranking_reduction,
            )
        if self.weights["distillation"]:
            weak = weak_view(images, generator, orientation=self.orientation)
            target = self._teacher_latent(weak)
            terms["distillation"] = info_nce(latent, target, self.temperature)
        if self.weights["expression"]:
            terms["expression"] = self._expression_error(features, batch)
        return terms

    @torch.no_grad()
    def _teacher_latent(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, self._autocast_dtype(), enabled=self._is_mixed()):
            features = self.module.image_features(images, "teacher")
        return self.module.project(features.float(), "teacher")

    def _expression_error(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        predicted = self.module.student.predictor(features)
        error = F.mse_loss(
            predicted, self.module.standardize(batch["expression"]), reduction="none"
        )
        measured = batch["measured"]
        return (error * measured).sum() / measured.sum().clamp(min=1)

    def _is_mixed(self) -> bool:
        return self._trainer is not None and str(self.trainer.precision).endswith("mixed")

    def _autocast_dtype(self) -> torch.dtype:
        mixed16 = self._is_mixed() and str(self.trainer.precision).startswith("16")
        return torch.float16 if mixed16 else torch.bfloat16

    def _weighted(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    # ---- Lightning -----------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return the loss and its terms."""
        terms = self.losses(batch, self.generator)
        loss = self._weighted(terms)
        self._log("train", loss, terms, len(batch["image"]))
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def on_validation_epoch_start(self) -> None:
        """Make every epoch's validation see the same views and triplets."""
        self.validation_generator = torch.Generator().manual_seed(self.seed)
        self.running_pearson.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the losses; collect the teacher's predictions."""
        terms = self.losses(batch, self.validation_generator)
        self._log("validation", self._weighted(terms), terms, len(batch["image"]))
        if self.weights["expression"]:
            _, predicted = self.module.represent(batch["image"], views=1)
            self.running_pearson.update(
                batch["expression"], predicted, batch["measured"], batch["slide"]
            )

    def on_validation_epoch_end(self) -> None:
        """Log the mean Pearson correlation per gene of the teacher's predictions."""
        if self.weights["expression"]:
            self.log("validation_pearson", self.running_pearson.compute(), on_epoch=True)

    def _log(
        self, part: str, loss: torch.Tensor, terms: Mapping[str, torch.Tensor], size: int
    ) -> None:
        values = {f"{part}_{name}": term for name, term in terms.items()}
        self.log(f"{part}_loss", loss, on_step=False, on_epoch=True, batch_size=size, prog_bar=True)
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed fit needs beside the weights."""
        checkpoint["n_updates"] = self.n_updates
        checkpoint["generator"] = self.generator.get_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self.n_updates = checkpoint["n_updates"]
        self.generator.set_state(checkpoint["generator"])

    def on_train_start(self) -> None:
        """Note where the optimiser stands, which in a resumed fit is not at 0."""
        self._last_step = self.global_step

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Move the teacher after every optimiser step; accumulated batches are one step."""
        if self.ema_every == "step" and self.global_step > self._last_step:
            self._last_step = self.global_step
            self._move_teacher(int(self.trainer.estimated_stepping_batches))

    def on_train_epoch_end(self) -> None:
        """Move the teacher after every epoch, if so asked."""
        if self.ema_every == "epoch":
            self._move_teacher(int(self.trainer.max_epochs or 1))

    def _move_teacher(self, n_updates: int) -> None:
        start = default_momentum(n_updates) if self.ema_start is None else self.ema_start
        momentum = momentum_schedule(self.n_updates, n_updates, start, self.ema_end)
        update_teacher(self.module.teacher, self.module.student, momentum)
        self.n_updates += 1

    def configure_optimizers(self) -> Any:
        """AdamW with one group for images and one for genes."""
        groups = [
            {"params": list(self.module.student.parameters()), "lr": self.lr},
            {"params": list(self.module.gene_encoder.parameters()), "lr": self.gene_lr},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        if self.warmup is None:
            return optimizer
        return with_warmup(optimizer, self.warmup, int(self.trainer.estimated_stepping_batches))


def with_warmup(optimizer: torch.optim.Optimizer, warmup: float, n_steps: int) -> dict[str, Any]:
    """Let the learning rate rise over a share of the steps, then fall, in Lightning's terms."""
    factor = partial(warmup_cosine, n_warmup=round(warmup * n_steps), n_steps=n_steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def warmup_cosine(step: int, *, n_warmup: int, n_steps: int) -> float:
    """Factor of the learning rate: a linear rise, then half a cosine down to 0."""
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    return (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup))) / 2
