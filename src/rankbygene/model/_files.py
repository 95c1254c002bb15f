"""A model as a folder: tensors in safetensors, the rest in JSON, the history in CSV."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch

from rankbygene.data import Normalization, SpatialSetup, SpotSplit, resolve_slides, split_spots
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.io import atomic_directory
from rankbygene.model._record import model_record
from rankbygene.model._setup import recall_setup
from rankbygene.model._state import ModelState, spot_ids
from rankbygene.nn import BackboneSpec, build_backbone
from rankbygene.pp import check_panel

if TYPE_CHECKING:
    from rankbygene.model._setup import SpatialDatas

FORMAT = 1
WEIGHTS, RECORD, HISTORY = "model.safetensors", "model.json", "history.csv"
LABELS = ("train", "validation", "test", "buffer")


class FilesMixin(ModelState):
    """Saving and loading."""

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
        from safetensors.torch import save_file

        with atomic_directory(Path(dir_path), overwrite=overwrite) as folder:
            save_file(self._tensors(), folder / WEIGHTS)
            record = {
                "format": FORMAT,
                **model_record(self),
                "is_trained": self.is_trained_,
                "validation_pearson": _json_numbers(self.validation_pearson),
                "sha256": _sha256(folder / WEIGHTS),
            }
            text = json.dumps(record, indent=1, allow_nan=False)
            (folder / RECORD).write_text(text, encoding="utf-8")
            if self.history_:
                pd.concat(self.history_.values(), axis=1).to_csv(folder / HISTORY)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        sdata: SpatialDatas | None = None,
        *,
        backbone: torch.nn.Module | None = None,
    ) -> Self:
        """Read a model that was written with :meth:`save`.

        Parameters
        ----------
        dir_path
            The folder.
        sdata
            Data to attach, in order to go on training or to annotate it. Its set-up is the
            model's where it has none of its own.
        backbone
            The image encoder, where the model was made with a module of the user's own.

        Raises
        ------
        InputValueError
            The folder is damaged, of another class or made by something else; or ``sdata``
            lacks genes of the panel.
        """
        folder = Path(dir_path)
        record = read_record(folder)
        if record["class"] != cls.__name__:
            made_by = record["class"]
            msg = f"{folder} holds a {made_by}; load it with `rankbygene.model.{made_by}.load`"
            raise InputValueError(msg)
        tensors = _read_tensors(folder, record)
        model = cls.__new__(cls)
        model._restore(record, tensors, backbone)
        if (folder / HISTORY).exists():
            history = pd.read_csv(folder / HISTORY, index_col=0)
            model.history_ = {name: history[[name]].dropna() for name in history.columns}
        if sdata is not None:
            model._attach(sdata)
        return model

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {
            f"module.{name}": tensor.detach().cpu().contiguous().clone()
            for name, tensor in self.module.state_dict().items()
        }
        codes = pd.Categorical(self.split_labels, categories=LABELS).codes
        tensors["split.labels"] = torch.from_numpy(np.array(codes, np.int8))
        ids = self.split_labels.index.to_numpy(np.uint64).view(np.int64)
        tensors["split.ids"] = torch.from_numpy(ids.copy())
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
        self.module_kwargs = record["module"]
        self.split_note = record["split"]
        self.frames = {}
        self.backbone = BackboneSpec(**record["backbone"])
        network, _ = build_backbone(
            self.backbone.name if backbone is None else backbone,
            pretrained=False,
            tile_px=self.tile_px,
        )
        self.module = self._build_module(network)
        labels = np.array(LABELS, object)[tensors.pop("split.labels").numpy()]
        ids = tensors.pop("split.ids").numpy().view(np.uint64)
        self.split_labels = pd.Series(labels, index=ids)
        state = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        try:
            self.module.load_state_dict(state)
        except RuntimeError as error:
            msg = f"the tensors do not fit the {self.backbone.name!r} network: {error}"
            raise InputValueError(msg) from error
        self.module.eval()
        self._start_untrained()
        self.is_trained_ = record["is_trained"]
        self.training_params = record["training"]
        self.validation_pearson = pd.Series(
            record["validation_pearson"], index=self.genes, dtype=float, name="pearson"
        )

    def _attach(self, sdata: SpatialDatas) -> None:
        frames = resolve_slides(sdata, lambda item: recall_setup(item, default=self.setup))
        try:
            check_panel(self.genes, frames.values())
        except InputKeyError as error:
            msg = (
                f"this data does not have the genes of the model: {error}. To predict from the image "
                "alone, load the model without data and pass the data to `annotate`."
            )
            raise InputValueError(msg) from error
        self._check_tiles(frames)
        self.frames = frames
        labels = {
            name: self.split_labels.reindex(spot_ids(frame)).to_numpy(object)
            for name, frame in frames.items()
        }
        known = any(pd.notna(values).any() for values in labels.values())
        self.split = (
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
                frames, seed=self.seed, tile_um=self.tile_um, normalization=self.normalization
            )
        )


def read_record(folder: Path) -> dict[str, Any]:
    """Read what a saved model is, without its tensors."""
    path = folder / RECORD
    if not path.is_file():
        msg = (
            f"{folder} is not a saved model: it has no {RECORD}. Give the folder that `save` wrote."
        )
        raise InputValueError(msg)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found, _ = record["format"], record["class"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        msg = f"{path} is damaged or foreign ({error}); save the model again or use a copy"
        raise InputValueError(msg) from error
    if found != FORMAT:
        msg = f"{path} has format {found}, this version reads format {FORMAT}; update rankbygene"
        raise InputValueError(msg)
    loaded: dict[str, Any] = record
    return loaded


def _read_tensors(folder: Path, record: dict[str, Any]) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        msg = f"{folder} has no {WEIGHTS}; the folder is incomplete, use another copy"
        raise InputValueError(msg)
    if _sha256(path) != record["sha256"]:
        msg = f"{path} is damaged or truncated: its checksum is not the one in {RECORD}"
        raise InputValueError(msg)
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except SafetensorError as error:
        msg = f"{path} is not a safetensors file ({error})"
        raise InputValueError(msg) from error
    return tensors


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_numbers(values: pd.Series[float]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
