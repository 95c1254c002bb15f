"""Survival of patients from their slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch

from rankbygene._arguments import checked
from rankbygene.base.slides._model import SlideModel
from rankbygene.data.bags._outcomes import check_times
from rankbygene.data.splits._folds import survival_strata
from rankbygene.errors import InputValueError
from rankbygene.nn._survival import breslow_hazard
from rankbygene.nn.losses import Ties, cox_loss, discrete_time_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.base.slides._results import Level
    from rankbygene.data.bags._cohort import OnError, PatientUnit, Slides
    from rankbygene.nn import Pooling

SurvivalLoss = Literal["cox", "discrete"]


class SlideSurvival(SlideModel):
    """Survival model of whole slides by attention over their tiles.

    Parameters
    ----------
    slides
        SpatialData whose tables hold features of tiles (see :meth:`setup_spatialdata`), or bags
        (:class:`rankbygene.data.Bag`): a list, or a dict ``{slide: object}``.
    clinical
        One row per slide, with patient, time and event.
    time_key, event_key
        Columns with the time to event or censoring, and whether the event was seen (bool or 0/1).
        All slides of a patient have the same.
    patient_key
        Column that names the patient. None: every slide is a patient of its own.
    slide_key
        Column that names the slide; by default the index does.
    feature_key, layer
        Where the tables have the features, instead of what :meth:`setup_spatialdata` was told: a key of
        ``.obsm``, or a layer such as predicted expression.
    unit
        ``"patient"``: the slides of a patient are one bag. ``"slide"``: each slide is learnt by
        itself with the patient's outcome.
    loss
        ``"cox"``: Cox's partial likelihood :cite:p:`cox1972regression`, on the patients of a batch.
        ``"discrete"``: likelihood of the interval of the event :cite:p:`zadeh2021bias`.
    ties
        For ``"cox"``: ``"efron"`` or ``"breslow"``.
    n_intervals
        For ``"discrete"``: intervals with equal numbers of training events.
    pooling, n_hidden, dropout
        See :class:`rankbygene.module.SlideModule`.
    validation_size
        Share of the patients held out to choose the best epoch, balanced in event and time.
    on_error
        What to do with slides that cannot be read, have no tiles, another width or NaN, or lack an
        outcome: ``"raise"`` reports them all; ``"warn"`` names them and goes on without.
    seed
        Repeats a run exactly on a CPU. By default ``scvi.settings.seed``, or 0.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        Slides or clinical table cannot be used as asked.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> cohort = rbg.datasets.synthetic_cohort(n_patients=40)
    >>> model = rbg.model.SlideSurvival(cohort.slides, cohort.clinical, feature_key="X_features")
    >>> model.train(max_epochs=5)
    >>> patients = model.predict(level="patient")
    >>> curves = model.predict_survival([12, 24, 60], level="patient")
    """

    method: ClassVar[str] = "slide_survival"

    @checked(clinical=None)  # which the join judges, with what it needs
    def __init__(
        self,
        slides: Slides,
        clinical: pd.DataFrame,
        *,
        time_key: str = "time",
        event_key: str = "event",
        patient_key: str | None = "patient",
        slide_key: str | None = None,
        feature_key: str | None = None,
        layer: str | None = None,
        unit: PatientUnit = "patient",
        loss: SurvivalLoss = "cox",
        ties: Ties = "efron",
        n_intervals: int = 4,
        pooling: Pooling = "attention",
        n_hidden: int = 128,
        dropout: float = 0.25,
        validation_size: float = 0.2,
        on_error: OnError = "raise",
        seed: int | None = None,
    ) -> None:
        for name, value, known in (("loss", loss, SurvivalLoss), ("ties", ties, Ties)):
            if value not in get_args(known):
                msg = f"{name}={value!r} is not known; choose {' or '.join(map(repr, get_args(known)))}"
                raise InputValueError(msg)
        if n_intervals < 2:
            msg = f"n_intervals is {n_intervals}; at least 2 are needed"
            raise InputValueError(msg)
        self.loss: SurvivalLoss = loss
        self.ties: Ties = ties
        self._n_intervals = n_intervals
        super().__init__(
            slides,
            clinical,
            columns={"time": time_key, "event": event_key},
            patient_key=patient_key,
            slide_key=slide_key,
            feature_key=feature_key,
            layer=layer,
            unit=unit,
            pooling=pooling,
            n_hidden=n_hidden,
            dropout=dropout,
            validation_size=validation_size,
            on_error=on_error,
            seed=seed,
        )

    @property
    def n_outputs(self) -> int:
        """One log hazard, or one logit per interval."""
        return 1 if self.loss == "cox" else len(self.times)

    @checked
    def predict_survival(
        self,
        times: Sequence[float],
        slides: Slides | None = None,
        *,
        level: Level = "slide",
        patients: Mapping[str, str] | pd.Series[str] | None = None,
    ) -> pd.DataFrame:
        """Predict the probability to be without the event at given times.

        Cox's model takes Breslow's baseline hazard of the model's own patients; it says nothing
        beyond the last event among them and stays level there. The discrete model has a constant
        hazard within each interval, and after the last one stays level too.

        Parameters
        ----------
        times
            Times, in the unit of training.
        slides, level, patients
            As for :meth:`predict`.

        Returns
        -------
        One row per slide or patient, one column per time.
        """
        self._check_trained()
        outputs = self._outputs(slides, level, patients)
        asked = np.asarray(times, np.float64)
        values = outputs.to_numpy(np.float64)
        known = self.times.numpy()
        if self.loss == "cox":
            steps = np.concatenate([[0.0], self.baseline.numpy()])
            hazard = steps[np.searchsorted(known, asked, side="right")] * np.exp(values)
        else:
            # The cumulative hazard of a logit is its softplus: -log(1 - sigmoid).
            cumulative = np.cumsum(np.logaddexp(0, values), axis=1)
            ends = np.concatenate([[0.0], known])
            hazard = np.stack(
                [np.interp(asked, ends, np.concatenate([[0.0], row])) for row in cumulative]
            )
        return pd.DataFrame(np.exp(-hazard), index=outputs.index, columns=list(times))

    def _check_outcomes(self, clinical: pd.DataFrame) -> pd.DataFrame:
        return check_times(clinical, self.columns)

    def _strata(self, outcomes: pd.DataFrame) -> pd.Series[str]:
        return survival_strata(outcomes["time"], outcomes["event"])

    def _learn_outcomes(self, outcomes: pd.DataFrame) -> None:
        patients = self._own_cohort().clinical
        check = patients.groupby("patient")[["time", "event"]].nunique()
        if (check > 1).any(axis=None):
            first = str(check.index[(check > 1).any(axis=1)][0])
            msg = f"slides of patient {first!r} have different times or events; survival is a patient's"
            raise InputValueError(msg)
        seen = outcomes.loc[outcomes["event"], "time"].to_numpy()
        if not len(seen):
            msg = "no event was seen among the training patients; nothing can be learnt"
            raise InputValueError(msg)
        self.times = torch.zeros(0, dtype=torch.float64)
        self.baseline = torch.zeros(0, dtype=torch.float64)
        if self.loss == "discrete":
            shares = np.linspace(0, 1, self._n_intervals + 1)[1:]
            self.times = torch.from_numpy(np.unique(np.quantile(seen, shares)))

    def _targets(self, outcomes: pd.DataFrame) -> dict[str, NDArray[Any]]:
        time = outcomes["time"].to_numpy()
        event = outcomes["event"].to_numpy(bool)
        # Order is all that the partial likelihood knows; ranks keep it in single precision.
        rank = np.unique(time, return_inverse=True)[1].astype(np.float32)
        interval = np.searchsorted(self.times.numpy()[:-1], time, side="left").astype(np.int64)
        return {"time": rank, "interval": interval, "event": event}

    def _objective(self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if self.loss == "cox":
            return cox_loss(outputs[:, 0], batch["time"], batch["event"], ties=self.ties)
        return discrete_time_loss(outputs, batch["interval"], batch["event"])

    def _after_training(self, outcomes: pd.DataFrame) -> None:
        if self.loss == "discrete":
            return
        judged = self._outputs(None, self.unit, None).reindex(outcomes.index)[0]
        known = judged.notna().to_numpy()
        self.times, self.baseline = breslow_hazard(
            torch.from_numpy(judged.to_numpy(np.float64)[known]),
            torch.from_numpy(outcomes["time"].to_numpy(np.float64)[known]),
            torch.from_numpy(outcomes["event"].to_numpy(bool)[known]),
        )

    def _describe(self, outputs: pd.DataFrame) -> pd.DataFrame:
        """Column ``risk``: the log hazard, or minus the expected number of intervals survived."""
        values = outputs.to_numpy(np.float64)
        if self.loss == "discrete":
            survived = np.exp(-np.cumsum(np.logaddexp(0, values), axis=1))
            values = -survived.sum(1, keepdims=True)
        return pd.DataFrame({"risk": values[:, 0]}, index=outputs.index)

    def _outcome_record(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        record = {"loss": self.loss, "ties": self.ties}
        return record, {"survival.times": self.times, "survival.baseline": self.baseline}

    def _restore_outcome(
        self, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> None:
        self.loss, self.ties = record["loss"], record["ties"]
        self.times, self.baseline = tensors["survival.times"], tensors["survival.baseline"]
