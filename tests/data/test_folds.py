from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbygene.data import patient_folds
from rankbygene.data.splits._folds import hold_out_patients
from rankbygene.errors import InputKeyError, InputValueError


def clinical(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "patient": [f"p{i}" for i in range(n)],
            "label": rng.choice(["a", "b"], n, p=[0.3, 0.7]),
            "time": rng.exponential(10, n),
            "event": rng.uniform(size=n) < 0.5,
        }
    )
    return table.iloc[np.repeat(np.arange(n), rng.integers(1, 4, n))].reset_index(drop=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(40, 120), st.integers(2, 5), st.integers(0, 10**6))
def test_folds_are_balanced_and_do_not_depend_on_the_order(n: int, n_folds: int, seed: int) -> None:
    table = clinical(n, seed)
    for keys in ({"label_key": "label"}, {"time_key": "time", "event_key": "event"}):
        folds = patient_folds(table, n_folds, seed=seed, **keys)
        assert folds.index.is_unique
        assert set(folds.index) == set(table["patient"])
        assert np.ptp(folds.value_counts()) <= 1
        first = table.drop_duplicates("patient").set_index("patient")
        outcome = first["label"] if "label_key" in keys else first["event"]
        counts = pd.crosstab(folds.loc[first.index], outcome)
        assert (counts.max() - counts.min() <= 1 + ("event_key" in keys)).all()
        again = patient_folds(table.sample(frac=1, random_state=1), n_folds, seed=seed, **keys)
        pd.testing.assert_series_equal(again.sort_index(), folds.sort_index())


def test_folds_have_early_and_late_events() -> None:
    table = clinical(100, 0)
    folds = patient_folds(table, 5, time_key="time", event_key="event")
    seen = table.drop_duplicates("patient").set_index("patient").query("event")
    late = seen["time"] > seen["time"].median()
    assert pd.crosstab(folds.loc[seen.index], late).to_numpy().min() >= len(seen) // 10 - 1


def test_what_cannot_be_dealt_out_is_refused() -> None:
    table = clinical(30, 0)
    first = table.drop_duplicates("patient")
    with pytest.raises(InputValueError, match="rare: 1"):
        patient_folds(first.assign(label=["rare"] + ["b"] * (len(first) - 1)), label_key="label")
    with pytest.raises(InputValueError, match="label_key for classification"):
        patient_folds(table, label_key="label", time_key="time", event_key="event")
    with pytest.raises(InputKeyError, match="'stage'"):
        patient_folds(table, label_key="stage")
    holed = table.assign(patient=table["patient"].where(np.arange(len(table)) != 3))
    with pytest.raises(InputValueError, match="1 of .* rows of the clinical table lack one of"):
        patient_folds(holed, label_key="label")


def test_numbers_of_patients_are_one_name_each() -> None:
    table = clinical(30, 0)
    codes = pd.factorize(table["patient"])[0]
    folds = patient_folds(table.assign(patient=codes), label_key="label")
    floats = patient_folds(table.assign(patient=codes.astype(float)), label_key="label")
    pd.testing.assert_series_equal(folds, floats)
    assert set(folds.index) == {str(code) for code in codes}


def test_patients_are_held_out_from_every_stratum() -> None:
    strata = pd.Series(["a"] * 40 + ["b"] * 10, index=[f"p{i}" for i in range(50)])
    drawn = hold_out_patients(strata, 0.2, 0)
    assert strata[drawn].value_counts().to_dict() == {"a": 8, "b": 2}
    assert hold_out_patients(strata.sample(frac=1, random_state=1), 0.2, 0) == drawn
    assert hold_out_patients(strata, 0.2, 1) != drawn
    assert hold_out_patients(strata, 0.0, 0) == []
