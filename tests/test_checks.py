from __future__ import annotations

import subprocess
import sys
from collections import UserDict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from rankbygene._arguments import checked
from rankbygene._checks import (
    check_choice,
    check_distinct,
    check_flag,
    check_instance,
    check_key,
    check_keywords,
    check_list_of,
    check_mapping,
    check_one_of_names,
    check_path,
    check_places,
    check_real,
    check_same_length,
    check_text,
    check_whole,
)
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError, RankByGeneError

ODD: list[Any] = [
    None, True, np.True_, "", "x", "3", b"x", [], [3], {}, set(), object(), lambda: 3, 1j, float("nan"),
    np.array([3]), np.array([1, 2]), pd.NA, pd.Series([3]), Path("x"), torch.tensor([3]), (i for i in [3]),
    torch.tensor(True),
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=[f"{i}-{type(v).__name__}" for i, v in enumerate(ODD)])
def test_no_odd_value_is_a_number(value: Any) -> None:
    for check in (check_whole, check_real):
        with pytest.raises(RankByGeneError, match="n is .* is needed"):
            check(value, "n")


@given(st.integers(-(2**31), 2**31 - 1))
def test_whole_numbers_of_every_library_are_one(number: int) -> None:
    arrays = [np.int64(number), np.array(number), np.array([number])[0], torch.tensor(number)]
    for value in (number, *arrays):
        found = check_whole(value, "n")
        assert type(found) is int and found == number


@given(st.floats(-1e15, 1e15))
def test_real_numbers_of_every_library_are_one(number: float) -> None:
    same = [np.float64(number), np.array(number), torch.tensor(number, dtype=torch.float64)]
    for value in (number, *same):
        found = check_real(value, "x")
        assert type(found) is float and found == number
    assert check_real(Fraction(1, 4), "x") == 0.25
    assert check_real(np.float32(0.5), "x") == 0.5


@pytest.mark.parametrize("value", [3.0, np.float64(4), 1e30, "3", True])
def test_a_float_is_no_count(value: Any) -> None:
    with pytest.raises(InputTypeError, match="a whole number"):
        check_whole(value, "n")


@pytest.mark.parametrize(
    ("bounds", "good", "bad"),
    [
        ({"at_least": 0}, (0, 1), (-1e-9,)),
        ({"above": 0}, (1e-9,), (0, -1)),
        ({"at_least": 0, "below": 1}, (0, 0.5), (1, -0.1)),
        ({"above": 0, "at_most": 1}, (1, 0.5), (0, 1.1)),
    ],
)
def test_bounds_are_kept(bounds: dict[str, float], good: Any, bad: Any) -> None:
    for value in good:
        assert check_real(value, "x", **bounds) == value
    for value in (*bad, float("nan"), float("inf"), -float("inf"), 1e30):
        with pytest.raises(InputValueError, match=r"x is .*; a number (of at least|above) 0"):
            check_real(value, "x", **bounds)


def test_seeds_are_those_that_generators_take() -> None:
    @checked
    def seeded(seed: int, seeds: Sequence[int] = ()) -> tuple[int, Sequence[int]]:
        return seed, seeds

    assert seeded(np.uint32(2**32 - 1), [np.int8(1)]) == (2**32 - 1, [1])
    for value in (-1, 2**32):
        with pytest.raises(InputValueError, match=r"seed is .*4,294,967,295"):
            seeded(value)
        with pytest.raises(InputValueError, match=r"seeds\[1\] is .*4,294,967,295"):
            seeded(0, [0, value])


def test_flags_are_no_numbers() -> None:
    assert check_flag(np.True_, "flag") is True
    assert check_flag(np.array(False), "flag") is False
    for value in (0, 1, "yes", None, np.array([True])):
        with pytest.raises(InputTypeError, match="True or False"):
            check_flag(value, "flag")


