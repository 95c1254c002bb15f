"""What every model of the package shares beyond its results and files: set-up and training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

import numpy as np
import torch

from rankbygene._arguments import check_settings, checked, taking
from rankbygene._docstrings import with_parameters
from rankbygene.base._inference import BATCH_SIZE, choose_precision
from rankbygene.base._last_good import good_state_kept
from rankbygene.base._random import choose_seed, forked_rng
from rankbygene.base._runner import (
    check_before_training,
    check_trainer,
    default_max_epochs,
    run_training,
    training_device,
)
from rankbygene.base._setup import recall_setup, remember_setup
from rankbygene.base.spots._features import keep_context, keep_features
from rankbygene.base.spots._files import FilesMixin
from rankbygene.base.spots._fitting import largest_batch, standardisation, validation_pearson
from rankbygene.base.spots._options import DEFAULTS, SpotOptions
from rankbygene.base.spots._results import ResultsMixin
from rankbygene.base.spots._seen import SpotRecord
from rankbygene.base.spots._spacing import mean_spacing
from rankbygene.data import (
    ExpressionBank,
    Normalization,
    SpatialDataModule,
    SpatialSetup,
    resolve_slides,
    split_spots,
)
from rankbygene.errors import InputValueError
from rankbygene.nn import build_backbone, set_fine_tuning
from rankbygene.pp import check_panel, choose_panel
from rankbygene.train._encoder import encoders_for_training
from rankbygene.train._optimizer import trained

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from rankbygene.base._setup import SpatialDatas
    from rankbygene.base.spots._context import Context
    from rankbygene.base.spots._plan import SpotPlan
    from rankbygene.data.batches._datamodule import Tiles
    from rankbygene.data.batches._kept import KeptContext
    from rankbygene.pp import PanelMethod


class SpotModel(ResultsMixin, FilesMixin):
    """A model of spots, each an image and a profile, that works on SpatialData objects.

    Subclasses say how their network is built, trained and applied; everything else that a user
    touches is here, in :class:`ResultsMixin` and in :class:`FilesMixin`, once. What they take
    beside the common options they say with :func:`own_options`.
    """

    # Spots that a sample of a large slide draws side by side.
    _drawn_together: ClassVar[int] = 1
    # What takes further settings that ``train`` hands on, and what it is given otherwise.
    _settings_of: ClassVar[dict[str, tuple[Callable[..., Any], tuple[str, ...]]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_plan_class" in vars(cls):
            own = vars(cls).get("_settings_of", {})
            cls._settings_of = {"plan_kwargs": (cls._plan_class, ("module", "seed")), **own}
        order = inspect.signature(cls.__init__).parameters
        cls.__doc__ = with_parameters(cls.__doc__, SpotOptions.__doc__, order)

    @taking(SpotOptions, DEFAULTS)
    def __init__(self, sdata: SpatialDatas, **options: Unpack[SpotOptions]) -> None:
        given: SpotOptions = {**DEFAULTS, **options}
        vars(self).setdefault("module_kwargs", {})  # a method without options of its own
        seed, cache_dir, genes = given["seed"], given["cache_dir"], given["genes"]
        normalization, max_spots = given["normalization"], given["max_spots"]
        tile_px = given["tile_px"]
        self.seed = choose_seed(seed)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.normalization = normalization or Normalization()
        lora_kwargs = given["lora_kwargs"]
        self.fine_tuning = {
            "fine_tune": given["fine_tune"],
            "n_last": given["n_last"],
            "lora_kwargs": None if lora_kwargs is None else dict(lora_kwargs),
        }
        frames = resolve_slides(sdata, recall_setup)
        self.setup = next(iter(frames.values())).setup.as_said()
        if not isinstance(genes, int):
            check_panel(genes, frames.values())
        with forked_rng(self.seed):
            network, self.backbone = build_backbone(
                given["backbone"],
                pretrained=given["pretrained"],
                weights=given["weights"],
                tile_px=tile_px,
            )
            set_fine_tuning(network, **self.fine_tuning)
        self.tile_um = given["tile_um"] or self.backbone.tile_um
        self.tile_px = tile_px or self.backbone.tile_px
        self._check_tiles(frames)
        split = split_spots(
            frames,
            by=given["split_by"],
            validation_size=given["validation_size"],
            validation_slides=given["validation_slides"],
            seed=self.seed,
            tile_um=max(self.tile_widths),
            normalization=self.normalization,
        )
        if max_spots is not None:
            split = split.sample(frames, max_spots, self._drawn_together)
        self._use(frames, split)
        self.split_note = split.note
        self.panel_method = given["panel_method"] if isinstance(genes, int) else "given"
        self.genes = self._train_panel(genes, given["panel_method"])
        self.record = SpotRecord.of(self.frames, self.split, self.genes)
        self.is_recorded = True
        with forked_rng(self.seed):
            self.module = self._build_module(network)
        self._start_untrained()

    def __repr__(self) -> str:
        state = "trained" if self.is_trained_ else "not trained"
        slides = f"{len(self.frames)} slides, " if self.frames else ""
        return (
            f"{type(self).__name__} ({state}): {slides}{len(self.genes)} genes, "
            f"{self.backbone.name}, tiles of {self.tile_um:g} um at {self.tile_px} px"
        )

    @classmethod
    @checked
    def setup_spatialdata(
        cls,
        sdata: SpatialDatas,
        *,
        table_key: str = "table",
        image_key: str | Mapping[str, str] | None = None,
        layer: str | None = None,
        coordinate_system: str | None = None,
        patient_key: str | None = None,
        um_per_px: float | Mapping[str, float] | None = None,
    ) -> None:
        """Say which parts of a SpatialData object feed the model.

        Nothing is written into ``sdata``.

        Parameters
        ----------
        sdata
            One object, or a list or dict of objects that share these settings.
        table_key
            Table with the counts, annotating circles, polygons or labels.
        image_key
            H&E image; per region with a mapping ``{region: image}``. May be left out where the
            region shares a coordinate system with one RGB image, or with the pictures of one
            Visium library; between other images nothing is guessed.
        layer
            Layer of integer counts; by default ``X``.
        coordinate_system
            System in which spots and image meet; by default one that both have.
        patient_key
            Column of ``obs`` that names the patient (or animal), one value per slide. Splits
            then keep patients apart.
        um_per_px
            Micrometres per pixel of the finest level of the image, where neither a coordinate
            system in micrometres, nor metadata, nor a Visium lattice tells it.
        """
        setup = SpatialSetup(
            table_key=table_key,
            image_key=image_key,
            layer=layer,
            coordinate_system=coordinate_system,
            patient_key=patient_key,
            um_per_px=um_per_px,
        )
        remember_setup(sdata, setup)

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
        logger: pl.loggers.Logger | None = None,
        callbacks: Sequence[pl.Callback] = (),
        **trainer_kwargs: Any,
    ) -> None:
        """Train the networks, and what the method fits after them.

        Parameters
        ----------
        max_epochs
            By default as many as show about 50,000 tiles, between 10 and 100.
        batch_size
            Spots per step, over all devices. Losses that compare spots see exactly this many.
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
            memory: arguments of the method's plan in :mod:`rankbygene.train`.
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
        batches = {"batch_size": batch_size, **self._batch_settings(batch_size)}
        encoding = {"compile": compile, "gradient_checkpointing": gradient_checkpointing}
        runner: dict[str, Any] = {
            "accelerator": accelerator,
            "devices": devices,
            "precision": precision,
            "early_stopping": early_stopping,
            "early_stopping_patience": early_stopping_patience,
            "monitor": monitor,
            "logger": logger,
            "callbacks": callbacks,
        }
        settings = self._settings("plan_kwargs", plan_kwargs)
        check_trainer(max_epochs, trainer_kwargs, **runner)
        runner |= trainer_kwargs
        self._check_encoding(encoding, runner.get("strategy"))
        self._fit(max_epochs, batches, settings, encoding, runner)

    def _fit(
        self,
        max_epochs: int | None,
        batches: Mapping[str, Any],
        plan_kwargs: Mapping[str, Any],
        encoding: Mapping[str, bool],
        runner: dict[str, Any],
    ) -> None:
        """Train the module by the method's plan with settings that were checked, and finish."""
        plan = self._build_plan(dict(plan_kwargs))
        context = self._context(plan)
        self._check_context(context)
        train = self.training_split.rows("train")
        validation = self.training_split.rows("validation")
        check_before_training(plan, validated=len(validation) > 0, **runner)
        device = training_device(runner["accelerator"], runner["devices"])
        runner["precision"] = choose_precision(runner["precision"], device)
        if batches["batch_size"] != "auto":
            plan.check_sizes(batches["batch_size"], len(validation))
        bank = self._expression_bank()
        with good_state_kept(self, partial(self._finish, bank)):
            self.module.set_expression_stats(*map(torch.from_numpy, standardisation(bank, train)))
            self._before_training(bank)
            inputs = self._inputs(device, runner["precision"])
            kept = self._kept_context(context, device, runner["precision"])
            epochs = max_epochs or default_max_epochs(len(train))
            with encoders_for_training(self.module, **encoding):
                make = partial(self._build_datamodule, inputs, bank, plan, kept)
                if batches["batch_size"] == "auto":
                    size = self._largest_batch(make, plan, batches, device, runner["precision"])
                    plan.check_sizes(size, len(validation))
                    batches = {**batches, "batch_size": size}
                datamodule = make(**batches)
                _check_slides(datamodule, plan.smallest_batch)
                self.training_params = {
                    "max_epochs": epochs,
                    "precision": runner["precision"],
                    "accelerator": device.type,
                    **batches,
                    **plan_kwargs,
                }
                self._record_split()
                run_training(self, plan, datamodule, max_epochs=epochs, **runner)

    def _finish(self, bank: ExpressionBank) -> None:
        """Do what follows the training of the networks, and score the validation spots."""
        if self._context(None).looks_around:
            self.training_params["spacing_um"] = mean_spacing(self.frames.values())
        self._after_training(bank)
        if "expression" in self.gives:
            rows = self.training_split.rows("validation")
            self.validation_pearson = validation_pearson(self, bank, rows)

    def _train_panel(self, genes: int | Sequence[str], method: PanelMethod) -> list[str]:
        if not isinstance(genes, int):
            return list(genes)
        rows = {
            name: np.flatnonzero(labels == "train") for name, labels in self.split.labels.items()
        }
        used = [frame for name, frame in self.frames.items() if len(rows[name])]
        return choose_panel(used, genes, method=method, rows=rows)

    def _build_datamodule(
        self,
        inputs: Tiles,
        bank: ExpressionBank,
        plan: SpotPlan,
        kept: KeptContext | None = None,
        **batches: Any,
    ) -> SpatialDataModule:
        """Build the batches that ``plan`` is trained on, of tiles or of their features."""
        return self._context(plan).datamodule(
            inputs,
            bank,
            self.training_split,
            self.training_frames,
            kept,
            seed=self.seed,
            **batches,
        )

    def _kept_context(
        self, context: Context, device: torch.device, precision: str
    ) -> KeptContext | None:
        """Encode once what the spots of a training look at and no training changes."""
        if not context.keeps:
            return None
        module = self.module.to(device).eval()
        return keep_context(
            context,
            self.frames,
            self.split,
            self._used_rows(),
            self._stream,
            module.encode_context,
            device=device,
            batch_size=BATCH_SIZE,
            precision=precision,
        )

    def _check_context(self, context: Context) -> None:
        """Refuse to keep features of a network that training changes.

        Raises
        ------
        InputValueError
            They would be others after the first step.
        """
        if context.keeps and trained(self.module.context_encoder):
            msg = (
                f"{context} keeps features of an encoder, and this training changes the encoder; pass "
                "fine_tune='none', or give the networks a `context_encoder` of their own that is frozen"
            )
            raise InputValueError(msg)

    def _largest_batch(
        self,
        make: Callable[..., SpatialDataModule],
        plan: SpotPlan,
        batches: Mapping[str, Any],
        device: torch.device,
        precision: str,
    ) -> int:
        n_train = len(self.training_split.rows("train"))
        with forked_rng(self.seed):
            return largest_batch(plan, make, batches, n_train, device=device, precision=precision)

    def _settings(self, name: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
        """Check settings that training hands on."""
        function, own = self._settings_of[name]
        return check_settings(function, value, name, owned=own)

    def _inputs(self, device: torch.device, precision: str) -> Tiles:
        """Give what batches are made of: tiles, or the features of an encoder that stays as it is."""
        if self.fine_tuning.get("fine_tune") != "none":
            return self.tiles
        # Those of another precision are others.
        if self._features is None or self._features_precision != precision:
            self.module.to(device).eval()
            self._features = keep_features(
                self.module.encode_orientations,
                self.tiles,
                device=device,
                batch_size=BATCH_SIZE,
                precision=precision,
            )
            self._features_precision = precision
        return self._features

    def _check_encoding(self, encoding: Mapping[str, bool], strategy: object) -> None:
        chosen = [name for name, value in encoding.items() if value]
        if chosen and strategy == "fsdp":
            msg = (
                f"{' and '.join(chosen)} cannot be combined with strategy='fsdp', which takes the "
                "encoder apart; leave one of them out"
            )
            raise InputValueError(msg)
        if chosen and self.fine_tuning.get("fine_tune") == "none":
            msg = (
                f"{' and '.join(chosen)} would have no effect: with fine_tune='none' the encoder is "
                "not run in training"
            )
            raise InputValueError(msg)

    def _expression_bank(self) -> ExpressionBank:
        return ExpressionBank.build(
            self.frames, self.genes, self.normalization, rows=self._used_rows()
        )


def _check_slides(batches: SpatialDataModule, needed: int) -> None:
    """Refuse slides whose batches, where each is of one slide, leave losses nothing to compare."""
    size, slide = batches.smallest_batch
    if slide is not None and size < needed:
        msg = (
            f"spots are seen with their whole slide, so that a batch is of one, and slide {slide!r} has "
            f"a batch of {size} of its training spots; the losses compare {needed} at least. Leave it out, "
            "hold out less of it, or pass another batch_size"
        )
        raise InputValueError(msg)
