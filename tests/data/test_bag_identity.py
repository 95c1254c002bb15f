"""Copies of slides are told by their tiles, and slides that are alike by nature are not copies."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from rankbygene.data import ArrayBag
from rankbygene.data._bag_identity import shared_tiles


def bag(name: str, features: Any) -> ArrayBag:
    return ArrayBag(name, np.asarray(features, "f4"))


def shared(**features: Any) -> dict[tuple[str, str], tuple[int, int]]:
    """Compare slides, each of a patient of its own."""
    bags = {name: bag(name, values) for name, values in features.items()}
    return shared_tiles(bags, {name: f"patient of {name}" for name in bags})


def normal(n: int, d: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=(n, d)).astype("f4")


@pytest.mark.parametrize(
    ("copied", "n"),
    [
        (lambda x: x, (30, 30)),
        (lambda x: x[::-1], (30, 30)),
        (lambda x: x[np.random.default_rng(5).permutation(30)[:29]], (29, 29)),
        (lambda x: x[[3, 4, 5, 6, 7]], (5, 5)),
        (lambda x: x[[3]], (1, 1)),
        (lambda x: np.r_[x, x], (30, 30)),
        (lambda x: np.r_[x[:5], normal(60, 12, 8)], (5, 30)),
        (lambda x: x.astype("f2").astype("f4"), (30, 30)),
        (lambda x: np.where(x == x[0, 0], -0.0, x), None),
    ],
)
def test_copies_are_found_whatever_their_order_and_part(copied: Any, n: Any) -> None:
    own = normal(30, 12, 0)
    own[4, 5] = 0.0
    found = shared(a=normal(40, 12, 1), b=own, c=normal(30, 12, 2), d=copied(own))
    assert list(found) == [("b", "d")]
    if n is not None:
        assert found["b", "d"] == n


def test_slides_of_one_patient_may_hold_the_same_tiles() -> None:
    own = normal(30, 12, 0)
    bags = {name: bag(name, own) for name in "abc"}
    assert not shared_tiles(bags, dict.fromkeys("abc", "one"))
    # A copy is named also where two slides of its patient hold it.
    assert list(shared_tiles(bags, {"a": "p", "b": "p", "c": "q"})) == [("b", "c")]


def test_glass_and_padding_make_no_copies() -> None:
    blank = normal(3, 64, 9)
    slides = {f"s{i}": np.r_[blank[[0, 0, 1, 2]], normal(20, 64, i)] for i in range(20)}
    assert not shared(**slides)


@pytest.mark.parametrize("n_tiles", [3, 40, 2000])
@pytest.mark.parametrize(
    "kind", ["cluster", "rounded shares", "counts", "one feature", "two features", "all zero"]
)
def test_features_that_say_little_are_alike_by_chance(kind: str, n_tiles: int) -> None:
    rng = np.random.default_rng(0)
    make = {
        "cluster": lambda: np.eye(8)[rng.integers(0, 8, n_tiles)],
        "rounded shares": lambda: rng.dirichlet([0.3] * 4, n_tiles).round(1),
        "counts": lambda: rng.poisson(2.0, (n_tiles, 3)),
        "one feature": lambda: rng.normal(size=(n_tiles, 1)),
        "two features": lambda: rng.normal(size=(n_tiles, 2)),
        "all zero": lambda: np.zeros((n_tiles, 5)),
    }[kind]
    assert not shared(**{f"s{i}": make() for i in range(12)})


def test_many_slides_with_a_tile_in_common_take_linear_time() -> None:
    blank = normal(1, 8, 0)
    bags = {str(i): bag(str(i), np.r_[blank, normal(4, 8, i + 1)]) for i in range(3000)}
    bags["copy"] = bag("copy", bags["7"].features[::-1])
    start = time.perf_counter()
    found = shared_tiles(bags, {name: name for name in bags})
    assert found == {("7", "copy"): (5, 5)}
    assert time.perf_counter() - start < 20  # 4.5 million pairs would take minutes
