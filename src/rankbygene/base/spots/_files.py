"""A model as a folder: tensors in safetensors, the rest in JSON, the history in CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch

from rankbygene._arguments import checked
from rankbygene._renamed import by_names_of_today
from rankbygene.base._folder import (
    building,
    load_module,
    module_tensors,
    read_history,
    read_record,
    read_tensors,
    write_folder,
)
from rankbygene.base._random import forked_rng
from rankbygene.base._setup import remember_setup
from rankbygene.base.spots._record import model_record
from rankbygene.base.spots._seen import SpotRecord
from rankbygene.base.spots._state import ModelState
from rankbygene.data import Normalization, SpatialSetup, SpotSplit, resolve_slides, split_spots
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.nn import BackboneSpec, build_backbone, set_fine_tuning
from rankbygene.pp import check_panel

if TYPE_CHECKING:
    from rankbygene.base._setup import SpatialDatas


# Before the names of what a method keeps beside its networks.
_STATE = "method."


class FilesMixin(ModelState):
    """Saving and loading."""

    @checked
    def save(self, dir_path: str | Path, overwrite: bool = False) -> None:
        """Write the model as a folder, completely or not at all.

        The folder holds ``model.safetensors`` (every tensor, the teacher included),
        ``model.json`` (constructor arguments, panel, normalisation, tile geometry, scores,
        versions) and ``history.csv``. Neither data nor code is stored.

        Parameters
        ----------
        dir_path
            The folder.
        overwrite
            Replace a folder of that name.

        Raises
        ------
        OutputExistsError
            The folder exists and ``overwrite`` is False.
        """
        record = {
            **model_record(self),
            "is_trained": self.is_trained_,
            "validation_pearson": _json_numbers(self.validation_pearson),
        }
        write_folder(dir_path, record, self._tensors(), self.history_, overwrite=overwrite)

    @classmethod
    @checked
    def load(
        cls,
        dir_path: str | Path,
        sdata: SpatialDatas | None = None,
        *,
        backbone: torch.nn.Module | None = None,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Read a model that was written with :meth:`save`.

        Parameters
        ----------
        dir_path
            The folder.
        sdata
            Data to attach, in order to go on training or to annotate it. Its set-up is the
            model's where it has none of its own, but for a ``um_per_px`` that was said of other slides.
        backbone
            The image encoder, where the model was made with a module of the user's own.
        cache_dir
            Folder that keeps the tiles of the attached data, as when a model is made.

        Raises
        ------
        InputValueError
            The folder is damaged, of another class or made by something else; or ``sdata``
            lacks genes of the panel.
        BackboneError
            The model was made with ``fine_tune="lora"`` and peft is not installed.
        """
        folder = Path(dir_path)
        record = read_record(folder, cls.__name__)
        tensors = read_tensors(folder)
        model = cls.__new__(cls)
        with building(folder):
            model._restore(record, tensors, backbone)
        model.history_ = read_history(folder)
        model.cache_dir = None if cache_dir is None else Path(cache_dir)
        if sdata is not None:
            model._attach(sdata)
        return model

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = module_tensors(self.module)
        for name, tensor in self._method_state().items():
            tensors[f"{_STATE}{name}"] = tensor
        tensors["split.labels"], tensors["split.ids"] = self.record.to_tensors()
        return tensors

    def _restore(
        self,
        record: dict[str, Any],
        tensors: dict[str, torch.Tensor],
        backbone: torch.nn.Module | None,
    ) -> None:
        self.seed = record["seed"]
        self.setup = SpatialSetup(**record["setup"])
        self.normalization = Normalization.from_dict(record["normalization"])
        self.tile_um, self.tile_px = record["tile"]["um"], record["tile"]["px"]
        self.panel_method, self.genes = record["panel_method"], record["genes"]
        # Saved by an earlier version, under the names of its time.
        self.module_kwargs = by_names_of_today(type(self).__init__, record["module"]).given
        self.split_note = record["split"]
        self.frames = self.training_frames = {}
        self.backbone = BackboneSpec(**record["backbone"])
        network, _ = build_backbone(
            self.backbone.name if backbone is None else backbone,
            pretrained=False,
            tile_px=self.tile_px,
            architecture=None if backbone is not None else self.backbone.architecture,
        )
        self.fine_tuning = record.get("fine_tuning", {})  # absent from the first models
        with forked_rng(self.seed):
            set_fine_tuning(network, **self.fine_tuning)
            self.module = self._build_module(network)
        if hasattr(self.module, "statistics_version"):
            # The first models did not say, and had the first definition.
            self.module.statistics_version = record.get("statistics") or 1
        self.record = SpotRecord.from_tensors(tensors.pop("split.labels"), tensors.pop("split.ids"))
        self.is_recorded = True
        own = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_STATE)}
        load_module(self.module, tensors, repr(self.backbone.name))
        self._restore_method_state({name.removeprefix(_STATE): own[name] for name in own})
        self._start_untrained()
        self.is_trained_ = record["is_trained"]
        self.training_params = record["training"]
        self.validation_pearson = pd.Series(
            record["validation_pearson"], index=self.genes, dtype=float, name="pearson"
        )

    def _attach(self, sdata: SpatialDatas) -> None:
        frames = resolve_slides(sdata, self._setup_for)
        try:
            check_panel(self.genes, frames.values())
        except InputKeyError as error:
            msg = (
                f"this data does not have the genes of the model: {error}. To predict from the image "
                "alone, load the model without data and pass the data to `annotate`."
            )
            raise InputValueError(msg) from error
        self._check_tiles(frames)
        labels = {name: self.record.labels_of(frame, self.genes) for name, frame in frames.items()}
        known = any(pd.notna(values).any() for values in labels.values())
        split = (
            SpotSplit(
                labels={
                    name: np.where(pd.isna(values), "test", values)
                    for name, values in labels.items()
                },
                by="saved",
                note=self.split_note,
                seed=self.seed,
            )
            if known
            else split_spots(
                frames,
                seed=self.seed,
                tile_um=max(self.tile_widths),
                normalization=self.normalization,
            )
        )
        # Whatever is done with this data later is done at the same scale.
        for frame in frames.values():
            remember_setup(frame.sdata, frame.setup)
        self._use(frames, split)
        self.is_recorded = known


def _json_numbers(values: pd.Series[float]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
