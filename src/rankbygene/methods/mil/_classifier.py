"""Classes of slides and patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from rankbygene._arguments import checked
from rankbygene._names import label_texts
from rankbygene.base.slides._model import SlideModel
from rankbygene.data.bags._outcomes import check_labels
from rankbygene.errors import InputKeyError, InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data.bags._cohort import OnError, PatientUnit, Slides
    from rankbygene.nn import Pooling

ClassWeight = Literal["balanced"] | Mapping[str, float] | None


class SlideClassifier(SlideModel):
    """Classifier of whole slides by attention over their tiles.

    A slide is a bag of tile features; which tiles matter is learnt from labels of patients alone
    (attention-based multiple-instance learning, :cite:p:`ilse2018attention`).

    Parameters
    ----------
    slides
        SpatialData whose tables hold features of tiles (see :meth:`setup_spatialdata`), or bags
        (:class:`rankbygene.data.Bag`): a list, or a dict ``{slide: object}``.
    clinical
        One row per slide, with patient and label.
    label_key
        Column with the label; read as text. Classes have the order of its categories, else that of
        numbers or of names (``"grade 2"`` before ``"grade 10"``).
    patient_key
        Column that names the patient. None: every slide is a patient of its own.
    slide_key
        Column that names the slide; by default the index does.
    feature_key, layer
        Where the tables have the features, instead of what :meth:`setup_spatialdata` was told: a key of
        ``.obsm``, or a layer such as predicted expression.
    unit
        ``"patient"``: the slides of a patient are one bag. ``"slide"``: each slide is learnt by
        itself, and may have a label of its own.
    pooling, n_hidden, dropout
        See :class:`rankbygene.module.SlideModule`.
    class_weight
        ``"balanced"``: over the training patients (or slides) every class weighs the same in the loss,
        whichever of them meet in a batch. Or ``{class: weight}``, or None.
    validation_size
        Share of the patients held out to choose the best epoch, balanced in the label.
    on_error
        What to do with slides that cannot be read, have no tiles, another width or NaN, or lack a
        label: ``"raise"`` reports them all; ``"warn"`` names them and goes on without.
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
    >>> model = rbg.model.SlideClassifier(cohort.slides, cohort.clinical, feature_key="X_features")
    >>> model.train(max_epochs=5)
    >>> patients = model.predict(level="patient")
    >>> model.annotate()
    """

    method: ClassVar[str] = "slide_classifier"

    @checked(clinical=None)  # which the join judges, with what it needs
    def __init__(
        self,
        slides: Slides,
        clinical: pd.DataFrame,
        *,
        label_key: str = "label",
        patient_key: str | None = "patient",
        slide_key: str | None = None,
        feature_key: str | None = None,
        layer: str | None = None,
        unit: PatientUnit = "patient",
        pooling: Pooling = "attention",
        n_hidden: int = 128,
        dropout: float = 0.25,
        class_weight: ClassWeight = "balanced",
        validation_size: float = 0.2,
        on_error: OnError = "raise",
        seed: int | None = None,
    ) -> None:
        self._asked_weight = class_weight
        super().__init__(
            slides,
            clinical,
            columns={"label": label_key},
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
        """One logit per class."""
        return len(self.classes)

    def _check_outcomes(self, clinical: pd.DataFrame) -> pd.DataFrame:
        return check_labels(clinical)

    def _strata(self, outcomes: pd.DataFrame) -> pd.Series[str]:
        return outcomes["label"].astype(str)

    def _learn_outcomes(self, outcomes: pd.DataFrame) -> None:
        # In the order of the classes; those of other patients are counted as well, with 0.
        counts = outcomes["label"].value_counts().sort_index()
        counts = counts[counts > 0]
        if len(counts) < 2:
            msg = (
                f"the training patients have {len(counts)} class ({', '.join(counts.index)}); "
                "two are needed at least"
            )
            raise InputValueError(msg)
        self.classes = [str(name) for name in counts.index]
        unseen = sorted({*self._own_cohort().clinical["label"]} - {*self.classes})
        if unseen:
            msg = (
                f"the classes {unseen} occur among the validation patients only; pass a smaller "
                "validation_size or merge rare classes"
            )
            raise InputValueError(msg)
        self.class_weight = self._weights(counts)

    def _weights(self, counts: pd.Series[int]) -> list[float]:
        asked = self._asked_weight
        if asked is None:
            return [1.0] * len(counts)
        if isinstance(asked, Mapping):
            # Labels are read as text, and so are these.
            asked = dict(zip(label_texts(list(asked)), asked.values(), strict=True))
        if isinstance(asked, str):
            if asked != "balanced":
                msg = f"class_weight={asked!r} is not known; choose 'balanced', a dict or None"
                raise InputValueError(msg)
            return [float(w) for w in counts.sum() / (len(counts) * counts)]
        missing = [name for name in self.classes if name not in asked]
        if missing:
            msg = f"class_weight has no entry for {missing}; it has {list(asked)}"
            raise InputKeyError(msg)
        unknown = [name for name in asked if name not in self.classes]
        if unknown:
            msg = f"class_weight has entries for {unknown}; the classes are {self.classes}"
            raise InputKeyError(msg)
        weights = [float(asked[name]) for name in self.classes]
        if not all(0 <= weight < np.inf for weight in weights) or not any(weights):
            msg = f"class_weight is {dict(asked)}; pass finite weights that are not negative, nor all 0"
            raise InputValueError(msg)
        return weights

    def _targets(self, outcomes: pd.DataFrame) -> dict[str, NDArray[Any]]:
        """Classes, and what each unit weighs: 1 on average over the training units.

        A weighted mean over the classes of a batch would make up for the weights: a class weighs less
        there the rarer it is.
        """
        codes = pd.Categorical(outcomes["label"], categories=self.classes).codes
        weight = np.array(self.class_weight, np.float64)[codes]
        training = self._label_of_unit(outcomes) == "train"
        return {
            "label": np.array(codes, np.int64),
            "weight": (weight / weight[training].mean()).astype(np.float32),
        }

    def _objective(self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        loss = F.cross_entropy(outputs, batch["label"], reduction="none")
        return (loss * batch["weight"]).mean()

    def _describe(self, outputs: pd.DataFrame) -> pd.DataFrame:
        """One column ``probability_<class>`` per class, and the most probable as ``prediction``."""
        probabilities = torch.from_numpy(outputs.to_numpy(np.float64)).softmax(1).numpy()
        columns = [f"probability_{name}" for name in self.classes]
        table = pd.DataFrame(probabilities, index=outputs.index, columns=columns)
        best = np.array(self.classes, object)[np.nan_to_num(probabilities).argmax(1)]
        best[np.isnan(probabilities).any(1)] = None
        table["prediction"] = best
        return table

    def _outcome_record(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        return {"classes": self.classes, "class_weight": self.class_weight}, {}

    def _restore_outcome(
        self, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> None:
        self.classes, self.class_weight = record["classes"], record["class_weight"]
