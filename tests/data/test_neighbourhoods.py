from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbygene.data import ExpressionBank, NeighbourhoodDataModule, compact_groups, nearest_spots
from rankbygene.errors import InputValueError

SIDE = 14
N = SIDE * SIDE + 5
GRID = np.stack(np.divmod(np.arange(SIDE * SIDE), SIDE), axis=1) * 200.0
FEW = np.array([[0.0, 0], [200, 0], [0, 200], [200, 200], [400, 0]])


def make(split=None, **kwargs):
    """Two slides, a square of 196 spots and one of five; every pixel is the number of the row."""
    slide = np.repeat([0, 1], [SIDE * SIDE, 5])
    expression = ExpressionBank(
        values=np.arange(N * 2, dtype=np.float32).reshape(N, 2),
        measured=np.ones((2, 2), bool),
        slide_of_row=slide,
        genes=("a", "b"),
        slides=("A", "B"),
    )
    bank = np.broadcast_to(np.arange(N).astype(np.uint8)[:, None, None, None], (N, 3, 2, 2))
    return NeighbourhoodDataModule(
        bank, expression, {"train": np.arange(N)} if split is None else split, [GRID, FEW], **kwargs
    )


@settings(deadline=None, max_examples=50)
@given(
    n_obs=st.integers(1, 30),
    n=st.integers(1, 12),
    spread=st.integers(1, 6),  # small grids hold several spots at one place
    seed=st.integers(0, 99),
)
def test_the_nearest_start_with_the_spot_itself_and_hold_none_twice(n_obs, n, spread, seed) -> None:
    centers = np.random.default_rng(seed).integers(0, spread, (n_obs, 2)).astype(float)
    index = nearest_spots(centers, n)
    assert index.shape == (n_obs, n)
    np.testing.assert_array_equal(index[:, 0], np.arange(n_obs))
    distance = np.linalg.norm(centers[:, None] - centers, axis=2)
    for row, own in enumerate(index):
        known = own[own >= 0]
        assert len(known) == len(set(known)) == min(n, n_obs)
        assert (own[len(known) :] == -1).all()
        near = np.sort(distance[row])[: len(known)]
        np.testing.assert_allclose(distance[row, known], near)


def test_nine_on_a_square_lattice_are_its_window() -> None:
    index = nearest_spots(GRID, 9)
    inside = 5 * SIDE + 5
    window = {inside + SIDE * r + c for r in (-1, 0, 1) for c in (-1, 0, 1)}
    assert set(index[inside]) == window
    with pytest.raises(InputValueError, match="at least 1"):
        nearest_spots(GRID, 0)


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 200), size=st.integers(1, 40), seed=st.integers(0, 99))
def test_patches_hold_every_point_once(n, size, seed) -> None:
    rng = np.random.default_rng(seed)
    patches = compact_groups(rng.normal(size=(n, 2)), size, rng)
    assert sorted(np.concatenate(patches)) == list(range(n))
    assert len(patches) == -(-n // size)
    sizes = [len(patch) for patch in patches]
    assert max(sizes) - min(sizes) <= 2


def test_a_batch_holds_each_tile_of_a_patch_once_and_says_where_neighbours_are() -> None:
    module = make(batch_size=64, group_size=32)
    loader = module.train_dataloader()
    seen, n_tiles = [], 0
    for batch in loader:
        spot, places, patch = (batch[key].numpy() for key in ("spot", "neighbours", "group"))
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], spot.astype(np.uint8))
        np.testing.assert_array_equal(batch["expression"][:, 0], 2 * spot)
        assert len(np.unique(np.stack([patch, spot]), axis=1).T) == len(spot)
        for own in places:
            own = own[own >= 0]
            assert len(set(patch[own])) == 1
            row = spot[own[0]]
            near = nearest_spots(GRID)[row] if row < SIDE**2 else nearest_spots(FEW)[row - SIDE**2]
            near = near[near >= 0] + (0 if row < SIDE**2 else SIDE**2)
            np.testing.assert_array_equal(spot[own], near)
        seen.append(spot[places[:, 0]])
        n_tiles += len(spot)
    assert sorted(np.concatenate(seen)) == list(range(N))
    assert n_tiles < 2 * N
    assert len(seen) == len(loader) == 4


