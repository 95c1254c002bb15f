"""Spots are known again by what they hold, and new ones are not taken for old ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import spatialdata as sd
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from rankbygene.data import resolve_slides
from rankbygene.data._identity import SpotPrints, match_spots, shared_spots
from rankbygene.datasets import synthetic

N = 60
SPARSE = 0.03  # mean count per gene: one or two counts in all


def frames_of(slides: Any) -> list[Any]:
    return list(resolve_slides(slides, counts=False).values())


def of(frame: Any, genes: Any = None) -> SpotPrints:
    return SpotPrints.of(frame, [None, genes or list(frame.table.var_names)], pixels=True)


@pytest.fixture(scope="module")
def slides() -> list[Any]:
    """Two slides of one lattice and the same names, with many counts."""
    return synthetic(2, n_spots=N, n_genes=30, seed=0, um_per_px=4.0)


@pytest.fixture(scope="module")
def bins() -> list[Any]:
    """The same with one or two counts in most spots, and none in some."""
    made = synthetic(2, n_spots=N, n_genes=30, seed=0, um_per_px=4.0)
    for i, slide in enumerate(made):
        counts = np.random.default_rng(i).poisson(SPARSE, (N, 30))
        slide["table"].X = sparse.csr_matrix(counts.astype(np.float32))
    return made


def changed(slide: Any, rows: Any = slice(None), genes: Any = slice(None)) -> Any:
    elements = {name: element for _, name, element in slide.gen_spatial_elements()}
    return sd.SpatialData.init_from_elements(
        {**elements, "table": slide["table"][rows, genes].copy()}
    )


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(N)),
    kept=st.integers(1, N),
    n_genes=st.integers(18, 30),
    renamed=st.booleans(),
    shift=st.sampled_from([0.0, 1234.5]),
)
def test_any_part_in_any_order_under_any_name_is_known(
    slides: list[Any], order: list[int], kept: int, n_genes: int, renamed: bool, shift: float
) -> None:
    rows = np.array(order[:kept])
    genes = np.random.default_rng(kept).permutation(30)
    panel = list(slides[0]["table"].var_names[genes[:18]])
    copy = changed(slides[0], rows, genes[:n_genes])
    if renamed:
        copy["table"].obs_names = [f"s{i}" for i in range(kept)]
        del copy["table"].obs["array_row"]
    if shift:
        move = sd.transformations.Translation([shift, shift], axes=("x", "y"))
        for _, _, element in copy.gen_spatial_elements():
            sd.transformations.set_transformation(element, move)
    (new,) = frames_of(copy)
    known = frames_of(slides)[0]
    found = match_spots(of(new, panel), of(known, panel))
    assert (found >= 0).all()
    np.testing.assert_array_equal(known.instances[found], new.instances)


def test_a_new_slide_of_the_same_names_and_lattice_is_new(
    slides: list[Any], bins: list[Any]
) -> None:
    for pair in (slides, bins):
        one, two = frames_of(pair)
        np.testing.assert_array_equal(one.obs_names, two.obs_names)
        np.testing.assert_array_equal(one.array_index, two.array_index)
        assert (match_spots(of(two), of(one)) < 0).all()


@pytest.mark.parametrize("hidden", ["name", "lattice", "both"])
def test_spots_with_few_counts_are_known_by_name_or_place(bins: list[Any], hidden: str) -> None:
    rows = np.random.default_rng(1).permutation(N)[:40]
    copy = changed(bins[0], rows)
    if hidden != "lattice":
        copy["table"].obs_names = [f"s{i}" for i in range(40)]
    if hidden != "name":
        del copy["table"].obs["array_row"]
    found = match_spots(of(frames_of(copy)[0]), of(frames_of(bins)[0]))
    np.testing.assert_array_equal(found, rows)


def test_few_counts_alone_are_no_evidence(bins: list[Any]) -> None:
    copy = changed(bins[0])
    copy["table"].obs_names = [f"s{i}" for i in range(N)]
    del copy["table"].obs["array_row"]
    (new,), known = frames_of(copy), frames_of(bins)[0]
    elsewhere = np.full((N, 2), 1e6) + new.centers[::-1]
    moved = type(new)(**{**new.__dict__, "centers": elsewhere})
    assert (match_spots(of(moved), of(known)) < 0).all()


def test_pictures_tell_spots_without_counts(slides: list[Any]) -> None:
    copy, other = changed(slides[0], np.arange(10, 30)), changed(slides[1])
    for slide in (copy, other):
        slide["table"].X = np.log1p(slide["table"].X.toarray() + 0.5)
    known = of(frames_of(slides)[0])
    np.testing.assert_array_equal(match_spots(of(frames_of(copy)[0]), known), np.arange(10, 30))
    assert (match_spots(of(frames_of(other)[0]), known) < 0).all()


def test_pairs_are_compared_by_the_genes_that_both_have(slides: list[Any]) -> None:
    part = changed(slides[0], np.arange(5, 25), np.arange(20))
    other = changed(slides[0], np.arange(15, 40), np.arange(8, 30))
    frames = resolve_slides({"a": slides[0], "b": slides[1], "c": part, "d": other})
    names = ["a", "b", "c", "d"]
    pairs = [(one, two) for one in names for two in names if one < two]
    shared = shared_spots(frames, pairs)
    assert {pair: len(rows) for pair, rows in shared.items()} == {
        ("a", "c"): 20,
        ("a", "d"): 25,
        ("c", "d"): 10,
    }
    np.testing.assert_array_equal(shared["c", "d"], np.stack([np.arange(10, 20), np.arange(10)], 1))
