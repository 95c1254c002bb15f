from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from rankbygene.data.expression._expression import Normalization, smoother
from rankbygene.data.slides._frame import SpatialSetup, SpotFrame
from rankbygene.data.splits._blocks import spatial_blocks
from rankbygene.data.splits._split import split_spots
from rankbygene.errors import InputKeyError, InputValueError

NOT_INDEPENDENT = "ignore:validation on"


def slide(name="A", *, n_rows=12, n_columns=12, patient=None, pitch=200.0, keep=None):
    """Spots on a square lattice; a unit of the coordinate system is half a micrometre."""
    index = np.column_stack(np.divmod(np.arange(n_rows * n_columns), n_columns))
    index = index if keep is None else index[keep]
    n = len(index)
    return SpotFrame(
        slide=name,
        sdata=SimpleNamespace(),
        setup=SpatialSetup(),
        region=name,
        image_key="image",
        coordinate_system="global",
        patient=patient,
        rows=np.arange(n),
        obs_names=np.array([f"s{i}" for i in range(n)], dtype=object),
        instances=np.arange(n),
        centers=index * pitch * 2.0,
        array_index=index,
        um_per_unit=0.5,
        um_source="test",
    )


def slides(*patients, sizes=None):
    sizes = [4] * len(patients) if sizes is None else sizes
    return {
        f"S{i}": slide(f"S{i}", n_rows=size, n_columns=5, patient=patient)
        for i, (patient, size) in enumerate(zip(patients, sizes, strict=True))
    }


def sides(split, frames, what):
    """The groups that have spots on the training and on the validation side."""
    groups = {"slide": lambda f: f.slide, "patient": lambda f: f.patient}[what]
    return [
        {groups(frames[name]) for name, labels in split.labels.items() if (labels == side).any()}
        for side in ("train", "validation")
    ]


@settings(max_examples=60, deadline=None)
@given(
    patients=st.lists(st.sampled_from("pqrst"), min_size=2, max_size=8),
    sizes=st.lists(st.integers(1, 9), min_size=8, max_size=8),
    share=st.floats(0.05, 0.8),
    seed=st.integers(0, 2**32 - 1),
    by=st.sampled_from(["auto", "slide"]),
)
def test_groups_are_never_on_both_sides(patients, sizes, share, seed, by):
    frames = slides(*patients, sizes=sizes[: len(patients)])
    split = split_spots(frames, by=by, validation_size=share, seed=seed)
    kept = "patient" if by == "auto" and len(set(patients)) > 1 else "slide"
    assert split.by == kept
    train, validation = sides(split, frames, kept)
    assert train
    assert validation
    assert not train & validation

    backwards = dict(reversed(frames.items()))
    again = split_spots(backwards, by=by, validation_size=share, seed=seed)
    assert list(again.labels) == list(backwards)
    for name, labels in split.labels.items():
        assert len(labels) == frames[name].n_obs
        np.testing.assert_array_equal(labels, again.labels[name])
    rows = np.concatenate([split.rows("train"), split.rows("validation")])
    assert sorted(rows) == list(range(sum(frame.n_obs for frame in frames.values())))


def test_equal_groups_meet_the_share():
    split = split_spots(slides(*"abcdefghij"), validation_size=0.3)
    assert len(split.rows("validation")) == 0.3 * 200
    chosen = {split_spots(slides(*"abcde"), seed=seed).note for seed in range(30)}
    assert len(chosen) == 5
    # one large and two small: the large one alone would be far more than a fifth
    split = split_spots(slides(*"abc", sizes=[16, 2, 2]))
    assert (split.labels["S0"] == "train").all()


def test_slides_are_used_where_patients_are_not_all_known(caplog):
    split = split_spots(slides("a", "b", None))
    assert split.by == "slide"
    split = split_spots(slides("a", "a", "a"))
    assert split.by == "slide"
    assert "not independent of training, which has other slides of a" in split.note
    assert "not independent" in caplog.text


def test_validation_slides_can_be_named():
    frames = slides("a", "a", "b")
    split = split_spots(frames, validation_slides=["S2"])
    assert split.by == "patient"
    assert split.rows("validation").tolist() == list(range(40, 60))
    assert split_spots(frames, validation_slides=["S0"]).by == "slide"
    with pytest.raises(InputValueError, match=r"patients \['a'\] have slides among"):
        split_spots(frames, by="patient", validation_slides=["S0"])
    with pytest.raises(InputKeyError, match=r"names \['X'\], which are not among the slides"):
        split_spots(frames, validation_slides=["X"])
    with pytest.raises(InputValueError, match="names 3 of 3 slides"):
        split_spots(frames, validation_slides=list(frames))
    with pytest.raises(InputValueError, match="cannot be combined with by='block'"):
        split_spots(frames, by="block", validation_slides=["S0"])


