from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbygene._names import (
    class_order,
    label_texts,
    natural_order,
    number_text,
    read_names,
    read_patients,
    require_names,
)
from rankbygene.errors import InputTypeError, InputValueError


@pytest.mark.parametrize(
    "values",
    [
        [7, 8],
        np.array([7, 8], np.uint8),
        pd.Series([7.0, 8.0]),
        pd.Index(["7", "8"]),
        pd.Series([7, 8], dtype="Int64"),
        pd.Series([7.0, 8.0]).astype("category"),
        [7.0, "8"],
    ],
)
def test_one_id_has_one_text_whatever_its_type(values: object) -> None:
    assert read_names(values, "ids").tolist() == ["7", "8"]


@given(st.lists(st.integers(-(2**52), 2**52), min_size=1, unique=True))
def test_a_gap_does_not_change_ids(ids: list[int]) -> None:
    names = [str(i) for i in ids]
    assert read_names(ids, "ids").tolist() == names
    assert read_names(pd.Series([*ids, None]), "ids").tolist() == [*names, None]


def test_what_is_missing_is_nobody() -> None:
    missing = [None, np.nan, pd.NA, pd.NaT, np.float32("nan")]
    assert read_names(missing, "ids").tolist() == [None] * 5
    assert read_patients(["nan", "None", " ", "<NA>", "Nan Li"], "ids").tolist() == [
        *[None] * 4,
        "Nan Li",
    ]
    with pytest.raises(InputValueError, match=r"2 of 3 ids are missing \(rows b, c\)"):
        require_names([1, None, np.nan], "ids", list("abc"))


def test_ambiguous_ids_are_refused() -> None:
    for values, match in (
        ([12.1, 12.0], "12.1 and 12.10 are one"),
        ([float(2**53)], "read that column as text"),
        (["1", "1.0"], "both '1' and '1.0'"),
        ([1, "1.00"], "both '1' and '1.00'"),
        (["P1", "P1 "], "both 'P1' and 'P1 '"),
    ):
        with pytest.raises(InputValueError, match=match):
            read_names(values, "ids")
    for values in ([pd.Timestamp(0)], [("a", 1)], pd.MultiIndex.from_tuples([("a", 1)])):
        with pytest.raises(InputTypeError):
            read_names(values, "ids")


def test_classes_are_ordered_as_a_reader_would() -> None:
    assert natural_order(["10", "2", "-1", "2.5"]) == ["-1", "2", "2.5", "10"]
    assert natural_order(["grade 10", "grade 2", "a"]) == ["a", "grade 2", "grade 10"]
    assert label_texts([1.0, 2.5, True, np.int8(3), "x", None]).tolist() == [
        "1",
        "2.5",
        "True",
        "3",
        "x",
        None,
    ]
    stages = pd.Series(["late", "early", "late"])
    chosen = stages.astype(pd.CategoricalDtype(["early", "late", "never"]))
    assert class_order(chosen, stages) == ["early", "late"]
    reversed_ = stages.astype(pd.CategoricalDtype(["late", "early"]))
    assert class_order(reversed_, stages) == ["late", "early"]
    made_by_pandas = pd.Series(["10", "2"]).astype("category")
    assert class_order(made_by_pandas, ["10", "2"]) == ["2", "10"]
    ordered = pd.Series(["10", "2"]).astype(pd.CategoricalDtype(["10", "2"], ordered=True))
    assert class_order(ordered, ["10", "2"]) == ["10", "2"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_equal_numbers_have_one_text(value: float) -> None:
    assert float(number_text(value)) == value
    assert number_text(7.0) == number_text(7) == "7"
