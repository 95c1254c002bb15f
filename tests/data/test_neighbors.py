from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from rankbygene.data.expression._neighbors import lattice_kind, neighbour_graph, smoothing_operator
from rankbygene.errors import InputValueError

PITCH = {
    "grid8": (200.0, 200.0),
    "hex6": (100.0 * np.sqrt(3) / 2, 50.0),
    "checker8": (70.7, 70.7),
}
NEAR = {
    "grid8": lambda dr, dc: max(abs(dr), abs(dc)) == 1,
    "hex6": lambda dr, dc: (abs(dr), abs(dc)) in {(0, 2), (1, 1)},
    "checker8": lambda dr, dc: (abs(dr), abs(dc)) in {(1, 1), (0, 2), (2, 0)},
}


def frame(index, pitch, *, angle=0.3, jitter=0.0, seed=0):
    """Spots on a lattice that is rotated, shifted and disturbed."""
    index = np.asarray(index, dtype=np.int64).reshape(-1, 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centers = (index * np.asarray(pitch)) @ turn + 1000
    centers = centers + np.random.default_rng(seed).normal(0, jitter, centers.shape)
    return SimpleNamespace(slide="A", n_obs=len(index), array_index=index, centers=centers)


def lattice(kind, n_rows=6, n_columns=8):
    rows, columns = np.divmod(np.arange(n_rows * n_columns), n_columns)
    index = np.column_stack([rows, columns])
    return index if kind == "grid8" else index[(index.sum(axis=1) % 2) == 0]


def row_of(index, spot):
    return int(np.flatnonzero((index == spot).all(axis=1))[0])


@pytest.mark.parametrize("kind", ["grid8", "hex6", "checker8"])
def test_the_lattice_is_told_by_parity_and_pitch(kind):
    spots = frame(lattice(kind), PITCH[kind], jitter=4)
    assert lattice_kind(spots) == kind
    auto, named = neighbour_graph(spots), neighbour_graph(spots, kind=kind)
    assert (auto != named).nnz == 0


def test_positions_that_follow_no_lattice_are_linked_by_distance():
    index = lattice("grid8")
    rng = np.random.default_rng(0)
    scattered = SimpleNamespace(
        slide="A", n_obs=48, array_index=index, centers=rng.uniform(0, 1e3, (48, 2))
    )
    assert lattice_kind(scattered) == "knn"
    scattered.array_index = None
    assert lattice_kind(scattered) == "knn"
    assert lattice_kind(frame(index, (200.0, 80.0))) == "knn"
    assert lattice_kind(frame(index[:8], PITCH["grid8"])) == "knn"
    assert lattice_kind(frame(np.zeros((5, 2)), PITCH["grid8"])) == "knn"


def test_an_impulse_reaches_the_spots_of_the_papers_window():
    """The two impulses at (2, 4): six touching spots on a hexagon, the 3 x 3 window on a square."""
    hexagon = lattice("hex6")
    around = {(2, 4), (2, 2), (2, 6), (1, 3), (1, 5), (3, 3), (3, 5)}
    for kind, expected, weight in [
        ("hex6", around, 1 / 7),
        ("grid8", around - {(2, 2), (2, 6)}, 1 / 5),
    ]:
        operator = smoothing_operator(neighbour_graph(frame(hexagon, PITCH["hex6"]), kind=kind))
        # Wider than the counts', it would make every block's product cost the whole slide.
        assert operator.indices.dtype == operator.indptr.dtype == np.int32
        response = operator.toarray()[:, row_of(hexagon, (2, 4))]
        assert {tuple(spot) for spot in hexagon[response > 0].tolist()} == expected
        np.testing.assert_allclose(response[row_of(hexagon, (2, 4))], weight)
    square = lattice("grid8")
    operator = smoothing_operator(neighbour_graph(frame(square, PITCH["grid8"])))
    response = operator.toarray()[:, row_of(square, (2, 4))].reshape(6, 8)
    expected = np.zeros((6, 8))
    expected[1:4, 3:6] = 1 / 9
    np.testing.assert_allclose(response, expected)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["grid8", "hex6", "checker8"]),
    data=st.data(),
    shift=st.tuples(st.integers(-500, 500), st.integers(-500, 500)),
)
def test_the_graph_equals_a_loop_over_all_pairs(kind, data, shift):
    full = lattice(kind)
    kept = data.draw(st.lists(st.sampled_from(range(len(full))), min_size=1, unique=True))
    index = full[kept] + np.array(shift)
    graph = neighbour_graph(frame(index, PITCH[kind]), kind=kind)
    slow = [[float(NEAR[kind](*(a - b))) for b in index] for a in index]
    np.testing.assert_array_equal(graph.toarray(), slow)
    operator = smoothing_operator(graph)
    np.testing.assert_allclose(operator.sum(axis=1), 1)
    values = np.arange(len(index), dtype=float)
    near = np.array(slow, dtype=bool) | np.eye(len(index), dtype=bool)
    means = [values[row].mean() for row in near]
    np.testing.assert_allclose(operator @ values, means)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 25), k=st.integers(1, 10), levels=st.integers(1, 400), seed=st.integers(0, 99)
)
def test_nearest_spots_are_nearest_even_where_positions_coincide(n, k, levels, seed):
    centers = np.random.default_rng(seed).integers(0, levels, (n, 2)).astype(float)
    spots = SimpleNamespace(slide="A", n_obs=n, array_index=None, centers=centers)
    graph = neighbour_graph(spots, kind="knn", n_neighbors=k)
    distances = cdist(centers, centers)
    np.fill_diagonal(distances, np.inf)
    assert graph.diagonal().sum() == 0
    for i in range(n):
        linked = graph[[i]].indices
        assert len(set(linked)) == min(k, n - 1)
        np.testing.assert_allclose(
            np.sort(distances[i, linked]), np.sort(distances[i])[: len(linked)]
        )


