"""What models of whole slides share: slides joined to patients, training, results."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
import pandas as pd
import torch

from rankbygene._arguments import check_settings, checked
from rankbygene._checks import check_text
from rankbygene.base._inference import choose_precision
from rankbygene.base._last_good import good_state_kept
from rankbygene.base._random import choose_seed, forked_rng
from rankbygene.base._runner import (
    check_before_training,
    check_trainer,
    run_training,
    training_device,
)
from rankbygene.base._setup import remember_features
from rankbygene.base.slides._files import SlideFilesMixin
from rankbygene.base.slides._module import SlideModule
from rankbygene.base.slides._plan import SlidePlan
from rankbygene.data import (
    BagDataModule,
    BagSetup,
    Cohort,
    join_clinical,
    resolve_bags,
    sample_bags,
)
from rankbygene.data.bags._bags import TableBag, declared_features
from rankbygene.data.bags._cohort import OnError, PatientUnit, check_on_error, check_same_outcome
from rankbygene.data.splits._folds import hold_out_patients
from rankbygene.errors import InputValueError
from rankbygene.nn import Pooling

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from rankbygene.base._setup import SpatialDatas
    from rankbygene.data.bags._cohort import Slides

# Small cohorts need more passes: about 500 steps of 16 patients, within limits.
BAGS_SEEN = 8000


class SlideModel(SlideFilesMixin):
    """A model of slides, learnt from outcomes of patients.

    Subclasses say what the outcome is, which loss it has and how outputs are described.
    """

    method: ClassVar[str]
    # What takes the settings that ``train`` hands on, by the name of the mapping.
    _settings_of: ClassVar[dict[str, tuple[Callable[..., Any], tuple[str, ...]]]] = {
        "plan_kwargs": (SlidePlan, ("module", "objective")),
    }

    @checked(clinical=None)  # which the join judges, with what it needs
    def __init__(
        self,
        slides: Slides,
        clinical: pd.DataFrame,
        *,
        columns: Mapping[str, str],
        patient_key: str | None,
        slide_key: str | None,
        feature_key: str | None,
        layer: str | None,
        unit: PatientUnit,
        pooling: Pooling,
        n_hidden: int,
        dropout: float,
        validation_size: float,
        on_error: OnError,
        seed: int | None,
    ) -> None:
        check_on_error(on_error)
        if unit not in get_args(PatientUnit):
            msg = f"unit={unit!r} is not known; choose 'patient' or 'slide'"
            raise InputValueError(msg)
        self.seed = choose_seed(seed)
        self.cohort = None
        self.on_error, self.unit = on_error, unit
        self.columns, self.patient_key, self.slide_key = dict(columns), patient_key, slide_key
        self.setup = _asked_setup(feature_key, layer)
        self.asks_features = feature_key is not None or layer is not None
        self.cohort, moments = self._join(slides, clinical)
        self.setup = _setup_of(self.cohort)
        outcomes = self.cohort.clinical.drop_duplicates("patient").set_index("patient")
        held_out = hold_out_patients(self._strata(outcomes), validation_size, self.seed)
        labels = np.where(self.cohort.clinical["patient"].isin(held_out), "validation", "train")
        self.split = pd.Series(labels, self.cohort.clinical.index, dtype=object, name="split")
        self._learn_outcomes(self._outcomes_of("train"))
        self.n_features = len(next(iter(moments.values()))[0])
        self.network_kwargs = {"pooling": pooling, "n_hidden": n_hidden, "dropout": dropout}
        with forked_rng(self.seed):
            self.module = self._build_module()
        self._set_scale(moments)
        self._start_untrained()

    def __repr__(self) -> str:
        state = "trained" if self.is_trained_ else "not trained"
        pooling, cohort = self.network_kwargs["pooling"], ""
        if self.cohort is not None:
            patients = self.cohort.clinical["patient"].nunique()
            cohort = f"{len(self.cohort.bags)} slides of {patients} patients, "
        return (
            f"{type(self).__name__} ({state}): {cohort}{self.n_features} features, "
            f"pooling {pooling!r} per {self.unit}"
        )

    @classmethod
    @checked
    def setup_spatialdata(
        cls,
        sdata: SpatialDatas,
        *,
        table_key: str = "table",
        feature_key: str = "X_rankbygene",
        layer: str | None = None,
        genes: Sequence[str] | None = None,
    ) -> None:
        """Say where a SpatialData object has the features of its tiles.

        Nothing is written into ``sdata``. Objects without a set-up, and bags, need none: these are
        the defaults.

        Parameters
        ----------
        sdata
            One object, or a list or dict of objects that share these settings.
        table_key
            Table with one row per tile.
        feature_key
            Key in ``.obsm`` with the features.
        layer
            Layer to take instead, such as predicted expression; ``"X"`` is the table's matrix.
        genes
            Columns of the layer; by default those that the first slide predicts.
        """
        chosen = None if genes is None else tuple(genes)
        remember_features(sdata, BagSetup(table_key, feature_key, layer, chosen))

    @checked
    def train(
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int = 16,
        max_tiles: int = 2048,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        precision: str = "auto",
        early_stopping: bool = False,
        early_stopping_patience: int = 20,
        monitor: str = "validation_loss",
        plan_kwargs: Mapping[str, Any] | None = None,
        logger: pl.loggers.Logger | None = None,
        callbacks: Sequence[pl.Callback] = (),
        **trainer_kwargs: Any,
    ) -> None:
        """Train the network on the training patients.

        Parameters
        ----------
        max_epochs
            Passes over the patients (or slides). By default as many as show about 8,000 of them,
            between 20 and 100.
        batch_size
            Patients (or slides) per step at most: batches of nearly equal size hold all of them. Cox's
            loss compares those of one step.
        max_tiles
            Tiles of a bag in a step, drawn anew in every epoch where it has more. At most
            ``batch_size * max_tiles`` tiles are in memory.
        accelerator, devices
            As in Lightning.
        precision
            ``"auto"``: bfloat16 autocast on a GPU that computes it natively, else float32, so that a
            seed does not give other numbers on another CPU. ``"bf16-mixed"``, about twice as fast on
            a CPU with AVX512-BF16 or AMX, ``"16-mixed"`` and ``"32-true"`` everywhere.
            What was used is logged and stands in the model's record.
        early_stopping, early_stopping_patience, monitor
            Stop when ``monitor`` has not improved for so many epochs. With or without it, the
            weights of the best epoch by ``monitor`` are kept when there is a validation split.
        plan_kwargs
            Learning rate and weight decay, see :class:`rankbygene.train.SlidePlan`.
        logger
            A further Lightning logger; ``history`` is kept in memory in any case.
        callbacks
            Further Lightning callbacks.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`.

        Raises
        ------
        InputValueError
            The model was loaded without slides; or a slide cannot be read and ``on_error`` is
            ``"raise"``.
        TrainingError
            The loss was not finite; the step is named.
        """
        function, own = self._settings_of["plan_kwargs"]
        settings = check_settings(function, plan_kwargs, "plan_kwargs", owned=own)
        check_trainer(
            max_epochs,
            trainer_kwargs,
            accelerator=accelerator,
            devices=devices,
            precision=precision,
        )
        device = training_device(accelerator, devices)
        precision = choose_precision(precision, device)
        cohort = self._own_cohort()
        outcomes = cohort.outcomes
        label_of_unit = self._label_of_unit(outcomes)
        validation = np.flatnonzero(label_of_unit == "validation")
        plan = SlidePlan(self.module, self._objective, **settings)
        runner = {
            "accelerator": accelerator,
            "devices": devices,
            "early_stopping": early_stopping,
            "monitor": monitor,
            **trainer_kwargs,
        }
        check_before_training(plan, validated=len(validation) > 0, **runner)
        datamodule = BagDataModule(
            list(cohort.units.values()),
            self._targets(outcomes),
            train=np.flatnonzero(label_of_unit == "train"),
            validation=validation,
            batch_size=batch_size,
            max_tiles=max_tiles,
            seed=self.seed,
            on_error=self.on_error,
        )
        epochs = max_epochs or int(np.clip(round(BAGS_SEEN / datamodule.n_train), 20, 100))
        with good_state_kept(self, partial(self._after_training, outcomes)):
            self.training_params = {
                "max_epochs": epochs, "batch_size": batch_size, "max_tiles": max_tiles,
                "precision": precision, "accelerator": device.type, **settings,
            }  # fmt: skip
            run_training(
                self,
                plan,
                datamodule,
                max_epochs=epochs,
                precision=precision,
                early_stopping_patience=early_stopping_patience,
                logger=logger,
                callbacks=callbacks,
                **runner,
            )
        self.trainer = None

    # ---- what a subclass says --------------------------------------------------------------------

    @abstractmethod
    def _check_outcomes(self, clinical: pd.DataFrame) -> pd.DataFrame:
        """Check the outcome columns of all slides and bring them to their types."""

    @abstractmethod
    def _strata(self, outcomes: pd.DataFrame) -> pd.Series[str]:
        """Name what validation patients are balanced in, by patient."""

    @abstractmethod
    def _learn_outcomes(self, outcomes: pd.DataFrame) -> None:
        """Take classes or intervals from the training units."""

    @abstractmethod
    def _targets(self, outcomes: pd.DataFrame) -> dict[str, NDArray[Any]]:
        """Give the outcomes as arrays for the loss."""

    @abstractmethod
    def _objective(self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Compute the loss of a batch."""

    def _after_training(self, outcomes: pd.DataFrame) -> None:
        """Estimate what is left once the network is fixed."""

    # ---- slides and network ----------------------------------------------------------------------

    def _setup_for(self, sdata: SpatialData) -> BagSetup:
        """Where features of an object are: as they were for this model, as it was set up, else as the model's own."""
        for bag in self.cohort.bags.values() if self.cohort is not None else ():
            if isinstance(bag, TableBag) and bag.sdata is sdata:
                return bag.setup
        setup = declared_features(sdata, default=self.setup)
        if self.asks_features:
            own = self.setup
            setup = replace(setup, feature_key=own.feature_key, layer=own.layer, genes=own.genes)
        return (
            setup if setup.layer is None or setup.genes else replace(setup, genes=self.setup.genes)
        )

    def _join(
        self, slides: Slides, clinical: pd.DataFrame, n_features: int | None = None
    ) -> tuple[Cohort, dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
        """Join slides to their rows and look into each."""
        bags, rows = join_clinical(
            resolve_bags(slides, self._setup_for, on_error=self.on_error),
            clinical,
            self.columns,
            patient_key=self.patient_key,
            slide_key=self.slide_key,
            on_error=self.on_error,
        )
        rows = self._check_outcomes(rows)
        if self.unit == "patient":
            hint = "where outcomes belong to slides, pass unit='slide'"
            check_same_outcome(rows, hint)
        moments = sample_bags(bags, n_features, on_error=self.on_error)
        sound = list(moments)
        return Cohort({name: bags[name] for name in sound}, rows.loc[sound], self.unit), moments

    def _own_cohort(self) -> Cohort:
        if self.cohort is None:
            msg = "this model was loaded without slides; pass `slides=...` and, to train, `clinical=...`"
            raise InputValueError(msg)
        return self.cohort

    def _label_of_unit(self, outcomes: pd.DataFrame) -> NDArray[np.object_]:
        label_of_patient = self.split.groupby(self._own_cohort().clinical["patient"]).first()
        return outcomes["patient"].map(label_of_patient).to_numpy(object)

    def _outcomes_of(self, label: str) -> pd.DataFrame:
        outcomes = self._own_cohort().outcomes
        chosen: pd.DataFrame = outcomes[self._label_of_unit(outcomes) == label]
        return chosen

    def _build_module(self) -> SlideModule:
        return SlideModule(self.n_features, self.n_outputs, **self.network_kwargs)

    def _set_scale(
        self, moments: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    ) -> None:
        """Standardise features over the training slides, each with the same weight."""
        used = [moments[name] for name in self.split.index[self.split == "train"]]
        mean, square = (np.mean([pair[i] for pair in used], axis=0) for i in (0, 1))
        std = np.sqrt(np.maximum(square - mean**2, 0))
        # A feature that never varies keeps its scale: dividing by nothing would make noise of it.
        std[std < 1e-6] = 1.0
        self.module.set_scale(torch.from_numpy(mean).float(), torch.from_numpy(std).float())

    def _start_untrained(self) -> None:
        self.module.eval()
        self.is_trained_ = False
        self.history_ = None
        self.training_params = {}
        self.trainer = None


def _asked_setup(feature_key: str | None, layer: str | None) -> BagSetup:
    if feature_key is not None and layer is not None:
        msg = (
            f"feature_key={feature_key!r} and layer={layer!r} are two places for features; pass one"
        )
        raise InputValueError(msg)
    for name, value in (("feature_key", feature_key), ("layer", layer)):
        if value is not None:
            check_text(value, name)
    return BagSetup(layer=layer) if feature_key is None else BagSetup(feature_key=feature_key)


def _setup_of(cohort: Cohort) -> BagSetup:
    """Where features are, with the genes that they turned out to be."""
    for bag in cohort.bags.values():
        if isinstance(bag, TableBag):
            return replace(bag.setup, genes=bag.genes)
    return BagSetup()
