"""NH2ST on SpatialData."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from rankbygene._arguments import checked
from rankbygene.base.spots._fitting import validation_pearson
from rankbygene.base.spots._model import BaseSpatialModel
from rankbygene.base.spots._plan import SpotPlan
from rankbygene.data import NeighbourhoodDataModule, local_places, nearest_spots, spot_spacing
from rankbygene.errors import InputValueError
from rankbygene.methods.nh2st._module import NH2STModule
from rankbygene.methods.nh2st._plan import NH2STPlan

if TYPE_CHECKING:
    from pathlib import Path

    import lightning.pytorch as pl
    from numpy.typing import NDArray

    from rankbygene.base._setup import SpatialDatas
    from rankbygene.data import ExpressionBank, Normalization, SpotFrame
    from rankbygene.data.batches._datamodule import Tiles
    from rankbygene.data.splits._split import SplitBy
    from rankbygene.methods.nh2st._module import Activation, ContrastOn, DecodeFrom, Pooling, Tokens
    from rankbygene.nn import FineTune
    from rankbygene.pp import PanelMethod

# Neighbourhoods that are combined together.
_AT_ONCE = 1024


class NH2ST(BaseSpatialModel):
    """Spatial expression from H&E by contrast at two scales: the spot and its neighbourhood.

    An image encoder and a gene encoder are trained so that image and genes agree for single spots
    and for neighbourhoods, which are represented by convolutions on a hypergraph of similar spots;
    a decoder predicts expression :cite:p:`qu2025nh2st`. To apply it needs images alone.

    Parameters
    ----------
    sdata
        One SpatialData object, or a list or dict ``{slide: object}``, after
        :meth:`setup_spatialdata`.
    n_neighbourhood
        Spots of a neighbourhood, the spot itself included: the nearest ones on its slide.
    k
        Partners of a spot in its hyperedge.
    contrast_on, decode_from, tokens, sequential, share_cross_attention, pooling, activation
        What the networks do, see :class:`rankbygene.module.NH2STModule`. With
        ``decode_from="query+neighbours"`` the spacing of spots should be that of training; see
        ``step_um`` of :meth:`predict_slide`.
    standardize, n_latent, n_hidden, n_heads, depth, mlp_ratio, dropout
        Further settings of the networks.
    views
        Orientations over which the image encoder's features are averaged: 8 (all rotations and
        reflections) or 1.
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
    >>> rbg.model.NH2ST.setup_spatialdata(slides, patient_key="patient")
    >>> model = rbg.model.NH2ST(slides, backbone="resnet18", pretrained=False)
    >>> model.train(max_epochs=20)
    >>> model.annotate()
    """

    method: ClassVar[str] = "nh2st"
    _settings_of = {
        "plan_kwargs": (NH2STPlan, ("module", "seed")),
    }
    _drawn_together: ClassVar[int] = 64
    module: NH2STModule
    _nearest: tuple[SpotFrame, NDArray[np.intp]] | None = None

    @checked
    def __init__(
        self,
        sdata: SpatialDatas,
        *,
        n_neighbourhood: int = 9,
        k: int = 3,
        contrast_on: ContrastOn = "pre",
        decode_from: DecodeFrom = "query+neighbours",
        tokens: Tokens = "map",
        sequential: bool = False,
        share_cross_attention: bool = False,
        pooling: Pooling = "mean",
        activation: Activation | None = None,
        standardize: bool = True,
        n_latent: int = 512,
        n_hidden: int = 1024,
        n_heads: int = 8,
        depth: int = 1,
        mlp_ratio: float = 1.0,
        dropout: float = 0.1,
        views: int = 8,
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
        if n_neighbourhood < 1 or k < 1:
            msg = (
                f"n_neighbourhood={n_neighbourhood} and k={k} must be at least 1: a neighbourhood "
                "holds the spot itself, a hyperedge a partner"
            )
            raise InputValueError(msg)
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
            n_neighbourhood=n_neighbourhood,
            k=k,
            contrast_on=contrast_on,
            decode_from=decode_from,
            tokens=tokens,
            sequential=sequential,
            share_cross_attention=share_cross_attention,
            pooling=pooling,
            activation=activation,
            standardize=standardize,
            n_latent=n_latent,
            n_hidden=n_hidden,
            n_heads=n_heads,
            depth=depth,
            mlp_ratio=mlp_ratio,
            dropout=dropout,
            views=views,
        )

    def _build_module(self, network: torch.nn.Module) -> NH2STModule:
        settings = dict(self.module_kwargs)
        self._n, self._views = settings.pop("n_neighbourhood"), settings.pop("views")
        backbone: Any = network
        return NH2STModule(
            network,
            n_features=self.backbone.n_features,
            n_genes=len(self.genes),
            map_shape=backbone.map_shape(self.tile_px),
            pixel_mean=self.backbone.mean,
            pixel_std=self.backbone.std,
            **settings,
        )

    def _build_plan(self, settings: dict[str, Any]) -> NH2STPlan:
        return NH2STPlan(self.module, seed=self.seed, **settings)

    def _build_datamodule(
        self, inputs: Tiles, bank: ExpressionBank, plan: SpotPlan, **batches: Any
    ) -> NeighbourhoodDataModule:
        looks_around = self.module.decode_from != "query" or plan.weights["neighbour"] > 0
        if not looks_around:
            batches["patch_size"] = 1
        return NeighbourhoodDataModule(
            inputs,
            bank,
            self.training_split,
            [frame.centers_um for frame in self.training_frames.values()],
            n=self._n if looks_around else 1,
            seed=self.seed,
            drop_last=True,
            **batches,
        )

    @checked(batch_size={"at_least": 2})
    def train(
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int | Literal["auto"] = 64,
        patch_size: int | None = None,
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
        """Train encoders, neighbourhoods and decoder together.

        Parameters
        ----------
        max_epochs
            By default as many as show about 50,000 tiles, between 10 and 100.
        batch_size
            Spots per step, over all devices. The contrasts see exactly this many.
            More spots are harder to tell apart, so that the size changes what is learnt, and not
            only how fast. ``"auto"`` takes the largest power of two that fits on a GPU.
        patch_size
            Spots of a batch that lie side by side and so share the tiles around them, see
            :class:`rankbygene.data.NeighbourhoodDataModule`. By default 32, or ``batch_size`` where
            that is less; 1 where no loss and no prediction looks at neighbours.
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
            Loss weights, temperatures, learning rate, and ``chunk_size`` for large batches in little
            memory, see :class:`rankbygene.train.NH2STPlan`.
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
        if patch_size is None:
            patch_size = 32 if batch_size == "auto" else min(32, batch_size)
        self._fit(
            max_epochs,
            {"batch_size": batch_size, "patch_size": patch_size},
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
            finish=self._finish,
        )

    def _finish(self, bank: ExpressionBank) -> None:
        """Note how far apart the spots were, and score the validation spots."""
        spacings = [spot_spacing(frame.centers_um) for frame in self.frames.values()]
        self.training_params["spacing_um"] = float(np.nanmean(spacings))
        self.validation_pearson = validation_pearson(
            self, bank, self.training_split.rows("validation")
        )

    def _apply(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.module.image_features(images, views=self._views)
        latent = self.module.query(features)
        if self.module.decode_from == "query":
            return {"latent": latent, "expression": self.module.predict_from_features(features)}
        return {"latent": latent, "features": features}

    def _apply_genes(self, expression: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
        return self.module.gene_features(expression, measured)

    def _rows_needed(self, frame: SpotFrame, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        if self.module.decode_from == "query":
            return rows
        return local_places(self._neighbours_of(frame)[rows])[0]

    def _combine(
        self,
        values: dict[str, NDArray[np.float32]],
        frame: SpotFrame,
        rows: NDArray[np.intp],
        needed: NDArray[np.intp],
    ) -> dict[str, NDArray[np.float32]]:
        """Predict from the features of a slide's tiles, each encoded once."""
        if self.module.decode_from == "query":
            return values
        self._warn_of_spacing(frame)
        _, places = local_places(self._neighbours_of(frame)[rows])
        expression = np.empty((len(rows), len(self.genes)), np.float32)
        for start in range(0, len(rows), _AT_ONCE):
            block = slice(start, start + _AT_ONCE)
            own, inside = local_places(places[block])
            features = torch.from_numpy(values["features"][own]).to(self.device)
            neighbours = torch.from_numpy(inside).to(self.device)
            with torch.inference_mode():
                predicted = self.module.predict_from_features(features, neighbours)
            expression[block] = predicted.cpu().numpy()
        return {"latent": values["latent"][places[:, 0]], "expression": expression}

    def _neighbours_of(self, frame: SpotFrame) -> NDArray[np.intp]:
        """Nearest spots of a slide, kept for the last one, which large slides ask for many times."""
        if self._nearest is None or self._nearest[0] is not frame:
            self._nearest = frame, nearest_spots(frame.centers, self._n)
        return self._nearest[1]

    def _warn_of_spacing(self, frame: SpotFrame) -> None:
        """Say when neighbours are nearer or farther than those that the model learned from."""
        found, learned = spot_spacing(frame.centers_um), self.training_params["spacing_um"]
        if not (found > 1.5 * learned or learned > 1.5 * found):
            return
        text = (
            f"the spots of slide {frame.slide!r} are {found:.0f} um apart, those of training "
            f"{learned:.0f} um; neighbourhoods of another size shift predictions. Predict at shapes "
            "or with `predict_slide(step_um=...)` at about the spacing of training, or train with "
            "decode_from='query'"
        )
        warnings.warn(text, UserWarning, stacklevel=2)
