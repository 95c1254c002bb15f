"""Fingerprints: the same for the same contents, another for any change."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from spatialdata.models import Image2DModel

from rankbygene import datasets
from rankbygene.data import resolve_slides
from rankbygene.data._fingerprint import (
    fingerprint_counts,
    fingerprint_frame,
    fingerprint_pixels,
    hash_texts,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 70, 90), dtype=np.uint8)


@pytest.fixture
def frame():
    slide = datasets.synthetic(n_slides=1, n_spots=60, n_genes=20, seed=0, um_per_px=4.0)[0]
    return next(iter(resolve_slides(slide).values()))


def image(pixels, chunks=-1):
    return Image2DModel.parse(
        da.from_array(pixels, chunks=chunks), dims=("c", "y", "x"), c_coords=["r", "g", "b"]
    )


def recounted(frame, change):
    """The frame with a table that ``change`` made of a copy of its own."""
    table = change(frame.table.copy())
    frame.sdata.tables["table"] = table
    return next(iter(resolve_slides(frame.sdata).values()))


def test_counts_are_told_whatever_their_storage_and_order_of_genes(frame):
    before = fingerprint_counts(frame)
    order = np.random.default_rng(0).permutation(frame.table.n_vars)

    def reordered(table):
        table = table[:, order].copy()
        table.X = sparse.csc_matrix(table.X.astype(np.float64))
        return table

    after = fingerprint_counts(recounted(frame, reordered))
    np.testing.assert_array_equal(before.values, after.values)
    np.testing.assert_array_equal(before.n_detected, after.n_detected)
    np.testing.assert_array_equal(
        before.n_detected, np.count_nonzero(frame.table.X.toarray(), axis=1)
    )
    assert len(np.unique(before.values)) == frame.n_obs


def test_genes_without_counts_do_not_matter(frame):
    before = fingerprint_counts(frame).values

    def padded(table):
        empty = ad.AnnData(
            sparse.csr_matrix((table.n_obs, 3), dtype=table.X.dtype),
            obs=table.obs[[]],
            var=pd.DataFrame(index=["n1", "n2", "n3"]),
        )
        joined = ad.concat([table, empty], axis=1, merge="first", uns_merge="first")
        joined.obs = table.obs
        return joined

    np.testing.assert_array_equal(before, fingerprint_counts(recounted(frame, padded)).values)


def test_one_count_more_and_one_moved_are_noticed(frame):
    before = fingerprint_counts(frame).values
    dense = frame.table.X.toarray()

    def with_counts(values):
        def change(table):
            table.X = sparse.csr_matrix(values)
            return table

        return fingerprint_counts(recounted(frame, change)).values

    more = dense.copy()
    more[7, 3] += 1
    np.testing.assert_array_equal(np.flatnonzero(with_counts(more) != before), [7])
    exchanged = dense.copy()
    exchanged[9] = np.roll(dense[9], 1)
    np.testing.assert_array_equal(np.flatnonzero(with_counts(exchanged) != before), [9])


def test_some_genes_give_what_a_table_of_these_genes_gives(frame):
    genes = list(frame.table.var_names[[3, 11, 5]])
    chosen = fingerprint_counts(frame, genes)
    subset = fingerprint_counts(recounted(frame, lambda table: table[:, genes].copy()))
    np.testing.assert_array_equal(chosen.values, subset.values)
    assert chosen.n_detected.max() <= 3


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(17, 70),
    width=st.integers(17, 90),
    depth=st.integers(1, 3),
    place=st.tuples(st.integers(0, 2), st.integers(0, 69), st.integers(0, 89)),
    added=st.integers(1, 255),
)
def test_pixels_do_not_depend_on_chunks_and_every_change_shows(height, width, depth, place, added):
    whole = fingerprint_pixels(image(PIXELS), 0)
    cut = fingerprint_pixels(image(PIXELS, (depth, height, width)), 0)
    np.testing.assert_array_equal(whole, cut)
    changed = PIXELS.copy()
    changed[place] = (int(changed[place]) + added) % 256
    assert (fingerprint_pixels(image(changed), 0) != whole).any()


def test_moved_pixels_are_noticed():
    whole = fingerprint_pixels(image(PIXELS), 0)
    for other in (PIXELS[::-1], PIXELS[:, ::-1], PIXELS[:, :, ::-1], np.roll(PIXELS, 1, axis=2)):
        assert (fingerprint_pixels(image(np.ascontiguousarray(other)), 0) != whole).any()


def test_parts_of_a_frame_say_what_changed(frame):
    before = fingerprint_frame(frame, levels=[0])
    assert before == fingerprint_frame(frame, levels=[0])
    backwards = frame.take(np.arange(frame.n_obs)[::-1])
    after = fingerprint_frame(backwards, levels=[0])
    assert {name for name in before if before[name] != after[name]} == {
        "spots",
        "geometry",
        "counts",
    }
    assert "counts" not in fingerprint_frame(frame, levels=[0], counts=False)


def test_hashes_of_texts_are_the_same_in_every_session():
    np.testing.assert_array_equal(
        hash_texts(["a", "b"]), np.array([13950350942979735504, 12688059582079114975], np.uint64)
    )