@pytest.mark.parametrize("by", ["auto", "slide", "block"])
def test_a_single_slide_is_cut_into_blocks_and_says_so(by):
    with pytest.warns(UserWarning, match="is not independent"):
        split = split_spots({"A": slide()}, by=by)
    assert split.by == "block"
    assert "29 of 144 spots" in split.note
    labels = split.labels["A"]
    assert set(labels) == {"train", "validation", "buffer"}
    # compact: the block fills most of its bounding box
    held = slide().array_index[labels == "validation"]
    assert np.prod(np.ptp(held, axis=0) + 1) <= 1.35 * len(held)


@pytest.mark.filterwarnings(NOT_INDEPENDENT)
@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 999),
    buffer_um=st.sampled_from([0.0, 150.0, 200.0, 290.0, 450.0]),
)
def test_the_buffer_is_truly_kept(data, seed, buffer_um):
    keep = data.draw(st.lists(st.sampled_from(range(144)), min_size=60, unique=True))
    frame = slide(keep=np.array(keep))
    split = split_spots({"A": frame}, seed=seed, buffer_um=buffer_um)
    labels = split.labels["A"]
    distance = cdist(frame.centers_um, frame.centers_um[labels == "validation"]).min(axis=1)
    assert distance[labels == "train"].min() > buffer_um
    # and nothing further away is wasted
    assert distance[labels == "buffer"].max(initial=0) <= buffer_um
    # the order of the spots does not matter
    order = np.random.default_rng(seed).permutation(len(keep))
    shuffled = split_spots({"A": slide(keep=np.array(keep)[order])}, seed=seed, buffer_um=buffer_um)
    np.testing.assert_array_equal(shuffled.labels["A"], labels[order])


@pytest.mark.filterwarnings(NOT_INDEPENDENT)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    neighbourhood=st.sampled_from(["auto", "knn", "none"]),
    tile_um=st.sampled_from([112.0, 300.0]),
)
def test_by_default_no_pixel_and_no_count_is_on_both_sides(seed, neighbourhood, tile_um):
    frame = slide(n_rows=16)
    normalization = Normalization(neighbourhood=neighbourhood)
    split = split_spots({"A": frame}, seed=seed, tile_um=tile_um, normalization=normalization)
    train, held = (split.labels["A"] == side for side in ("train", "validation"))
    gap = np.abs(frame.centers_um[train][:, None] - frame.centers_um[held]).max(axis=2)
    assert gap.min() > tile_um
    operator = smoother(frame, normalization)
    if operator is not None:
        used = operator.toarray() > 0
        assert not (used[train].any(axis=0) & used[held].any(axis=0)).any()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 80), n_blocks=st.integers(1, 9), seed=st.integers(0, 99))
def test_blocks_are_equal_in_size(n, n_blocks, seed):
    points = np.random.default_rng(seed).uniform(size=(n, 2))
    sizes = np.bincount(spatial_blocks(points, n_blocks), minlength=n_blocks)
    assert sizes.sum() == n
    assert np.ptp(sizes) <= 2


def test_random_spots_only_by_request():
    frames = slides("a", "b")
    with pytest.warns(UserWarning, match="spots drawn at random"):
        split = split_spots(frames, by="spot", validation_size=0.25, seed=3)
    assert [np.count_nonzero(labels == "validation") for labels in split.labels.values()] == [5, 5]
    assert split.by == "spot"


def test_nothing_held_out():
    split = split_spots({"A": slide()}, validation_size=0)
    assert split.by == "none"
    assert len(split.rows("train")) == 144
    assert not len(split.rows("validation"))


@pytest.mark.filterwarnings(NOT_INDEPENDENT)
def test_impossible_requests_are_refused():
    one = {"A": slide()}
    with pytest.raises(InputValueError, match="frames is empty"):
        split_spots({})
    with pytest.raises(InputValueError, match="by is 'donor'; allowed are 'auto'"):
        split_spots(one, by="donor")
    with pytest.raises(InputValueError, match=r"validation_size is 1\.0"):
        split_spots(one, validation_size=1.0)
    with pytest.raises(InputValueError, match=r"at most 0\.5 can be held out"):
        split_spots(one, validation_size=0.6)
    with pytest.raises(InputValueError, match="buffer_um is -1"):
        split_spots(one, buffer_um=-1)
    with pytest.raises(InputValueError, match="with 144 spots is too small for a spatial split"):
        split_spots(one, buffer_um=1e6)
    with pytest.raises(InputValueError, match="with 1 spots is too small"):
        split_spots({"A": slide(n_rows=1, n_columns=1)})
    with pytest.raises(InputValueError, match="1 have none"):
        split_spots(slides("a", None), by="patient")
    with pytest.raises(InputValueError, match="at least two patients, found 1"):
        split_spots(slides("a", "a"), by="patient")
    with pytest.raises(InputValueError, match="label is 'val'; allowed are 'train'"):
        split_spots(slides("a", "b")).rows("val")
