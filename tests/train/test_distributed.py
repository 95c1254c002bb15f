from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import rankbygene as rbg
from rankbygene.data import ExpressionBank, NeighbourhoodDataModule
from rankbygene.data.batches._orders import FixedBatches
from rankbygene.data.batches._shares import Shares
from rankbygene.errors import InputValueError
from rankbygene.module import NH2STModule
from rankbygene.nn import build_backbone
from rankbygene.nn.losses import info_nce
from rankbygene.train import NH2STPlan, SyncBatchNorm
from rankbygene.train._gather import gather, gather_batch

N_PROCESSES = 2
# Ten steps of eight spots on the 80 training spots of the slides below.
TRAIN: dict[str, Any] = {
    "max_epochs": 1,
    "batch_size": 8,
    "accelerator": "cpu",
    "precision": "32-true",
    "enable_progress_bar": False,
}
METHODS: list[tuple[Any, dict[str, int]]] = [
    (rbg.model.RankByGene, {}),
    (rbg.model.NH2ST, {"group_size": 4}),
]
MANY: dict[str, Any] = {"devices": N_PROCESSES, "strategy": "ddp_fork"}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are started by fork"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(autouse=True, scope="module")
def threads_before_the_fork() -> Iterator[None]:
    """Compute in several threads first, as a session does before it trains."""
    n = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.bmm(torch.ones(64, 64, 64), torch.ones(64, 64, 64))
    yield
    torch.set_num_threads(n)


# ---- the gather ----------------------------------------------------------------------------------


def in_processes(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Give what ``work`` returns in each of two processes that know each other."""
    context = torch.multiprocessing.start_processes(
        partial(_in_process, work=work, folder=folder),
        nprocs=N_PROCESSES,
        start_method="fork",
        join=False,
    )
    while not context.join(timeout=60):
        pass
    return [torch.load(folder / f"{rank}.pt") for rank in range(N_PROCESSES)]


def _in_process(rank: int, work: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), N_PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=N_PROCESSES)
    torch.save(work(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_the_mean_gradient_of_all_processes_is_that_of_one(tmp_path: Path) -> None:
    sizes = [3, 5]
    torch.manual_seed(0)
    encoder, head = nn.Linear(6, 4), nn.Linear(4, 4)
    images, genes = torch.randn(8, 6), torch.randn(8, 4)

    def gradients(own: slice, sizes: list[int]) -> list[torch.Tensor]:
        loss = info_nce(head(gather(encoder(images[own]).tanh(), sizes)), genes)
        return list(torch.autograd.grad(loss, [*encoder.parameters(), *head.parameters()]))

    def work(rank: int) -> Any:
        start = sum(sizes[:rank])
        return gradients(slice(start, start + sizes[rank]), sizes)

    expected = gradients(slice(0, 8), [8])
    found = in_processes(work, tmp_path)
    assert not torch.allclose(found[0][0], found[1][0])
    for one, *many in zip(expected, *found, strict=True):
        assert torch.allclose(torch.stack(many).mean(0), one, atol=1e-6)


def test_batches_of_any_type_and_length_come_together(tmp_path: Path) -> None:
    def batch_of(rank: int) -> dict[str, torch.Tensor]:
        n = 2 + 3 * rank
        return {
            "image": torch.zeros(n, 3),
            "flag": torch.arange(n) % 2 == rank,
            "number": torch.arange(n + 1) + 10 * rank,
        }

    for sizes, parts in in_processes(
        lambda rank: gather_batch(batch_of(rank), {"image"}), tmp_path
    ):
        assert sizes == {"image": [2, 5], "flag": [2, 5], "number": [3, 6]}
        for rank, part in enumerate(parts):
            assert list(part) == ["flag", "number"]
            assert all(torch.equal(rows, batch_of(rank)[name]) for name, rows in part.items())


# ---- shares of batches -----------------------------------------------------------------------------


@given(n=st.integers(1, 40), n_processes=st.integers(1, 8))
def test_shares_are_the_batch(n: int, n_processes: int) -> None:
    batches = FixedBatches([np.arange(n)])
    shares = [Shares(batches, rank, n_processes) for rank in range(n_processes)]
    assert {len(share) for share in shares} == {1}
    if n < n_processes:
        for share in shares:
            with pytest.raises(InputValueError, match="cannot be shared"):
                share.check()
        return
    parts = [next(iter(share)) for share in shares]
    assert np.array_equal(np.concatenate(parts), np.arange(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def make_neighbourhoods(rank: int, n_processes: int) -> NeighbourhoodDataModule:
    n_spots = 49
    rng = np.random.default_rng(0)
    expression = ExpressionBank(
        values=rng.normal(size=(n_spots, 3)).astype(np.float32),
        measured=np.ones((1, 3), bool),
        slide_of_row=np.zeros(n_spots, np.int64),
        genes=("a", "b", "c"),
        slides=("slide",),
    )
    centers = np.stack(np.divmod(np.arange(n_spots), 7), axis=1) * 200.0
    split = {"train": np.arange(40), "validation": np.arange(40, 49)}
    tiles = rng.integers(0, 256, (n_spots, 3, 4, 4), dtype=np.uint8)
    data = NeighbourhoodDataModule(tiles, expression, split, [centers], batch_size=16, group_size=4)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=n_processes)  # type: ignore[assignment]
    return data


def test_neighbourhoods_of_all_processes_are_those_of_one() -> None:
    encoder, spec = build_backbone(make_network())
    plan = NH2STPlan(NH2STModule(encoder, n_features=spec.n_features, n_genes=3, n_latent=8))
    for loader in ("train_dataloader", "val_dataloader"):
        whole = list(getattr(make_neighbourhoods(0, 1), loader)())
        shares = [list(getattr(make_neighbourhoods(rank, 2), loader)()) for rank in range(2)]
        for batch, *parts in zip(whole, *shares, strict=True):
            joined = plan.join(parts, [len(part["image"]) for part in parts])
            assert all(torch.equal(joined[name], rows) for name, rows in batch.items())


# ---- fits --------------------------------------------------------------------------------------------


def make_network() -> nn.Module:
    """Build an encoder without batch normalisation, whose statistics are those of one process."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4),
        nn.GELU(),
        nn.Conv2d(8, 16, 2, stride=2),
        nn.GroupNorm(4, 16),
        nn.GELU(),
    )


