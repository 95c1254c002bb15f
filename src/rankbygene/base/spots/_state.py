"""What a model holds, and what a method has to say to become one."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch

from rankbygene.base._trained import TrainedModel
from rankbygene.base.spots._context import Alone, Widths
from rankbygene.base.spots._seen import SpotRecord
from rankbygene.data import TileBank, plan_tiles, resolve, resolve_slides
from rankbygene.data.slides._known_scale import SETUPS
from rankbygene.errors import InputKeyError, InputValueError, Problems

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from rankbygene.base._setup import SpatialDatas
    from rankbygene.base.spots._context import Context
    from rankbygene.base.spots._plan import SpotPlan
    from rankbygene.base.spots._surroundings import SlideFeatures, Surroundings
    from rankbygene.data import (
        ExpressionBank,
        FeatureBank,
        Normalization,
        SpatialSetup,
        SpotFrame,
        SpotSplit,
    )
    from rankbygene.nn import BackboneSpec


# What a method may give: a representation of the image, a prediction, a representation of the profile.
Capability = Literal["latent", "expression", "gene"]
_IN_WORDS = {
    "latent": "representation of the image",
    "expression": "predicted expression",
    "gene": "representation of the profile",
}


class ModelState(TrainedModel, ABC):
    """State and hooks that set-up, results and files share."""

    method: ClassVar[str]
    gives: ClassVar[frozenset[Capability]] = frozenset({"latent", "expression", "gene"})

    setup: SpatialSetup
    frames: dict[str, SpotFrame]  # empty when loaded without data
    split: SpotSplit
    # Of slides that were sampled, what the sample kept; the same as above for others.
    training_frames: dict[str, SpotFrame]
    training_split: SpotSplit
    backbone: BackboneSpec
    tile_um: float
    tile_px: int
    normalization: Normalization
    panel_method: str
    genes: list[str]
    module_kwargs: dict[str, Any]
    fine_tuning: dict[str, Any]  # arguments of rankbygene.nn.set_fine_tuning
    split_note: str
    record: SpotRecord  # of every spot of the model's own data, also where no data is attached
    is_recorded: bool  # whether `record` covers `split`: not for new data until it is trained on
    training_params: dict[str, Any]
    validation_pearson: pd.Series[float]  # per gene of the panel
    cache_dir: Path | None = None  # where tiles are kept between sessions; not saved
    _tiles: TileBank | None
    _features: FeatureBank | None  # of a frozen encoder
    _features_precision: str | None = None

    # ---- what a method says --------------------------------------------------------------------

    @abstractmethod
    def _build_module(self, network: torch.nn.Module) -> torch.nn.Module:
        """Build the torch module around an image backbone, by ``module_kwargs``."""

    # The class of the training of ``module``, which takes it, the seed and the user's settings.
    _plan_class: ClassVar[type[SpotPlan]]

    def _build_plan(self, settings: dict[str, Any]) -> SpotPlan:
        """Build the training of ``module`` with the user's settings."""
        plan: Any = self._plan_class
        built: SpotPlan = plan(self.module, seed=self.seed, **settings)
        return built

    @abstractmethod
    def _apply(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map uint8 images ``[B, 3, px, px]`` to what the method gives of ``latent`` and ``expression``.

        A method that looks beyond the tile gives what :meth:`_combine` needs instead.
        """

    def _context(self, plan: SpotPlan | None) -> Context:
        """Say what spots are seen with: in a training by ``plan``, or in prediction where that is None.

        By ``module_kwargs`` alone: it is asked for before there are networks. Widths are the same for both.
        """
        return Alone() & Widths(*self.module_kwargs.get("context_um", ()))

    def _apply_genes(self, expression: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
        """Map expression ``[B, n_genes]`` to the gene branch's representation, where there is one."""
        latent: torch.Tensor = self.module.gene_features(expression, measured)
        return latent

    def _slide_product(self, slide: SlideFeatures) -> dict[str, torch.Tensor]:
        """Compute what the spots of a slide share, before any of them is combined with others.

        It is called once per slide, however many parts a prediction has, and handed on as
        ``spots.slide`` to :meth:`_combine`. Where the context keeps features, ``slide`` gives them block by
        block.
        """
        return {}

    def _combine(self, spots: Surroundings) -> dict[str, torch.Tensor]:
        """Turn what :meth:`_apply` gave for spots and what they look at into what the method gives.

        Called where the context of prediction looks around, for some spots at a time, without
        gradients; what comes out may not depend on which spots come together.
        """
        return {name: spots.own(name) for name in spots.values}

    def _batch_settings(self, batch_size: int | str) -> dict[str, Any]:
        """Settings of batches beside their size."""
        return {}

    def _before_training(self, bank: ExpressionBank) -> None:
        """Start the networks from what the training spots say; their expression is standardised."""

    def _after_training(self, bank: ExpressionBank) -> None:
        """Fit or remember what follows the training of the networks."""

    def _method_state(self) -> dict[str, torch.Tensor]:
        """Tensors that the method keeps beside its networks; they are saved with the model."""
        return {}

    def _restore_method_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what :meth:`_method_state` gave."""

    @property
    def _panel_and_pixels(self) -> dict[str, Any]:
        """What the networks of every method are built with: size of the panel, scale of the pixels."""
        return {
            "n_genes": len(self.genes),
            "pixel_mean": self.backbone.mean,
            "pixel_std": self.backbone.std,
        }

    # ---- what follows from it ------------------------------------------------------------------

    def _check_gives(self, what: Capability) -> None:
        """Refuse to give what the method does not have.

        Raises
        ------
        InputValueError
            What it has is named.
        """
        if what not in self.gives:
            msg = (
                f"{type(self).__name__} has no {_IN_WORDS[what]}; it gives "
                f"{', '.join(_IN_WORDS[one] for one in sorted(self.gives))}"
            )
            raise InputValueError(msg)

    @property
    def split_labels(self) -> pd.Series[str]:
        """Label of every spot of the model's own data, in the order of the slides."""
        return pd.Series(self.record.labels.astype(str))

    def _record_split(self) -> None:
        """Remember the spots of data that was attached and is about to be trained on."""
        if not self.is_recorded:
            self.record = self.record.joined(SpotRecord.of(self.frames, self.split, self.genes))
            self.is_recorded = True

    @classmethod
    def widths_of(cls, tile_um: float, settings: Mapping[str, Any]) -> tuple[float, ...]:
        """Give the widths of the tiles that a model made with these settings would cut."""
        options = inspect.signature(cls).parameters.values()
        model = cls.__new__(cls)
        model.module_kwargs = {
            **{
                option.name: option.default
                for option in options
                if option.kind is option.KEYWORD_ONLY
            },
            **settings,
        }
        return model._context(None).widths(tile_um)

    @property
    def tile_widths(self) -> tuple[float, ...]:
        """Widths of the tiles at each spot in micrometres, ``tile_um`` first."""
        return self._context(None).widths(self.tile_um)

    @property
    def tiles(self) -> TileBank:
        """Tiles of the model's own slides, cut on first use and kept until :meth:`release`.

        With ``cache_dir`` they are kept beyond that, in files.
        """
        if self._tiles is None:
            self._tiles = TileBank.build(
                self.training_frames,
                tile_um=self.tile_widths,
                tile_px=self.tile_px,
                cache_dir=self.cache_dir,
            )
        return self._tiles

    def _use(self, frames: dict[str, SpotFrame], split: SpotSplit) -> None:
        """Make slides and their split the model's own."""
        self.frames, self.split = frames, split
        self.training_split = split.without_unused()
        self.training_frames = {
            name: frame if len(rows) == frame.n_obs else frame.take(rows)
            for (name, frame), rows in zip(frames.items(), self._used_rows().values(), strict=True)
        }

    def _used_rows(self) -> dict[str, NDArray[np.intp]]:
        """Spots of each slide that its sample kept."""
        return {
            name: np.flatnonzero(labels != "unused") for name, labels in self.split.labels.items()
        }

    def release(self) -> None:
        """Free tiles, kept features and the trainer; what is needed again is made or found again."""
        self._tiles = None
        self._features = None
        self.trainer: Any = None

    def _start_untrained(self) -> None:
        self.is_trained_ = False
        self.history_ = None
        self.training_params = {}
        self.validation_pearson = pd.Series(np.nan, index=self.genes, name="pearson")
        self.release()

    def _check_tiles(self, frames: Mapping[str, SpotFrame]) -> None:
        problems = Problems()
        for frame in frames.values():
            with problems.collect():
                for width in self.tile_widths:
                    plan_tiles(frame, tile_um=width, tile_px=self.tile_px)
        problems.raise_if_any()

    def _setup_for(self, sdata: SpatialData) -> SpatialSetup:
        """Give the set-up of an object: its own, else the model's.

        A scale that was said is a scale of the images that it was said of. It holds for slides that the
        model was made with, told by their spots; others need one of their own.
        """
        setup, said = SETUPS.get(sdata, self.setup), self.setup.um_per_px
        if sdata in SETUPS or said is None:
            return setup
        frames = resolve(sdata, setup, counts=False)
        own = [
            frame.region
            for frame in frames
            if pd.notna(self.record.labels_of(frame, self.genes)).any()
        ]
        if len(own) == len(frames):
            return setup
        values = {name: said[name] if isinstance(said, Mapping) else said for name in own}
        alone = replace(setup, um_per_px=values or None)
        try:
            resolve(sdata, alone, counts=False)
        except (InputValueError, InputKeyError) as error:
            msg = (
                f"{error} The model was told um_per_px={said}, but of other images: say it of this "
                f"object with `{type(self).__name__}.setup_spatialdata(sdata, um_per_px=...)`."
            )
            raise type(error)(msg) from error
        return alone

    def _frames_of(self, sdata: SpatialDatas | None, *, counts: bool) -> dict[str, SpotFrame]:
        """Frames of new data, or of the model's own data when none is given."""
        if sdata is None:
            if not self.frames:
                msg = "this model was loaded without data; pass `sdata=...`"
                raise InputValueError(msg)
            return self.frames
        frames = resolve_slides(sdata, self._setup_for, counts=counts)
        self._check_tiles(frames)
        return frames
