"""Saving and loading models of slides."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from rankbygene._arguments import checked
from rankbygene.base._folder import (
    building,
    load_module,
    module_tensors,
    read_history,
    read_record,
    read_tensors,
    write_folder,
)
from rankbygene.base.slides._results import SlideResultsMixin
from rankbygene.data import BagSetup, Cohort
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    import torch

    from rankbygene.base.slides._module import SlideModule
    from rankbygene.data.bags._cohort import Slides


class SlideFilesMixin(SlideResultsMixin):
    """Saving and loading."""

    @checked
    def save(self, dir_path: str | Path, overwrite: bool = False) -> None:
        """Write the model as a folder, completely or not at all.

        The folder holds ``model.safetensors``, ``model.json`` and ``history.csv``; neither features
        nor outcomes are stored.

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
        outcome, tensors = self._outcome_record()
        record = {**self._record(), "is_trained": self.is_trained_, "outcome": outcome}
        record["split"] = {str(name): label for name, label in self.split.items()}
        tensors = {**module_tensors(self.module), **tensors}
        write_folder(dir_path, record, tensors, self.history_, overwrite=overwrite)

    @classmethod
    @checked
    def load(
        cls,
        dir_path: str | Path,
        slides: Slides | None = None,
        clinical: pd.DataFrame | None = None,
    ) -> Self:
        """Read a model that was written with :meth:`save`.

        Parameters
        ----------
        dir_path
            The folder.
        slides, clinical
            Data to attach, to go on training. Slides that the model does not know are taken for
            training, unless another slide of their patient is held out.

        Raises
        ------
        InputValueError
            The folder is damaged, of another class or made by something else; or only one of
            ``slides`` and ``clinical`` is given.
        """
        folder = Path(dir_path)
        record = read_record(folder, cls.__name__)
        tensors = read_tensors(folder)
        model = cls.__new__(cls)
        with building(folder):
            model._restore(record, tensors)
        model.history_ = read_history(folder)
        if (slides is None) != (clinical is None):
            msg = "pass both slides and clinical, or neither"
            raise InputValueError(msg)
        if slides is not None and clinical is not None:
            model.cohort, _ = model._join(slides, clinical, model.n_features)
            model.split = _labels_of(model.split, model.cohort.clinical["patient"])
        return model

    def _restore(self, record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for name in ("seed", "unit", "on_error", "columns", "patient_key", "slide_key"):
            setattr(self, name, record[name])
        self.n_features, self.network_kwargs = record["n_features"], record["network"]
        self.asks_features = record.get("asks_features", False)
        genes = record["setup"]["genes"]
        self.setup = BagSetup(**{**record["setup"], "genes": genes and tuple(genes)})
        self.split = pd.Series(record["split"], dtype=object, name="split")
        self.cohort = None
        self._restore_outcome(record["outcome"], tensors)
        self.module = self._build_module()
        load_module(self.module, tensors, repr(record["network"]["pooling"]))
        self._start_untrained()
        self.is_trained_ = record["is_trained"]
        self.training_params = record["training"]

    @abstractmethod
    def _outcome_record(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Give what else has to be saved: plain values, and tensors."""

    @abstractmethod
    def _restore_outcome(
        self, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> None:
        """Take back what :meth:`_outcome_record` gave."""

    @abstractmethod
    def _build_module(self) -> SlideModule:
        """Build the network."""

    @abstractmethod
    def _start_untrained(self) -> None:
        """Forget any training."""

    @abstractmethod
    def _join(
        self, slides: Slides, clinical: pd.DataFrame, n_features: int | None = None
    ) -> tuple[Cohort, Any]:
        """Join slides to their rows."""


def _labels_of(known: pd.Series[str], patients: pd.Series[str]) -> pd.Series[str]:
    """Label slides as the saved ones of their patients, so that no patient is on both sides.

    Raises
    ------
    InputValueError
        Slides that were on two sides are now one patient's.
    """
    labels = known.reindex(patients.index)
    held_out = patients.isin(patients[labels == "validation"])
    both = patients[held_out & (labels == "train")]
    if len(both):
        msg = (
            f"patient {both.iloc[0]!r} has slides that this model was trained on and others that it held "
            "out; pass the clinical table of the training, with the same patients"
        )
        raise InputValueError(msg)
    labels[labels.isna()] = "train"
    labels[held_out] = "validation"
    return labels.rename("split")