def test_impossible_requests_are_refused():
    spots = frame(lattice("grid8"), PITCH["grid8"])
    with pytest.raises(InputValueError, match="kind is 'star'; allowed are 'auto'"):
        neighbour_graph(spots, kind="star")
    with pytest.raises(InputValueError, match="n_neighbors is 0"):
        neighbour_graph(spots, kind="knn", n_neighbors=0)
    spots.array_index = None
    with pytest.raises(InputValueError, match="'array_row' and 'array_col'"):
        neighbour_graph(spots, kind="hex6")
    with pytest.raises(InputValueError, match="several spots have the same"):
        neighbour_graph(frame([[0, 0], [0, 0]], PITCH["grid8"]), kind="grid8")


@pytest.mark.real_data
def test_real_arrays_are_told_apart(real_data):
    """Visium, a legacy array with adjusted positions, and a diagonal 2k array."""
    visium = pd.read_csv(real_data / "crc16_visium/spatial/tissue_positions_list.csv", header=None)
    legacy = pd.read_csv(next((real_data / "her2st/ST-spotfiles").glob("*C2*")), sep="\t")
    diagonal = pd.read_csv(real_data / "stutility_mob/alignment_table_MOB1.tsv", sep="\t")
    for table, index, position, kind, degree in [
        (visium[visium[1] == 1], [2, 3], [5, 4], "hex6", 6),
        (legacy, ["y", "x"], ["pixel_x", "pixel_y"], "grid8", 8),
        (diagonal[diagonal["selected"] == 1], ["y", "x"], ["pixel_x", "pixel_y"], "checker8", 8),
    ]:
        spots = SimpleNamespace(
            slide="A",
            n_obs=len(table),
            array_index=table[index].to_numpy().round().astype(np.int64),
            centers=table[position].to_numpy(dtype=float),
        )
        assert lattice_kind(spots) == kind
        graph = neighbour_graph(spots)
        assert graph.sum(axis=1).max() == degree
        left, right = graph.nonzero()
        lengths = np.linalg.norm(spots.centers[left] - spots.centers[right], axis=1)
        assert lengths.max() < 2.3 * lengths.min()
