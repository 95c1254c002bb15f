from __future__ import annotations

import gc
import threading

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbygene.data.batches._datamodule import (
    SpatialDataModule,
    TileDataModule,
    prefetched,
)
from rankbygene.data.batches._orders import shuffled_in_windows
from rankbygene.data.expression._expression import ExpressionBank
from rankbygene.data.splits._split import SpotSplit
from rankbygene.errors import InputKeyError, InputValueError

N = 50
SLIDE = np.repeat([0, 1], [20, 30])


@pytest.fixture
def expression():
    return ExpressionBank(
        values=np.arange(N * 3, dtype=np.float32).reshape(N, 3),
        measured=np.array([[True, True, False], [True, True, True]]),
        slide_of_row=SLIDE,
        genes=("a", "b", "c"),
        slides=("A", "B"),
    )


@pytest.fixture
def bank():
    """Tiles whose every pixel is the number of the row."""
    return np.broadcast_to(np.arange(N, dtype=np.uint8)[:, None, None, None], (N, 3, 4, 4))


def split(n_train=37, n_validation=9):
    labels = np.array(["train"] * n_train + ["validation"] * n_validation, dtype="<U10")
    labels = np.append(labels, ["test"] * (N - len(labels)))
    labels = np.random.default_rng(0).permutation(labels)
    return SpotSplit({"A": labels[:20], "B": labels[20:]}, "spot", "", 0)


def spots(loader):
    return [batch["spot"].tolist() for batch in loader]


def test_a_batch_holds_the_rows_that_it_names(bank, expression):
    module = SpatialDataModule(bank, expression, split(), batch_size=8)
    batches = [
        batch
        for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
        for batch in loader
    ]
    for batch in batches:
        rows = batch["spot"].numpy()
        assert batch["image"].dtype == torch.uint8
        assert batch["image"].shape == (len(rows), 3, 4, 4)
        np.testing.assert_array_equal(batch["image"][:, 1, 2, 3], rows)
        np.testing.assert_array_equal(batch["expression"], expression.values[rows])
        np.testing.assert_array_equal(batch["slide"], SLIDE[rows])
        np.testing.assert_array_equal(batch["measured"], expression.measured[SLIDE[rows]])
        assert batch["measured"].dtype == torch.bool
        assert batch["slide"].dtype == batch["spot"].dtype == torch.int64


def test_training_is_shuffled_per_epoch_and_reproducible(bank, expression):
    loader = SpatialDataModule(bank, expression, split(), batch_size=8, seed=1).train_dataloader()
    epochs = [spots(loader) for _ in range(3)]
    assert len(loader) == 4
    train = set(split().rows("train").tolist())
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [8, 8, 8, 8]
        assert len(set(sum(epoch, []))) == 32
        assert set(sum(epoch, [])) <= train
    assert epochs[0] != epochs[1] != epochs[2]
    again = SpatialDataModule(bank, expression, split(), batch_size=8, seed=1).train_dataloader()
    assert [spots(again) for _ in range(3)] == epochs
    other = SpatialDataModule(bank, expression, split(), batch_size=8, seed=2).train_dataloader()
    assert spots(other) != epochs[0]

    whole = SpatialDataModule(bank, expression, split(), batch_size=8, drop_last=False)
    assert sorted(sum(spots(whole.train_dataloader()), [])) == sorted(train)
    assert len(whole.train_dataloader()) == 5


def test_validation_and_test_lose_no_spot_and_never_change(bank, expression):
    module = SpatialDataModule(bank, expression, split(), batch_size=4)
    first, second = spots(module.val_dataloader()), spots(module.val_dataloader())
    assert first == second
    assert [len(batch) for batch in first] == [3, 3, 3]
    assert sorted(sum(first, [])) == module.val_idx.tolist()
    assert sum(spots(module.test_dataloader()), []) == module.test_idx.tolist()
    assert (module.n_train, module.n_val) == (37, 9)


def test_the_global_random_states_are_left_alone(bank, expression):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    module = SpatialDataModule(bank, expression, split(), batch_size=8)
    first = spots(module.train_dataloader())
    spots(module.val_dataloader())
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    torch.manual_seed(1234)
    module = SpatialDataModule(bank, expression, split(), batch_size=8)
    assert spots(module.train_dataloader()) == first


