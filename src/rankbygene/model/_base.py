"""What every model of the package shares beyond its results and files: set-up and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from rankbygene.data import (
    ExpressionBank,
    Normalization,
    SpatialDataModule,
    SpatialSetup,
    resolve_slides,
    split_spots,
)
from rankbygene.data._bank import MEMORY_LIMIT
from rankbygene.model._files import FilesMixin
from rankbygene.model._random import choose_seed, forked_rng
from rankbygene.model._results import ResultsMixin
from rankbygene.model._setup import recall_setup, remember_setup
from rankbygene.model._state import spot_ids
from rankbygene.model._training import default_max_epochs, run_training, standardisation
from rankbygene.nn import build_backbone
from rankbygene.pp import check_panel, choose_panel

if TYPE_CHECKING:
    from rankbygene.data import SpotFrame, SpotSplit
    from rankbygene.data._split import SplitBy
    from rankbygene.model._setup import SpatialDatas
    from rankbygene.pp import PanelMethod
    from rankbygene.train import SpotPlan


class BaseSpatialModel(ResultsMixin, FilesMixin):
    """A model of histology and expression that works on SpatialData objects.

    Subclasses say how their network is built, trained and applied; everything else that a user
    touches is here, in :class:`ResultsMixin` and in :class:`FilesMixin`, once.

    Parameters
    ----------
    sdata
        One SpatialData object, or a list or dict ``{slide: object}``, after
        :meth:`setup_spatialdata`.
    backbone
        Image encoder: a timm name, an ``hf-hub:`` id, a named pathology encoder
        (``rankbygene.nn.PATHOLOGY_BACKBONES``) or a module that maps ``[B, 3, H, W]`` to features.
    pretrained
        Load the encoder's published weights. False starts from random weights and works offline.
    weights
        Local file with weights for ``backbone``.
    genes
        Names of the genes to learn and predict, or how many to choose with ``panel_method``.
    panel_method
        How genes are chosen, on training spots only and among those measured on every training
        slide.
    normalization
        How counts become the training scale.
    tile_um, tile_px
        Width of a tile in micrometres and in pixels after resampling. By default what the
        backbone was trained on (112 um at 224 px where it does not say).
    split_by, validation_size, validation_slides
        What is held out for early stopping and for the per-gene scores. By default whole
        patients where they are known, else slides, else spatial blocks of the only slide.
    cache_dir
        Folder that keeps the tiles between sessions, see :meth:`rankbygene.data.TileBank.build`. By
        default they are cut anew and held in memory.
    seed
        Repeats a run exactly on a CPU. By default ``scvi.settings.seed``, or 0.
    **module_kwargs
        Settings of the method's network.
    """

    def __init__(
        self,
        sdata: SpatialDatas,
        *,
        backbone: str | torch.nn.Module = "resnet18",
        pretrained: bool = True,
        weights: str | Path | None = None,
        genes: int | Sequence[str] = 250,
        panel_method: PanelMethod = "most_expressed",
        normalization: Normalization | None = None,
        tile_um: float | None = None,
        tile_px: int | None = None,
        split_by: SplitBy = "auto",
        validation_size: float = 0.2,
        validation_slides: Sequence[str] | None = None,
        cache_dir: str | Path | None = None,
        seed: int | None = None,
        **module_kwargs: Any,
    ) -> None:
        self.seed = choose_seed(seed)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.normalization = normalization or Normalization()
        self.module_kwargs = module_kwargs
        self.frames = resolve_slides(sdata, recall_setup)
        self.setup = next(iter(self.frames.values())).setup
        if not isinstance(genes, int):
            check_panel(genes, self.frames.values())
        with forked_rng(self.seed):
            network, self.backbone = build_backbone(
                backbone, pretrained=pretrained, weights=weights, tile_px=tile_px
            )
        self.tile_um = tile_um or self.backbone.tile_um
        self.tile_px = tile_px or self.backbone.tile_px
        self._check_tiles(self.frames)
        self.split = split_spots(
            self.frames,
            by=split_by,
            validation_size=validation_size,
            validation_slides=validation_slides,
            seed=self.seed,
            tile_um=max(self.tile_widths),
            normalization=self.normalization,
        )
        self.split_note = self.split.note
        self.split_labels = label_spots(self.frames, self.split)
        self.panel_method = panel_method if isinstance(genes, int) else "given"
        self.genes = self._train_panel(genes, panel_method)
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
            H&E image; per region with a mapping ``{region: image}``. By default the finest RGB
            image that shares a coordinate system with the region.
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

    def _train_panel(self, genes: int | Sequence[str], method: PanelMethod) -> list[str]:
        if not isinstance(genes, int):
            return list(genes)
        rows = {
            name: np.flatnonzero(labels == "train") for name, labels in self.split.labels.items()
        }
        used = [frame for name, frame in self.frames.items() if len(rows[name])]
        return choose_panel(used, genes, method=method, rows=rows)

    def _build_datamodule(
        self, bank: ExpressionBank, plan: SpotPlan, **batches: Any
    ) -> SpatialDataModule:
        """Build the batches that ``plan`` is trained on."""
        tiles = self.tiles
        # More than memory may hold is read in windows, each a part of it.
        window = None
        if tiles.n_bytes > MEMORY_LIMIT:
            window = max(batches["batch_size"], len(tiles) * MEMORY_LIMIT // (4 * tiles.n_bytes))
        return SpatialDataModule(
            tiles, bank, self.split, seed=self.seed, shuffle_window=window, **batches
        )

    def _fit(
        self,
        max_epochs: int | None,
        batches: Mapping[str, Any],
        plan_kwargs: Mapping[str, Any],
        **runner: Any,
    ) -> ExpressionBank:
        """Train the module by the method's plan; ``runner`` goes to :func:`run_training`."""
        bank = self._expression_bank()
        train = self.split.rows("train")
        self.module.set_expression_stats(*map(torch.from_numpy, standardisation(bank, train)))
        plan = self._build_plan(dict(plan_kwargs))
        datamodule = self._build_datamodule(bank, plan, **batches)
        epochs = max_epochs or default_max_epochs(len(train))
        self.training_params = {"max_epochs": epochs, **batches, **plan_kwargs}
        run_training(self, plan, datamodule, max_epochs=epochs, **runner)
        return bank

    def _expression_bank(self) -> ExpressionBank:
        return ExpressionBank.build(self.frames, self.genes, self.normalization)


def label_spots(frames: Mapping[str, SpotFrame], split: SpotSplit) -> pd.Series[str]:
    """Split label of every spot, indexed by spot id."""
    ids = np.concatenate([spot_ids(frame) for frame in frames.values()])
    labels = np.concatenate([split.labels[name] for name in frames])
    return pd.Series(labels.astype(str), index=ids)