def make_model(method: type[Any], slides: Any, fine_tune: str = "full") -> Any:
    method.setup_spatialdata(slides)
    return method(
        slides, backbone=make_network(), genes=12, seed=1, tile_px=32, fine_tune=fine_tune
    )


def fitted(method: type[Any], slides: Any, fine_tune: str = "full", **train: Any) -> Any:
    model = make_model(method, slides, fine_tune)
    model.train(**(TRAIN | train))
    return model


def assert_same(model: Any, other: Any, atol: float = 1e-5) -> None:
    for name, tensor in model.module.state_dict().items():
        assert torch.allclose(tensor, other.module.state_dict()[name], rtol=0, atol=atol), name
    assert set(model.history) == set(other.history)
    for name, column in model.history.items():
        assert np.allclose(column.astype(float), other.history[name].astype(float), atol=1e-5), name


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_two_processes_and_chunks_train_what_one_trains(
    method: type[Any], settings: dict[str, Any], slides: list[Any]
) -> None:
    one = fitted(method, slides, **settings)
    assert one.trainer.global_step == 10
    start = make_model(method, slides).module.state_dict()
    moved = (one.module.state_dict()[name] - start[name] for name in start)
    assert max(float(change.abs().max()) for change in moved) > 1e-3
    assert_same(fitted(method, slides, **settings, **MANY), one)
    chunks = {"plan_kwargs": {"chunk_size": 3}}
    assert_same(fitted(method, slides, **settings, **MANY, **chunks), one)


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_heads_on_kept_features_train_the_same_on_two_processes(
    method: type[Any], settings: dict[str, Any], slides: list[Any]
) -> None:
    one, many = (fitted(method, slides, "none", **settings, **how) for how in ({}, MANY))
    assert_same(many, one)


@pytest.fixture(scope="module")
def uneven() -> list[Any]:
    """Slides of other sizes, of which neither batches nor processes get equal parts."""
    sizes = (22, 53, 45)
    return [
        rbg.datasets.synthetic(n_slides=1, n_spots=n, n_genes=20, seed=i)[0]
        for i, n in enumerate(sizes)
    ]


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_uneven_slides_and_early_stopping_end_alike(
    method: type[Any], settings: dict[str, Any], uneven: list[Any]
) -> None:
    how = {"max_epochs": 2, "batch_size": 10, "early_stopping": True, "early_stopping_patience": 1}
    one, many = (fitted(method, uneven, **settings, **how, **more) for more in ({}, MANY))
    assert_same(many, one, atol=1e-4)


