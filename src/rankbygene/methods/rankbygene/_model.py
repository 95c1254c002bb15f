"""RankByGene on SpatialData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from rankbygene._arguments import checked
from rankbygene.base._inference import BATCH_SIZE
from rankbygene.base._last_good import good_state_kept
from rankbygene.base._random import forked_rng
from rankbygene.base.spots._fitting import validation_pearson
from rankbygene.base.spots._model import BaseSpatialModel
from rankbygene.data.splits._row_groups import row_groups
from rankbygene.errors import InputValueError
from rankbygene.methods.rankbygene._head import fit_head
from rankbygene.methods.rankbygene._module import RankByGeneModule
from rankbygene.methods.rankbygene._plan import RankByGenePlan
from rankbygene.methods.rankbygene._released import load_released_checkpoint
from rankbygene.train._statistics import fit_statistics

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from numpy.typing import NDArray

    from rankbygene.base._setup import SpatialDatas
    from rankbygene.data import ExpressionBank, Normalization
    from rankbygene.data.splits._split import SplitBy
    from rankbygene.nn import FineTune
    from rankbygene.pp import PanelMethod


class RankByGene(BaseSpatialModel):
    """Gene-guided histology representations by cross-modal ranking consistency.

    A student and a teacher image encoder and a gene encoder are trained together: image and gene
    representations of a spot are drawn together (contrast), similar spots by expression must be
    similar by image, in the same order (ranking consistency), and the student must agree with its
    own moving average (distillation) :cite:p:`huang2024rankbygene`. The teacher represents and
    predicts.

    Parameters
    ----------
    sdata
        One SpatialData object, or a list or dict ``{slide: object}``, after
        :meth:`setup_spatialdata`.
    head
        How expression is predicted. ``"joint"``: a linear head on standardised genes, trained
        together with the encoders. ``"frozen"``: the paper's perceptron on the finished
        teacher's features.
    n_latent
        Width of the space shared by images and genes. By default the backbone's feature width.
    views
        Orientations over which representation and prediction are averaged: 8 (all rotations
        and reflections) or 1.
    statistics
        Average the predicted expression with a ridge regression on colour and texture statistics
        of the tile, fitted on the training spots. It helps most where the encoder starts from
        random weights and slides are few.
    context_um
        Further, usually larger, widths in micrometres: tiles of the same centre that the encoder sees
        one by one. Their features are joined, so that a spot is represented with its surroundings.
    backbone, pretrained, weights
        Image encoder, see :func:`rankbygene.nn.build_backbone`.
    fine_tune, n_last, lora_kwargs
        Which weights of the encoder training changes: ``"full"``, ``"last_n"`` blocks, ``"lora"``
        additions or ``"none"``, see :func:`rankbygene.nn.set_fine_tuning`. With ``"none"`` every
        tile is encoded once, in its eight orientations, and training the heads on what was kept takes
        seconds on a CPU. Colours are not varied then.
    genes, panel_method
        Names of the genes to learn and predict, or how many to choose on the training spots.
    normalization
        How counts become the training scale.
    tile_um, tile_px
        Width of a tile in micrometres and in pixels after resampling. By default what the
        backbone was trained on (112 um at 224 px where it does not say).
    split_by, validation_size, validation_slides
        What is held out for early stopping and for the per-gene scores. By default whole
        patients where they are known, else slides, else spatial blocks of the only slide.
    max_spots
        Train and validate on about so many spots at most, drawn from all over the slides, where there
        are more. The others are neither cut nor seen; smoothing uses their counts.
    cache_dir
        Folder that keeps the tiles between sessions, see :meth:`rankbygene.data.TileBank.build`. By
        default they are cut anew and held in memory.
    seed
        Repeats a run exactly on a CPU. By default ``scvi.settings.seed``, or 0.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> slides = rbg.datasets.synthetic(n_slides=3)
    >>> rbg.model.RankByGene.setup_spatialdata(slides, patient_key="patient")
    >>> model = rbg.model.RankByGene(slides, backbone="resnet18", pretrained=False)
    >>> model.train(max_epochs=20)
    >>> model.annotate()
    """

    method: ClassVar[str] = "rankbygene"
    _settings_of = {
        "plan_kwargs": (RankByGenePlan, ("module", "seed")),
        "head_kwargs": (
            fit_head,
            ("module", "features", "targets", "measured", "train", "validation", "seed"),
        ),
    }
    module: RankByGeneModule

    @checked
    def __init__(
        self,
        sdata: SpatialDatas,
        *,
        head: Literal["joint", "frozen"] = "joint",
        n_latent: int | None = None,
        views: Literal[1, 8] = 8,
        statistics: bool = False,
        context_um: Sequence[float] = (),
        backbone: str | torch.nn.Module = "resnet18",
        pretrained: bool = True,
        weights: str | Path | None = None,
        fine_tune: FineTune = "full",
        n_last: int | None = None,
        lora_kwargs: Mapping[str, Any] | None = None,
        genes: int | Sequence[str] = 250,
        panel_method: PanelMethod = "most_expressed",
        normalization: Normalization | None = None,
        tile_um: float | None = None,
        tile_px: int | None = None,
        split_by: SplitBy = "auto",
        validation_size: float = 0.2,
        validation_slides: Sequence[str] | None = None,
        max_spots: int | None = None,
        cache_dir: str | Path | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            sdata,
            backbone=backbone,
            pretrained=pretrained,
            weights=weights,
            fine_tune=fine_tune,
            n_last=n_last,
            lora_kwargs=lora_kwargs,
            genes=genes,
            panel_method=panel_method,
            normalization=normalization,
            tile_um=tile_um,
            tile_px=tile_px,
            split_by=split_by,
            validation_size=validation_size,
            validation_slides=validation_slides,
            max_spots=max_spots,
            cache_dir=cache_dir,
            seed=seed,
            head=head,
            n_latent=n_latent,
            views=views,
            statistics=statistics,
            context_um=list(context_um),
        )

    def _build_module(self, network: torch.nn.Module) -> RankByGeneModule:
        return RankByGeneModule(
            network,
            n_features=self.backbone.n_features,
            n_genes=len(self.genes),
            n_latent=self.module_kwargs["n_latent"],
            head=self.module_kwargs["head"],
            statistics=self.module_kwargs["statistics"],
            n_widths=len(self.tile_widths),
            pixel_mean=self.backbone.mean,
            pixel_std=self.backbone.std,
        )

    def _build_plan(self, settings: dict[str, Any]) -> RankByGenePlan:
        return RankByGenePlan(self.module, seed=self.seed, **settings)

    @checked(batch_size={"at_least": 2})
    def train(
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int | Literal["auto"] = 64,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        precision: str = "auto",
        compile: bool = False,
        gradient_checkpointing: bool = False,
        early_stopping: bool = False,
        early_stopping_patience: int = 20,
        monitor: str = "validation_loss",
        plan_kwargs: Mapping[str, Any] | None = None,
        head_kwargs: Mapping[str, Any] | None = None,
        logger: pl.loggers.Logger | None = None,
        callbacks: Sequence[pl.Callback] = (),
        **trainer_kwargs: Any,
    ) -> None:
        """Train the encoders, and the prediction head with or after them.

        Parameters
        ----------
        max_epochs
            By default as many as show about 50,000 tiles, between 10 and 100.
        batch_size
            Spots per step, over all devices. The contrast and ranking losses see exactly this many.
            More spots are harder to tell apart, so that the size changes what is learnt, and not
            only how fast. ``"auto"`` takes the largest power of two that fits on a GPU.
        accelerator, devices
            As in Lightning. For several devices pass ``strategy="ddp"`` as well, in a script.
        precision
            ``"auto"``: bfloat16 autocast on a GPU that computes it natively, else float32, so that a
            seed does not give other numbers on another CPU. ``"bf16-mixed"``, about twice as fast on
            a CPU with AVX512-BF16 or AMX, ``"16-mixed"`` and ``"32-true"`` everywhere.
            What was used is logged and stands in the model's record.
        compile, gradient_checkpointing
            How the encoder runs, see :func:`rankbygene.train.encoders_for_training`.
        early_stopping, early_stopping_patience, monitor
            Stop when ``monitor`` has not improved for so many epochs. With or without it, the
            weights of the best epoch by ``monitor`` are kept when there is a validation split.
        plan_kwargs
            Loss weights, learning rates and schedules, and ``chunk_size`` for large batches in little
            memory, see :class:`rankbygene.train.RankByGenePlan`.
        head_kwargs
            With ``head="frozen"``: arguments of :func:`rankbygene.train.fit_head`.
        logger
            A further Lightning logger; ``history`` is kept in memory in any case.
        callbacks
            Further Lightning callbacks, such as a ``ModelCheckpoint``.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`; among them ``ckpt_path`` to resume,
            ``enable_progress_bar``.

        Raises
        ------
        InputValueError
            There are fewer training spots than one batch.
        TrainingError
            A loss was not finite; the step and the term are named.
        """
        head_settings = self._settings("head_kwargs", head_kwargs)
        self._fit(
            max_epochs,
            {"batch_size": batch_size},
            plan_kwargs or {},
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            compile=compile,
            gradient_checkpointing=gradient_checkpointing,
            early_stopping=early_stopping,
            early_stopping_patience=early_stopping_patience,
            monitor=monitor,
            logger=logger,
            callbacks=callbacks,
            trainer_kwargs=trainer_kwargs,
            finish=partial(self._finish, head_kwargs=head_settings),
        )

    @checked
    def load_released(
        self, path: str | Path, *, head_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Take the encoders from a checkpoint of the authors' code, and fit the prediction head.

        Parameters
        ----------
        path
            The checkpoint. The model must have been made with ``head="frozen"``, its encoder
            (``backbone="uni", pretrained=False``) and its gene panel in its order.
        head_kwargs
            Arguments of :func:`rankbygene.train.fit_head`.

        Raises
        ------
        InputValueError
            The checkpoint does not fit, or the model has another head.
        """
        if self.module.head != "frozen":
            msg = "the released checkpoints hold no prediction head; make the model with head='frozen'"
            raise InputValueError(msg)
        if self.fine_tuning.get("fine_tune", "full") != "full":
            msg = (
                "the released checkpoints hold a student and a teacher that differ everywhere; make the "
                f"model with fine_tune='full', not {self.fine_tuning['fine_tune']!r}"
            )
            raise InputValueError(msg)
        head_settings = self._settings("head_kwargs", head_kwargs)
        bank = self._expression_bank()
        with good_state_kept(self, partial(self._finish, bank, head_settings)):
            load_released_checkpoint(path, self.module)
            self.is_trained_ = True
            self.training_params = {"released_checkpoint": Path(path).name}

    def _finish(self, bank: ExpressionBank, head_kwargs: Mapping[str, Any]) -> None:
        """Fit the frozen head, if there is one, and score the validation spots."""
        rows = {name: self.training_split.rows(name) for name in ("train", "validation")}
        if self.module.head == "frozen":
            self._fit_frozen_head(bank, rows, head_kwargs)
        if self.module.statistics is not None:
            self._fit_statistics(self.module.statistics, bank, rows["train"])
        self.validation_pearson = validation_pearson(self, bank, rows["validation"])

    def _fit_frozen_head(
        self,
        bank: ExpressionBank,
        rows: Mapping[str, NDArray[np.intp]],
        settings: Mapping[str, Any],
    ) -> None:
        features = np.concatenate(
            [self._run(frame)["latent"] for frame in self.training_frames.values()]
        )
        with forked_rng(self.seed):
            history = fit_head(
                self.module,
                torch.from_numpy(features),
                torch.from_numpy(bank.values),
                torch.from_numpy(bank.measured[bank.slide_of_row]),
                train=torch.from_numpy(rows["train"]),
                validation=torch.from_numpy(rows["validation"]),
                seed=self.seed,
                **settings,
            )
        columns = {f"head_{name}": history[[name]].add_prefix("head_") for name in history.columns}
        self.history_ = {**(self.history_ or {}), **columns}

    def _fit_statistics(
        self, layer: torch.nn.Linear, bank: ExpressionBank, rows: NDArray[np.intp]
    ) -> None:
        blocks = np.split(rows, np.arange(BATCH_SIZE, len(rows), BATCH_SIZE))
        statistics = [
            self.module.describe(torch.from_numpy(self.tiles[block][:, :3]).to(self.device)).cpu()
            for block in blocks
        ]
        measured = bank.measured[bank.slide_of_row[rows]]
        expression = np.where(measured, bank.values[rows], np.float32(np.nan))
        labels = self.training_split.labels
        groups = row_groups(
            self.training_frames,
            {name: np.flatnonzero(own == "train") for name, own in labels.items()},
            tile_um=max(self.tile_widths),
            normalization=self.normalization,
        )
        fit_statistics(layer, torch.cat(statistics).numpy(), expression, groups.folds)

    def _apply(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features, expression = self.module.represent(images, views=self.module_kwargs["views"])
        return {"latent": features, "expression": expression}

    def _apply_genes(self, expression: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
        return self.module.gene_features(expression, measured)
