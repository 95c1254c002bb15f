"""What a trained model says of slides and patients, and where in a slide it looks."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch

from rankbygene._arguments import checked
from rankbygene._keys import Keys
from rankbygene._names import read_patients, require_names
from rankbygene.base._inference import finite
from rankbygene.base._record import package_versions, plain
from rankbygene.base._trained import TrainedModel
from rankbygene.data import BagSetup, Cohort, resolve_bags
from rankbygene.data.bags._bags import Bag, TableBag, stream
from rankbygene.data.bags._cohort import OnError, PatientUnit
from rankbygene.errors import InputTypeError, InputValueError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from rankbygene.data.bags._cohort import Slides

Level = Literal["patient", "slide"]


class SlideResultsMixin(TrainedModel, ABC):
    """Predictions and attention."""

    method: ClassVar[str]

    cohort: Cohort | None
    setup: BagSetup
    # Whether the user of the model, and not of the objects, said where features are.
    asks_features: bool
    unit: PatientUnit
    on_error: OnError
    split: pd.Series[str]
    columns: dict[str, str]
    patient_key: str | None
    slide_key: str | None
    n_features: int
    network_kwargs: dict[str, Any]
    training_params: dict[str, Any]
    trainer: Any

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Width of the network's output."""

    @abstractmethod
    def _describe(self, outputs: pd.DataFrame) -> pd.DataFrame:
        """Turn outputs of the network into what the user is told."""

    @abstractmethod
    def _setup_for(self, sdata: SpatialData) -> BagSetup:
        """Say where features of an object are."""

    @abstractmethod
    def _own_cohort(self) -> Cohort:
        """Give the model's own slides."""

    @checked
    def predict(
        self,
        slides: Slides | None = None,
        *,
        level: Level = "slide",
        patients: Mapping[str, str] | pd.Series[str] | None = None,
    ) -> pd.DataFrame:
        """Predict the outcome of slides or of patients.

        All tiles are used; a slide is read in blocks, and only its encoded tiles are kept at once.
        A slide alone is judged by its own tiles. A patient is judged as in training: by the tiles
        of all slides together (``unit="patient"``), or by the mean of the slides' outputs before
        they become probabilities or risks (``unit="slide"``).

        Parameters
        ----------
        slides
            Slides to judge; by default the model's own.
        level
            One row per ``"slide"`` or per ``"patient"``.
        patients
            Patient of each new slide, ``{slide: patient}``; needed for ``level="patient"``.

        Returns
        -------
        One row per slide or patient. For the model's own slides the column ``split`` tells which
        of them it was trained on. With ``on_error="warn"`` a slide that cannot be read has NaN, and
        its patient is judged by the others.

        Raises
        ------
        NotTrainedError
            The model has not been trained.
        InputValueError
            A slide cannot be read, with ``on_error="raise"``; or a patient is not known.
        """
        self._check_trained()
        table = self._describe(self._outputs(slides, level, patients))
        if slides is None:
            labels = self.split
            if level == "patient":
                labels = labels.groupby(self._own_cohort().clinical["patient"]).first()
            table["split"] = labels.reindex(table.index)
        return table

    @checked
    def get_attention(self, slides: Slides | None = None) -> dict[str, NDArray[np.float32]]:
        """Weight of every tile in its slide, ``{slide: [n_tiles]}``; sums to one over a slide.

        Parameters
        ----------
        slides
            Slides to look at; by default the model's own.

        Returns
        -------
        What the weights mean depends on the pooling: the attention, equal shares for
        ``"mean"``, the share of maximal features for ``"max"``. Slides that cannot be read are left
        out, with a warning, where ``on_error="warn"``.
        """
        self._check_trained()
        weights = {}
        for name, bag in self._bags(slides).items():
            tiles = self._encode(bag)
            if tiles is not None:
                with torch.inference_mode():
                    weights[name] = self.module.judge(tiles)[1].float().cpu().numpy()
        return weights

    @checked
    def annotate(self, slides: Slides | None = None, key_added: str | None = None) -> None:
        """Write the weight of every tile into the tables of the slides.

        ``obs[f"{key}_attention"]`` holds the weight, ``uns[f"{key}_params"]`` what the model was.

        Parameters
        ----------
        slides
            SpatialData to annotate; by default the model's own slides.
        key_added
            ``key`` of the names; by default the model's.

        Raises
        ------
        InputTypeError
            A slide is not in a table; :meth:`get_attention` gives its weights.
        InputValueError
            The table holds something of that name that this package did not write.
        """
        self._check_trained()
        keys = Keys(key_added or self.method)
        bags = self._bags(slides)
        tables = {name: bag for name, bag in bags.items() if isinstance(bag, TableBag)}
        if len(tables) < len(bags):
            other = next(name for name in bags if name not in tables)
            msg = (
                f"slide {other!r} is a {type(bags[other]).__name__}, which has no table to write to; "
                "use `get_attention`"
            )
            raise InputTypeError(msg)
        for bag in tables.values():
            _check_free(bag.table, keys)
        weights = self.get_attention(slides)
        # Several slides may share a table; what an earlier model wrote there does not stay.
        for table in {id(bag.table): bag.table for bag in tables.values()}.values():
            table.obs[keys.attention] = np.full(table.n_obs, np.nan, np.float32)
            table.uns[keys.params] = plain(self._record())
        for name, values in weights.items():
            column = tables[name].table.obs[keys.attention].to_numpy(copy=True)
            column[tables[name].rows] = values
            tables[name].table.obs[keys.attention] = column

    def _bags(self, slides: Slides | None) -> dict[str, Bag]:
        if slides is None:
            return self._own_cohort().bags
        return resolve_bags(slides, self._setup_for, on_error=self.on_error)

    def _outputs(
        self,
        slides: Slides | None,
        level: Level,
        patients: Mapping[str, str] | pd.Series[str] | None,
    ) -> pd.DataFrame:
        """Outputs of the network ``[n, n_outputs]``, NaN where nothing could be read."""
        if level not in get_args(Level):
            msg = f"level={level!r} is not known; choose 'patient' or 'slide'"
            raise InputValueError(msg)
        if patients is not None and level == "slide":
            msg = "patients are given, and level='slide' does not use them; pass level='patient'"
            raise InputValueError(msg)
        bags = self._bags(slides)
        groups = {name: {name: bag} for name, bag in bags.items()}
        if level == "patient":
            groups = _by_patient(bags, self._patients_of(slides, bags, patients))
        outputs = {name: self._judge(group) for name, group in groups.items()}
        return pd.DataFrame.from_dict(outputs, orient="index").rename_axis(level)

    def _patients_of(
        self,
        slides: Slides | None,
        bags: Mapping[str, Bag],
        patients: Mapping[str, str] | pd.Series[str] | None,
    ) -> Mapping[str, str] | pd.Series[str]:
        if patients is None and slides is None:
            return self._own_cohort().clinical["patient"]
        known = {} if patients is None else _named_patients(patients)
        unknown = [name for name in bags if known.get(name) is None]
        if unknown:
            msg = (
                f"the patient of {len(unknown)} slides is not known (first: {unknown[:3]}); pass "
                "`patients={slide: patient}` or level='slide'"
            )
            raise InputValueError(msg)
        return known

    def _judge(self, bags: Mapping[str, Bag]) -> NDArray[np.float32]:
        """Judge slides that belong together."""
        encoded = [tiles for bag in bags.values() if (tiles := self._encode(bag)) is not None]
        if not encoded:
            return np.full(self.n_outputs, np.nan, np.float32)
        together = [torch.cat(encoded)] if self.unit == "patient" else encoded
        with torch.inference_mode():
            outputs = torch.stack([self.module.judge(tiles)[0] for tiles in together])
        values: NDArray[np.float32] = outputs.mean(0).float().cpu().numpy()
        return finite({"output": values}, ", ".join(bags))["output"]

    def _encode(self, bag: Bag) -> torch.Tensor | None:
        """Encode all tiles of a slide; None, with a warning, where it cannot be read."""
        try:
            if bag.n_features != self.n_features:
                msg = (
                    f"slide {bag.name!r} has {bag.n_features} features, the model was made for "
                    f"{self.n_features}; compute them with the same encoder"
                )
                raise InputValueError(msg)
            with torch.inference_mode():
                tiles: torch.Tensor = self.module.encode(self._on_device(bag))
            return tiles
        except InputValueError as error:
            if self.on_error == "raise":
                raise
            warnings.warn(f"{error} (not predicted)", UserWarning, stacklevel=2)
            return None

    def _on_device(self, bag: Bag) -> Iterator[torch.Tensor]:
        for block in stream(bag):
            yield torch.from_numpy(block).to(self.device)

    def _record(self) -> dict[str, Any]:
        return {
            "class": type(self).__name__,
            "method": self.method,
            "versions": package_versions(),
            "seed": self.seed,
            "unit": self.unit,
            "on_error": self.on_error,
            "columns": self.columns,
            "patient_key": self.patient_key,
            "slide_key": self.slide_key,
            "setup": asdict(self.setup),
            "asks_features": self.asks_features,
            "n_features": self.n_features,
            "network": self.network_kwargs,
            "training": self.training_params,
        }


def _named_patients(patients: Mapping[str, str] | pd.Series[str]) -> dict[str, str]:
    """Read ``{slide: patient}``, None where the patient is missing."""
    slides = require_names(list(patients.keys()), "slides in `patients`")
    names = read_patients([patient for _, patient in patients.items()], "patients in `patients`")
    if len(set(slides)) < len(slides):
        msg = f"`patients` names {len(slides) - len(set(slides))} slides more than once; keep one each"
        raise InputValueError(msg)
    return dict(zip(slides, names, strict=True))


def _by_patient(
    bags: Mapping[str, Bag], patients: Mapping[str, str] | pd.Series[str]
) -> dict[str, dict[str, Bag]]:
    groups: dict[str, dict[str, Bag]] = {}
    for name, bag in bags.items():
        groups.setdefault(str(patients[name]), {})[name] = bag
    return groups


def _check_free(table: AnnData, keys: Keys) -> None:
    if keys.params not in table.uns and keys.attention in table.obs:
        msg = (
            f"the table already holds obs[{keys.attention!r}], not written by this package; "
            "nothing was changed. Choose another name with `key_added=...`."
        )
        raise InputValueError(msg)