def test_a_callback_of_one_process_stops_all(uneven: list[Any]) -> None:
    class Second(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_rank == 1 and trainer.current_epoch == 1

    model = fitted(rbg.model.RankByGene, uneven, max_epochs=4, callbacks=[Second()], **MANY)
    assert len(model.history["train_loss"]) == 2
    assert model.is_trained_


def test_a_part_that_no_loss_reaches_and_early_stopping_do_not_hold_processes_up(
    slides: list[Any],
) -> None:
    settings = {
        "max_epochs": 3,
        "early_stopping": True,
        "early_stopping_patience": 1,
        "monitor": "validation_distillation",
        "plan_kwargs": {"weights": {"expression": 0.0, "contrast": 0.0}, "lr": 0.1},
    }
    one, many = (fitted(rbg.model.RankByGene, slides, **settings, **how) for how in ({}, MANY))
    assert len(one.history["train_loss"]) == len(many.history["train_loss"])


def test_tiles_alone_train_the_same_on_two_processes(slides: list[Any]) -> None:
    def pretrained(**how: Any) -> Any:
        return rbg.model.pretrain(
            slides[:1], make_network(), tile_px=32, step_um=200, **TRAIN, **how
        )

    one, many = pretrained(), pretrained(**MANY)
    for name, tensor in one.network.state_dict().items():
        assert torch.allclose(tensor, many.network.state_dict()[name], rtol=0, atol=1e-5), name


SCRIPT = """
import sys
import rankbygene as rbg
sys.path.insert(0, sys.argv[1])
from test_distributed import METHODS, fitted
slides = rbg.datasets.synthetic(n_slides=3, n_spots=40, n_genes=30, seed=3)
for method, settings in METHODS:
    model = fitted(method, slides, devices=2, strategy=sys.argv[3], **settings)
    if model.trainer.is_global_zero:
        model.save(sys.argv[2] + method.method)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "strategy"),
    [
        (["-m", "torch.distributed.run", "--nproc-per-node=2"], "ddp"),
        ([], "fsdp"),
    ],
)
def test_a_script_trains_on_two_processes(
    launcher: list[str], strategy: str, slides: list[Any], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    out = tmp_path / "model"
    arguments = [str(Path(__file__).parent), str(out), strategy]
    subprocess.run(
        [sys.executable, *launcher, str(script), *arguments], check=True, cwd=tmp_path, timeout=600
    )
    for method, settings in METHODS:
        loaded = method.load(f"{out}{method.method}", backbone=make_network())
        assert_same(loaded, fitted(method, slides, **settings))


# ---- what cannot be done -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"strategy": "ddp_spawn"}, "ddp_notebook"),
        ({"strategy": "deepspeed"}, "'fsdp'"),
        ({"strategy": "fsdp", "devices": "auto"}, "pass a number"),
    ],
)
def test_strategies_that_cannot_work_are_refused(
    settings: dict[str, Any], match: str, slides: list[Any]
) -> None:
    with pytest.raises(InputValueError, match=match):
        fitted(rbg.model.RankByGene, slides, **({"devices": 2} | settings))


def test_a_batch_of_one_patch_is_not_shared(slides: list[Any]) -> None:
    with pytest.raises(Exception, match="cannot be shared by 2 devices"):
        fitted(rbg.model.NH2ST, slides, **MANY)


def test_synchronised_layers_keep_activations_and_are_put_back() -> None:
    import timm

    network = timm.create_model("test_resnet", num_classes=0).eval()
    kinds = [type(layer) for layer in network.modules()]
    images = torch.randn(2, 3, 32, 32)
    before = network(images)
    sync = SyncBatchNorm()
    synced = sync.apply(network)
    layers = [layer for layer in synced.modules() if isinstance(layer, nn.SyncBatchNorm)]
    assert layers
    assert torch.equal(synced(images), before)
    layers[0].running_mean = layers[0].running_mean + 1
    shifted = synced(images)
    network = sync.revert(synced)
    assert [type(layer) for layer in network.modules()] == kinds
    assert torch.equal(network(images), shifted)
    assert not torch.equal(shifted, before)