@settings(deadline=None, max_examples=40)
@given(
    slides=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    batch_size=st.integers(1, 64),
    group_size=st.integers(1, 64),
    seed=st.integers(0, 9),
)
def test_a_batch_has_as_many_spots_as_asked(slides, batch_size, group_size, seed) -> None:
    n = sum(slides)
    batch_size = min(batch_size, n)
    group_size = min(group_size, batch_size)
    rng = np.random.default_rng(seed)
    expression = ExpressionBank(
        values=np.zeros((n, 1), np.float32),
        measured=np.ones((len(slides), 1), bool),
        slide_of_row=np.repeat(np.arange(len(slides)), slides),
        genes=("a",),
        slides=tuple(map(str, slides)),
    )
    half = {"train": np.arange(n - n // 3), "validation": np.arange(n - n // 3, n)}
    for split in ({"train": np.arange(n)}, half):
        if len(split["train"]) < batch_size:
            continue
        module = NeighbourhoodDataModule(
            np.zeros((n, 3, 1, 1), np.uint8),
            expression,
            split,
            [rng.normal(size=(size, 2)) for size in slides],
            batch_size=batch_size,
            group_size=group_size,
            seed=seed,
            drop_last=True,
        )
        seen = []
        for batch in (loader := module.train_dataloader()):
            places = batch["neighbours"].numpy()
            assert len(places) == batch_size
            assert max(np.bincount(batch["group"][places[:, 0]])) <= group_size
            seen.extend(batch["spot"].numpy()[places[:, 0]])
        assert len(seen) == len(set(seen)) == len(loader) * batch_size
        assert len(split["train"]) - len(seen) < batch_size
        batches = [b["spot"][b["neighbours"][:, 0]].tolist() for b in module.val_dataloader()]
        assert sorted(sum(batches, [])) == split.get("validation", np.arange(0)).tolist()
        sizes = list(map(len, batches)) or [0]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


def test_spots_of_many_small_slides_fill_the_batch() -> None:
    """Slides of 33 spots gave batches of 33, patches of 33 spots batches of 30."""
    module = make({"train": np.arange(196 - 33, N)}, batch_size=36, group_size=33)
    assert [len(b["neighbours"]) for b in module.train_dataloader()] == [36, 2]


def test_epochs_differ_and_a_seed_repeats_them() -> None:
    def epochs(seed):
        module = make(seed=seed)
        return [[batch["spot"].tolist() for batch in module.train_dataloader()] for _ in range(2)]

    first, again, other = epochs(0), epochs(0), epochs(1)
    assert first == again
    assert first != other
    assert first[0] != first[1]


def test_neighbours_across_the_split_are_missing() -> None:
    held_out = np.flatnonzero(GRID[:, 0] >= 2000)
    rest = np.setdiff1d(np.arange(N), held_out)
    module = make({"train": rest, "validation": held_out})
    train, validation = module.train_dataloader(), module.val_dataloader()
    for loader, rows in ((train, rest), (validation, held_out)):
        batches = list(loader)
        assert set(np.concatenate([batch["spot"] for batch in batches])) == set(rows)
        assert any((batch["neighbours"] == -1).any() for batch in batches)
    first, second = ([batch["spot"].tolist() for batch in validation] for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("n_spots", "expected"), [(180, 1.7), (500, 1.7), (2_000, 1.8), (8_000, 1.9)]
)
def test_patches_encode_fewer_than_two_tiles_per_spot(n_spots, expected) -> None:
    """The row of the user guide's table, which says what the neighbours of NH2ST cost."""
    side = int(np.ceil(np.sqrt(n_spots)))
    expression = ExpressionBank(
        values=np.zeros((n_spots, 1), np.float32),
        measured=np.ones((1, 1), bool),
        slide_of_row=np.zeros(n_spots, np.int64),
        genes=("a",),
        slides=("A",),
    )
    centers = np.stack(np.divmod(np.arange(n_spots), side), axis=1) * 200.0
    tiles = np.zeros((n_spots, 3, 1, 1), np.uint8)
    rows = {"train": np.arange(n_spots)}
    module = NeighbourhoodDataModule(tiles, expression, rows, [centers], group_size=32)
    epochs = [
        sum(len(batch["spot"]) for batch in module.train_dataloader()) / n_spots for _ in range(4)
    ]
    assert np.mean(epochs) == pytest.approx(expected, abs=0.06)
    assert max(epochs) < 2


def test_alone_there_is_one_tile_per_spot() -> None:
    module = make({"train": np.arange(N - 20), "test": np.arange(N - 20, N)}, n=1, group_size=1)
    for batch in module.train_dataloader():
        assert batch["neighbours"].tolist() == [[i] for i in range(len(batch["spot"]))]
    (test,) = list(module.test_dataloader())
    assert test["spot"][test["neighbours"][:, 0]].tolist() == list(range(N - 20, N))


def test_sizes_are_checked() -> None:
    with pytest.raises(InputValueError, match="group_size is 65"):
        make(group_size=65)
    with pytest.raises(InputValueError, match="group_size is 0"):
        make(group_size=0)