class Recorder(pl.LightningModule):
    """Counts what a Trainer hands to it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Linear(3, 1)
        self.seen = {"train": [], "validation": []}

    def training_step(self, batch, _):
        self.seen["train"] += batch["spot"].tolist()
        loss = self.weight(batch["expression"]).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["spot"]))
        return loss

    def validation_step(self, batch, _):
        self.seen["validation"] += batch["spot"].tolist()
        loss = self.weight(batch["expression"]).mean()
        self.log("validation_loss", loss, batch_size=len(batch["spot"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n_validation", [9, 0])
def test_the_runner_of_scvi_tools_trains_on_it(bank, expression, n_validation):
    from scvi.train import TrainRunner

    module = SpatialDataModule(bank, expression, split(n_validation=n_validation), batch_size=8)

    class Model:
        module = torch.nn.Identity()
        history_ = None
        is_trained_ = False

        def to_device(self, device):
            self.device = device

    model, plan = Model(), Recorder()
    runner = TrainRunner(
        model,
        training_plan=plan,
        data_splitter=module,
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        check_val_every_n_epoch=1,
        early_stopping=False,
        benchmark=False,
        enable_progress_bar=False,
    )
    runner()
    np.testing.assert_array_equal(model.train_indices, module.train_idx)
    np.testing.assert_array_equal(model.validation_indices, module.val_idx)
    assert plan.n_obs_training == 37
    assert len(plan.seen["train"]) == 64
    assert set(plan.seen["validation"]) == set(module.val_idx.tolist())
    assert ("validation_loss" in model.history_) == (n_validation > 0)


def test_rows_can_be_given(bank, expression):
    module = SpatialDataModule(
        bank, expression, {"train": range(8), "validation": [30]}, batch_size=4
    )
    assert module.train_idx.tolist() == list(range(8))
    assert module.test_dataloader() == []


def test_impossible_requests_are_refused(bank, expression):
    def build(rows, **kwargs):
        return SpatialDataModule(bank, expression, rows, **kwargs)

    with pytest.raises(InputValueError, match="37 training spots but a batch holds 64"):
        build(split())
    with pytest.raises(InputValueError, match="batch_size is 0"):
        build(split(), batch_size=0)
    with pytest.raises(InputValueError, match="49 tiles but 50 rows of expression"):
        SpatialDataModule(bank[:-1], expression, split(), batch_size=8)
    with pytest.raises(InputValueError, match=r"1 rows are not among the 50 spots \(first: 50\)"):
        build({"train": range(51)})
    with pytest.raises(InputValueError, match=r"2 rows are used more than once \(first: 3\)"):
        build({"train": range(5), "test": [4, 3]}, batch_size=2)
    with pytest.raises(InputKeyError, match=r"need 'train'.*got \['val'\]"):
        build({"val": [1]})


def test_tiles_alone_are_shuffled_as_spots_are(bank, expression):
    loader = TileDataModule(bank, batch_size=8, seed=1).train_dataloader()
    epochs = [[batch["image"][:, 0, 0, 0].tolist() for batch in loader] for _ in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [8] * 6
        assert len(set(sum(epoch, []))) == 48
    everything = SpatialDataModule(bank, expression, {"train": range(N)}, batch_size=8, seed=1)
    same = everything.train_dataloader()
    assert [spots(same) for _ in range(2)] == epochs
    for size in (0, N + 1):
        with pytest.raises(InputValueError, match=f"batch_size is {size}"):
            TileDataModule(bank, batch_size=size)


def test_items_are_drawn_ahead_in_their_order():
    drawn = []

    def items():
        for i in range(6):
            drawn.append(i)
            yield i
        msg = "the disk was pulled out"
        raise OSError(msg)

    before = threading.active_count()
    got, stream = [], prefetched(items(), 2)
    with pytest.raises(OSError, match="pulled out"):
        for item in stream:
            got.append(item)
            assert len(drawn) <= item + 3  # the one that is worked on and two more
    assert got == list(range(6))
    assert list(prefetched(iter("abc"), 5)) == list("abc")
    for item in prefetched(iter(range(100)), 2):
        if item == 3:
            break
    with pytest.raises(KeyboardInterrupt):
        for _ in prefetched(iter(range(100)), 2):
            raise KeyboardInterrupt
    gc.collect()
    assert threading.active_count() == before


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 300),
    window=st.integers(1, 120),
    seed=st.integers(0, 99),
)
def test_windows_hold_every_row_in_short_runs(n, window, seed):
    rows = np.arange(n) * 2 + 1
    order = shuffled_in_windows(rows, window, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(order), rows)
    np.testing.assert_array_equal(rows, np.arange(n) * 2 + 1)
    for start in range(0, n, window):
        inside = np.sort(order[start : start + window])
        n_runs = 1 + (np.diff(inside) > 2).sum()
        # Runs of 16, cut at the two ends of the window, of the rows and where they begin.
        assert n_runs <= window / 16 + 5


def test_a_window_draws_from_everywhere(expression, bank):
    """Rows come in the order of storage, and batches mix slides."""

    class Stored:
        places = np.random.default_rng(0).permutation(N)

        def __len__(self):
            return N

        def __getitem__(self, rows):
            return bank[rows]

    rows = {"train": np.arange(N)}
    kwargs = {"batch_size": 8, "seed": 1, "shuffle_window": 20, "drop_last": False}
    module = SpatialDataModule(Stored(), expression, rows, **kwargs)
    epochs = [sum(spots(module.train_dataloader()), []) for _ in range(2)]
    again = SpatialDataModule(Stored(), expression, rows, **kwargs)
    assert [sum(spots(again.train_dataloader()), []) for _ in range(2)] == epochs
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert sorted(epoch) == list(range(N))
        for start in range(0, N, 20):
            inside = np.sort(Stored.places[epoch[start : start + 20]])
            assert (np.diff(inside) > 1).sum() <= 5
    with pytest.raises(InputValueError, match="shuffle_window is 7; at least batch_size=8"):
        SpatialDataModule(Stored(), expression, rows, batch_size=8, shuffle_window=7)
