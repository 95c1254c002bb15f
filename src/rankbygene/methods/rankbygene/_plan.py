"""How RankByGene is trained: losses, teacher, optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch

from rankbygene._arguments import checked
from rankbygene._checks import check_weights
from rankbygene._renamed import renamed
from rankbygene.base.spots._module import split_widths
from rankbygene.base.spots._plan import SpotPlan
from rankbygene.errors import InputValueError
from rankbygene.methods.rankbygene._module import Network, RankByGeneModule
from rankbygene.nn.losses import (
    RankingReduction,
    RankingVariant,
    Similarity,
    info_nce,
    ranking_consistency,
    similarity,
)
from rankbygene.train._batch_plan import Batch, WholeBatch
from rankbygene.train._ema import (
    StartlessAverage,
    default_momentum,
    momentum_schedule,
    update_teacher,
)
from rankbygene.train._grad_cache import Tiles
from rankbygene.train._optimizer import trained, warmup_cosine
from rankbygene.train._views import Orientation, random_kept_view, strong_view, weak_view

__all__ = ["RELEASED", "RankByGenePlan", "warmup_cosine"]

# Spots that the ranking loss compares: an anchor and two others.
TRIPLET = 3

# What the authors' training script does, where it departs from the defaults below.
RELEASED: dict[str, Any] = {
    "weights": {"expression": 0.0},
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
    "ema_correction": False,
}


class RankByGenePlan(SpotPlan):
    r"""Training of :class:`~rankbygene.module.RankByGeneModule`.

    .. math::
        L = w_\mathrm{contrast} L_\mathrm{contrast} + w_\mathrm{ranking} L_\mathrm{ranking}
        + w_\mathrm{distillation} L_\mathrm{distillation} + w_\mathrm{expression} L_\mathrm{expression}

    Parameters
    ----------
    module
        The networks.
    weights
        :math:`w`, over the defaults ``{"contrast": 1, "ranking": 5, "distillation": 1, "expression":
        10}`` entry by entry: contrast of genes and images, ranking consistency, distillation, and the mean
        squared error of standardised genes, which counts with ``head="joint"`` alone. A term of
        weight 0 is not computed.
    temperature, symmetric
        Of both contrasts, see :func:`~rankbygene.nn.losses.info_nce`; ``symmetric`` applies to
        the contrast of genes and images.
    ranking_variant, ranking_reduction, n_shifts
        See :func:`~rankbygene.nn.losses.ranking_consistency`. A batch of training has more than
        ``n_shifts`` spots; one of validation may have fewer, and then takes all triplets it has.
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
    chunk_size
        Tiles that a process encodes at a time, so that large batches fit in little memory. None: its
        whole share of a batch.
    ema_start, ema_end, ema_every
        Momentum of the teacher, from the first to the last ``"step"`` or ``"epoch"`` of the fit. By
        default it starts where :func:`~rankbygene.train.default_momentum` puts it. An epoch's update
        comes before its validation.
    ema_correction
        Average the weights that the student had after each update alone, and leave out those that it
        started from. False keeps as much of the start as the momenta say.
    seed
        Of augmentation and of the sampling of triplets.

    References
    ----------
    :cite:p:`huang2024rankbygene`. The expression term is an addition of this package. The
    hyper-parameters of the released code are in ``rankbygene.train.RELEASED``.
    """

    default_weights: ClassVar[Mapping[str, float]] = {
        "contrast": 1.0,
        "ranking": 5.0,
        "distillation": 1.0,
        "expression": 10.0,
    }

    @checked(weights=partial(check_weights, terms=default_weights))
    @renamed(
        contrast=("weights", "contrast"),
        alpha=("weights", "ranking"),
        beta=("weights", "distillation"),
        gamma=("weights", "expression"),
    )
    def __init__(
        self,
        module: RankByGeneModule,
        *,
        weights: Mapping[str, float] | None = None,
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
        chunk_size: int | None = None,
        ema_start: float | None = None,
        ema_end: float = 1.0,
        ema_every: Literal["step", "epoch"] = "step",
        ema_correction: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(
            module,
            weights={**(weights or {}), **({} if module.head == "joint" else {"expression": 0.0})},
            lr=lr,
            weight_decay=weight_decay,
            warmup=warmup,
            chunk_size=chunk_size,
            seed=seed,
        )
        if ema_every not in ("step", "epoch"):
            msg = f"ema_every={ema_every!r} is not known; choose 'step' or 'epoch'"
            raise InputValueError(msg)
        self.module: RankByGeneModule
        self.temperature, self.symmetric = temperature, symmetric
        self.ranking_variant, self.n_shifts = ranking_variant, n_shifts
        self.ranking_reduction, self.ranking_similarity = ranking_reduction, ranking_similarity
        self.orientation = orientation
        self.detach_gene = detach_gene
        self.gene_lr = gene_lr
        self.ema_start, self.ema_end, self.ema_every = ema_start, ema_end, ema_every
        self.average = StartlessAverage() if ema_correction else None
        self.n_updates = 0
        self._last_step = self._last_move = 0
        self._behind = False

    # ---- losses --------------------------------------------------------------------------------

    @property
    def smallest_batch(self) -> int:
        """Three spots make a triplet, and a shift reaches from one spot to another."""
        return max(TRIPLET, (self.n_shifts or 1) + 1) if self.weights["ranking"] else 2

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute every term that has a weight, unweighted, for one batch."""
        whole = self.whole(batch)
        features = self._student_features(whole, generator)
        # Similarities and exponentials lose too much in half precision.
        with torch.autocast(self.device.type, enabled=False):
            return self._terms(whole, features, generator)

    def _student_features(self, whole: WholeBatch, generator: torch.Generator) -> torch.Tensor:
        if whole.tiles is None:
            return self._kept_features(whole, generator, "student")
        (features,) = self.encode(self._encode_strong, whole, generator)
        return features

    def _teacher_latent(self, whole: WholeBatch, generator: torch.Generator) -> torch.Tensor:
        if whole.tiles is None:
            return self.module.project(self._kept_features(whole, generator, "teacher"), "teacher")
        (latent,) = self.encode(self._encode_weak, whole, generator)
        return latent

    def _kept_features(
        self, whole: WholeBatch, generator: torch.Generator, network: Network
    ) -> torch.Tensor:
        """Draw from features of the orientations that the view of pixels would have taken."""
        kept = whole.targets["features"]
        if self.orientation == "released":
            flips, turns = kept.chunk(2, dim=1)
            kept = flips if network == "student" else turns
        (features,) = random_kept_view([kept], generator)
        return features.float()

    def _encode_strong(self, tiles: Tiles, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        strong = self._view(strong_view, tiles, generator)
        return (self.module.image_features(strong, "student").float(),)

    def _encode_weak(self, tiles: Tiles, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        weak = self._view(weak_view, tiles, generator)
        with torch.autocast(self.device.type, self._autocast_dtype(), enabled=self._is_mixed()):
            features = self.module.image_features(weak, "teacher")
        return (self.module.project(features.float(), "teacher"),)

    def _view(
        self, view: Callable[..., torch.Tensor], tiles: Tiles, generator: torch.Generator
    ) -> torch.Tensor:
        """Augment; the tiles of one spot alike, where there are several."""
        n_widths = self.module.n_widths
        views = view(
            split_widths(tiles.images),
            generator,
            orientation=self.orientation,
            groups=tiles.places.repeat_interleave(n_widths),
            n_draws=tiles.n * n_widths,
        )
        return views.view(tiles.images.shape)

    def _terms(
        self, whole: WholeBatch, features: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        module, batch, terms = self.module, whole.targets, {}
        latent = module.project(features, "student")
        if self.weights["contrast"] or self.weights["ranking"]:
            genes = module.gene_features(batch["expression"], batch["measured"])
        if self.weights["contrast"]:
            terms["contrast"] = info_nce(latent, genes, self.temperature, self.symmetric)
        if self.weights["ranking"]:
            terms["ranking"] = self._ranking(latent, genes, generator)
        if self.weights["distillation"]:
            with torch.no_grad():
                target = self._teacher_latent(whole, generator)
            terms["distillation"] = info_nce(latent, target, self.temperature)
        if self.weights["expression"]:
            terms["expression"] = self._expression_error(
                module.student.predictor(features), batch["expression"], batch["measured"]
            )
        return terms

    def _ranking(
        self, latent: torch.Tensor, genes: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        n = len(latent)
        if n < TRIPLET:  # a small rest of the validation, in which no order can be wrong
            return latent.new_zeros(())
        return ranking_consistency(
            similarity(latent, self.ranking_similarity),
            similarity(genes.detach() if self.detach_gene else genes, self.ranking_similarity),
            n_shifts=None if self.n_shifts is None else min(self.n_shifts, n - 1),
            variant=self.ranking_variant,
            generator=generator,
            reduction=self.ranking_reduction,
        )

    def _is_mixed(self) -> bool:
        return self._trainer is not None and str(self.trainer.precision).endswith("mixed")

    def _autocast_dtype(self) -> torch.dtype:
        mixed16 = self._is_mixed() and str(self.trainer.precision).startswith("16")
        return torch.float16 if mixed16 else torch.bfloat16

    def judge(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give the teacher's predictions beside the truth."""
        if "features" in batch:
            predicted = self.module.predict_from_features(batch["features"][:, 0].float())
        else:
            _, predicted = self.module.represent(batch["image"], tta=1)
        return batch["expression"], predicted, batch["measured"], batch["slide"]

    # ---- Lightning -----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed fit needs beside the weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["n_updates"] = self.n_updates
        checkpoint["teacher_is_behind"] = self._teacher_is_behind()
        if self.average is not None:
            checkpoint["start_share"] = self.average.start_share

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        super().on_load_checkpoint(checkpoint)
        self.n_updates = checkpoint["n_updates"]
        self._behind = checkpoint["teacher_is_behind"]
        if self.average is not None:
            self.average.start_share = checkpoint["start_share"]

    def on_train_start(self) -> None:
        """Note where the optimiser stands, which in a resumed fit is not at 0."""
        self._last_step = self._last_move = self.global_step
        if self._behind:
            self._behind = False
            by_step = self.ema_every == "step"
            steps = int(self.trainer.estimated_stepping_batches)
            self._move_teacher(steps if by_step else self._n_epochs())

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Move the teacher after every optimiser step; accumulated batches are one step."""
        if self.ema_every == "epoch":
            if self.trainer.is_last_batch:  # validation, which comes next, is to see it
                self._move_teacher(self._n_epochs())
        elif self.global_step > self._last_step:
            self._last_step = self.global_step
            self._move_teacher(int(self.trainer.estimated_stepping_batches))
        super().on_train_batch_end(outputs, batch, batch_idx)

    def _teacher_is_behind(self) -> bool:
        """Whether a step was taken whose move is still to come, as callbacks find it after a step."""
        if self.ema_every == "epoch":
            return self.trainer.is_last_batch and self.global_step > self._last_move
        return self.global_step > self._last_step

    def on_train_epoch_end(self) -> None:
        """Move the teacher after an epoch that the number of steps cut short, too."""
        if self.ema_every == "epoch" and self.global_step > self._last_move:
            self._move_teacher(self._n_epochs())
        super().on_train_epoch_end()

    def _n_epochs(self) -> int:
        """Epochs that the fit will have; a number of steps may end it before ``max_epochs``."""
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return math.ceil(self.trainer.estimated_stepping_batches / steps)

    def _move_teacher(self, n_updates: int) -> None:
        self._last_move = self.global_step
        start = default_momentum(n_updates) if self.ema_start is None else self.ema_start
        if self.average is None:
            momentum = momentum_schedule(self.n_updates, n_updates, start, self.ema_end)
        else:
            # An only update is the first one of a schedule, not the last, which would not move.
            schedule = momentum_schedule(self.n_updates, max(2, n_updates), start, self.ema_end)
            momentum = self.average(schedule)
        update_teacher(self.module.teacher, self.module.student, momentum)
        self.n_updates += 1

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group for images and one for genes."""
        return [
            {"params": trained(self.module.student), "lr": self.lr},
            {"params": trained(self.module.gene_encoder), "lr": self.gene_lr},
        ]