def test_choices_name_the_nearest() -> None:
    assert type(check_choice(np.str_("step"), "every", ("step", "epoch"))) is str
    assert check_choice(np.int64(8), "tta", (1, 8)) == 8
    assert check_choice(None, "x", (None, "a")) is None
    with pytest.raises(InputValueError, match="'step', 'epoch'; did you mean 'epoch'"):
        check_choice("epochs", "every", ("step", "epoch"))
    with pytest.raises(InputTypeError, match="one of 1, 8"):
        check_choice(True, "tta", (1, 8))
    with pytest.raises(InputTypeError, match="one of 'a'"):
        check_choice(np.array(["a", "b"]), "x", ("a",))


def test_keywords_name_the_nearest_and_the_list() -> None:
    def takes(*, n_epochs: int = 1, lr: float = 0.1) -> None: ...

    assert check_keywords(UserDict({"lr": 1}), "plan_kwargs", takes) == {"lr": 1}
    with pytest.raises(InputTypeError, match="takes n_epochs, lr; did you mean 'n_epochs'"):
        check_keywords({"nepochs": 1}, "plan_kwargs", takes)
    for value in (None, "lr", [("lr", 1)], {1: 2}):
        with pytest.raises(InputTypeError):
            check_keywords(value, "plan_kwargs", takes)


@pytest.mark.parametrize(
    "make", [list, tuple, np.array, pd.Index, pd.Series, lambda v: np.array(v, object)]
)
def test_lists_of_names_become_lists_of_texts(make: Any) -> None:
    found = check_list_of(check_text, make(["a", "b"]), "genes", least=2)
    assert found == ["a", "b"] and all(type(name) is str for name in found)


@pytest.mark.parametrize(
    "value",
    ["ab", b"cd", {"a", "b"}, {"a": 1}, None, 3, ["a", 1], ["a", None], [], [""],
     np.array([["a"]]), (name for name in "ab")],
)  # fmt: skip
def test_what_is_no_list_of_names_is_refused(value: Any) -> None:
    with pytest.raises(RankByGeneError, match="genes"):
        check_list_of(check_text, value, "genes", least=1)


def test_lists_of_numbers_are_checked_one_by_one() -> None:
    positive = partial(check_real, above=0)
    found = check_list_of(positive, np.array([1, 2], np.float32), "um")
    assert found == [1.0, 2.0] and type(found[0]) is float
    with pytest.raises(InputValueError, match=r"um\[1\] is 0; a number above 0 is needed"):
        check_list_of(positive, [1, 0], "um")
    with pytest.raises(InputTypeError, match=r"um is 'x' .*a list of values, such as \['x'\],"):
        check_list_of(check_text, "x", "um")


def test_what_numpy_makes_no_array_of_is_none() -> None:
    @checked
    def score(labels: ArrayLike, *more: ArrayLike) -> Any:
        return labels

    for labels in (
        [1, None],
        ["a", "b"],
        pd.Series(["a", None], dtype="category"),
        [[1], [2]],
        pd.DataFrame([1]),
    ):
        assert score(labels) is labels
    for labels in ([[1], [1, 2]], [1j], np.array([1j]), "ab", 3, np.array(3), {1}):
        with pytest.raises(InputTypeError, match="labels is .*; an array is needed"):
            score(labels)
        with pytest.raises(InputTypeError, match=r"more\[1\] is .*; an array is needed"):
            score([1], [1], labels)


def test_arrays_that_have_one_shape_everywhere_are_held_to_it() -> None:
    @checked
    def place(points: NDArray[np.float64], centers: Sequence[NDArray[np.float64]] = ()) -> Any:
        return points, centers

    points, centers = place([[1, 2]], [np.zeros((0, 2))])
    assert points.shape == (1, 2) and len(centers) == 1
    for wrong in ([1.0, 2.0], [], np.zeros((3, 3)), [[0.0, np.nan]], pd.Series([1.0])):
        with pytest.raises(InputValueError, match=r"points (is an array of shape|has values)"):
            place(wrong)
        with pytest.raises(InputValueError, match=r"centers\[0\] (is an array of|has values)"):
            place([[1, 2]], [wrong])


def test_lists_that_would_mean_something_else_where_empty_are_refused() -> None:
    @checked
    def draw(metric: str | Sequence[str], features: Mapping[str, int] | None = None) -> None: ...

    draw(["mae"], {"a": 1})
    with pytest.raises(InputValueError, match=r"metric is \[\]; a list of at least 1"):
        draw([])
    with pytest.raises(InputValueError, match="features is empty"):
        draw("mae", {})


