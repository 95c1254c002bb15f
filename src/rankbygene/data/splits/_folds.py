"""Folds of patients, balanced in what is to be predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rankbygene._arguments import checked
from rankbygene._names import label_texts, read_patients, require_names
from rankbygene.errors import InputKeyError, InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["hold_out_patients", "patient_folds"]


@checked
def patient_folds(
    clinical: pd.DataFrame,
    n_folds: int = 5,
    *,
    label_key: str | None = None,
    time_key: str | None = None,
    event_key: str | None = None,
    patient_key: str = "patient",
    seed: int = 0,
) -> pd.Series[int]:
    """Deal patients out to folds, so that no patient is in two of them.

    Folds have nearly the same share of every label or, for survival, of events and of censored
    patients, early ones and late ones.

    Parameters
    ----------
    clinical
        One row per slide or per patient.
    n_folds
        Number of folds.
    label_key
        Column with the class, for classification. Patients with several go by their most common.
    time_key, event_key
        Columns with the time and whether the event was seen, for survival.
    patient_key
        Column that names the patient.
    seed
        Same seed, same folds; the order of the rows does not matter.

    Returns
    -------
    Fold 0 to ``n_folds - 1`` of each patient, indexed by patient.

    Raises
    ------
    InputKeyError
        A column does not exist.
    InputValueError
        Neither or both kinds of outcome are named, a value is missing, or a class has fewer patients
        than folds.
    """
    if (label_key is None) == (time_key is None) or (time_key is None) != (event_key is None):
        msg = "pass label_key for classification, or time_key and event_key for survival"
        raise InputValueError(msg)
    used = [key for key in (patient_key, label_key, time_key, event_key) if key is not None]
    missing = [key for key in used if key not in clinical]
    if missing:
        msg = f"the clinical table has no column {missing}; it has {list(clinical)[:20]}"
        raise InputKeyError(msg)
    table = clinical[used]
    lost = np.flatnonzero(table.isna().any(axis=1))
    if len(lost):
        first = ", ".join(str(name) for name in table.index[lost[:3]])
        msg = (
            f"{len(lost):,} of {len(table):,} rows of the clinical table lack one of {used} (first: "
            f"{first}); complete them or leave them out"
        )
        raise InputValueError(msg)
    patients = require_names(
        table[patient_key], f"patients in column {patient_key!r}", table.index, read=read_patients
    )
    grouped = table.set_axis(pd.RangeIndex(len(table)), axis=0).groupby(
        pd.Series(patients, dtype=object, name=patient_key), sort=True
    )
    if label_key is not None:
        strata = grouped[label_key].agg(
            lambda labels: pd.Series(label_texts(labels)).mode().iloc[0]
        )
        return _deal(strata, n_folds, seed)
    strata = survival_strata(grouped[str(time_key)].first(), grouped[str(event_key)].first())
    few = [name for name, count in strata.value_counts().items() if count < n_folds]
    # Times only refine the strata; where a part becomes too small, the event alone decides.
    return _deal(strata.where(~strata.isin(few), strata.str.split(",").str[0]), n_folds, seed)


def survival_strata(time: pd.Series[float], event: pd.Series[bool]) -> pd.Series[str]:
    """Name the stratum of each patient: the event, and the half of the times within it."""
    seen = event.astype(bool)
    late = time > time.groupby(seen).transform("median")
    names = np.where(seen, "event", "censored").astype(object) + np.where(late, ",late", ",early")
    return pd.Series(names, index=time.index)


def hold_out_patients(strata: pd.Series[str], share: float, seed: int) -> list[str]:
    """Draw about a ``share`` of the patients from every stratum; none where it is 0.

    Raises
    ------
    InputValueError
        The share is not from 0 to below 1, or nobody would remain to train on.
    """
    if not 0 <= share < 1:
        msg = f"validation_size is {share}; a share from 0 to below 1 is needed"
        raise InputValueError(msg)
    order = strata.sort_index().sample(frac=1, random_state=np.random.RandomState(seed))
    # Spread over the strata one after another, every 1/share-th patient is taken.
    order = order.sort_values(kind="stable")
    steps = np.floor(np.arange(1, len(order) + 1) * share + 0.5)
    drawn: NDArray[np.bool_] = np.diff(steps, prepend=0) > 0
    if drawn.all():
        msg = f"{len(order)} patients cannot be split with validation_size={share}; pass 0"
        raise InputValueError(msg)
    return [str(name) for name in order.index[drawn]]


def _deal(strata: pd.Series[str], n_folds: int, seed: int) -> pd.Series[int]:
    counts = strata.value_counts()
    if n_folds < 2 or counts.min() < n_folds:
        sizes = ", ".join(f"{name}: {count}" for name, count in counts.items())
        msg = (
            f"{n_folds} folds need at least 2 folds and as many patients of each kind; found {sizes}. "
            "Pass fewer folds or merge rare classes."
        )
        raise InputValueError(msg)
    order = strata.sort_index().sample(frac=1, random_state=np.random.RandomState(seed))
    # Dealt through all strata in one round, so that the folds differ by at most one patient.
    order = order.sort_values(kind="stable")
    folds = pd.Series(np.arange(len(order)) % n_folds, index=order.index, name="fold")
    return folds.reindex(strata.index)