def test_annotations_are_read_whether_they_are_text_or_objects() -> None:
    class Local: ...

    def draw(n: Any, um: Any, where: Any, how: Any, local: Any) -> Any:
        return n, um, where, how, local

    texts = ["int | None", "Sequence[float]", "str | Path", "Literal['a', 'b']", "Local"]
    kinds = [int | None, Sequence[float], str | Path, Literal["a", "b"], Local | None]
    for hints in (texts, kinds):
        draw.__annotations__ = dict(zip(["n", "um", "where", "how", "local"], hints, strict=True))
        guarded = checked(draw)
        assert guarded(np.int64(3), np.ones(1), "x", "a", 1) == (3, [1.0], "x", "a", 1)
        for place, odd in enumerate([True, ["x"], 3, "c"]):
            good = [3, [1.0], "x", "a", None]
            good[place] = odd
            with pytest.raises(RankByGeneError):
                guarded(*good)


@pytest.mark.parametrize("value", ["", " ", "a/b", ".a", "__a", "a b", "a\n", 3, None, b"x"])
def test_keys_that_no_store_takes_are_refused(value: Any) -> None:
    with pytest.raises(RankByGeneError, match="key_added"):
        check_key(value, "key_added")


@settings(deadline=None)  # the first call imports spatialdata
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6))
def test_keys_are_those_that_spatialdata_takes(key: str) -> None:
    from spatialdata._core.validation import check_valid_name

    try:
        check_key(key, "key_added")
    except InputValueError:
        return
    check_valid_name(key)


def test_other_kinds() -> None:
    assert check_path("a", "out") == check_path(Path("a"), "out") == Path("a")
    assert check_path("a/" * 200 + "b" * 255, "out").name == "b" * 255
    for value in ("", b"a", 3, None, "a\0", "b" * 256, "a/\ud800"):
        with pytest.raises(RankByGeneError, match="out"):
            check_path(value, "out")
    assert check_text(np.str_("a"), "x") == "a"
    assert check_mapping({"a": 1}, "x") == {"a": 1}
    assert check_instance(3, "x", int) == 3
    with pytest.raises(InputTypeError, match="an object of Path"):
        check_instance(3, "x", Path)
    with pytest.raises(
        InputKeyError, match="'tables', which is no table; there are .*did you mean"
    ):
        check_one_of_names("tables", "table_key", ["table"], "table")


def test_one_object_is_handed_in_once() -> None:
    one, other = object(), object()
    check_distinct([one, other], "sdata")
    with pytest.raises(InputValueError, match=r"sdata\[0\] and sdata\[2\] are one and the same"):
        check_distinct([one, other, one], "sdata")
    with pytest.raises(InputValueError, match=r"sdata\['a'\] and sdata\['b'\]"):
        check_distinct({"a": one, "b": one}, "sdata")


def test_places_of_rows_are_counted_from_the_first() -> None:
    flags = np.array([False, True, True])
    for rows, places in (([2, -3], [2, 0]), (flags, [1, 2]), (np.uint8([1]), [1]), ((), [])):
        found = check_places(rows, 3)
        assert found.tolist() == places and found.dtype == np.intp
    for rows in ([3], [-4], flags[:2], ["x"], [0.0], [None], 1, np.array(1), [[0]], "ab", {0}):
        with pytest.raises(RankByGeneError, match="validation"):
            check_places(rows, 3, "validation")


def test_arrays_that_belong_together_have_one_length() -> None:
    check_same_length(x0=[1, 2], y0=np.zeros(2))
    for y0 in ([1], [[1, 2]], 1):
        with pytest.raises(InputValueError, match=r"x0 of shape \(2,\), y0 of shape"):
            check_same_length(x0=[1, 2], y0=y0)


def test_a_repr_that_fails_does_not_hide_the_message() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(InputTypeError, match="n is <Odd> of type Odd"):
        check_whole(Odd(), "n")


def test_the_module_is_light() -> None:
    code = (
        "import sys, rankbygene._checks; "
        "print([m for m in ('torch', 'pandas', 'spatialdata') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
