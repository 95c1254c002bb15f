from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rankbygene.data import ExpressionBank, NeighbourhoodDataModule, SpatialDataModule
from rankbygene.errors import InputValueError, TrainingError
from rankbygene.module import NH2STModule, RankByGeneModule
from rankbygene.nn import build_backbone
from rankbygene.train import (
    FiniteLoss,
    NH2STPlan,
    RankByGenePlan,
    SpotPlan,
    encoders_for_training,
    find_batch_size,
)

N_SPOTS, N_GENES, PX = 64, 6, 32
# What makes the host wait for the device, or would if there were one.
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}


def make_plan(method: str, backbone: str = "test_vit") -> SpotPlan:
    torch.manual_seed(0)
    encoder, spec = build_backbone(backbone, pretrained=False, tile_px=PX)
    if method == "rankbygene":
        module = RankByGeneModule(encoder, n_features=spec.n_features, n_genes=N_GENES)
        return RankByGenePlan(module)
    return NH2STPlan(
        NH2STModule(encoder, n_features=spec.n_features, n_genes=N_GENES, n_latent=16, n_hidden=16)
    )


def make_data(method: str, batch_size: int = 16) -> SpatialDataModule:
    rng = np.random.default_rng(0)
    expression = ExpressionBank(
        values=rng.normal(size=(N_SPOTS, N_GENES)).astype(np.float32),
        measured=np.ones((1, N_GENES), bool),
        slide_of_row=np.zeros(N_SPOTS, np.int64),
        genes=tuple(f"gene{i}" for i in range(N_GENES)),
        slides=("slide",),
    )
    tiles = rng.integers(0, 256, (N_SPOTS, 3, PX, PX), dtype=np.uint8)
    rows = {"train": np.arange(N_SPOTS)}
    if method == "rankbygene":
        return SpatialDataModule(tiles, expression, rows, batch_size=batch_size)
    centers = np.stack(np.divmod(np.arange(N_SPOTS), 8), axis=1) * 200.0
    return NeighbourhoodDataModule(
        tiles, expression, rows, [centers], batch_size=batch_size, group_size=8
    )


def fit(plan: SpotPlan, data: SpatialDataModule, *callbacks: pl.Callback, **kwargs: Any) -> None:
    pl.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **({"accelerator": "cpu", "max_epochs": 2} | kwargs),
    ).fit(plan, data)


class CountWaits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in WAITS:
            self.found.append(func._schema.name)
        return func(*args, **(kwargs or {}))


class Watch(pl.Callback):
    """Count from the moment that a batch is on its device until its step is over."""

    def __init__(self) -> None:
        self.mode = CountWaits()
        self.n_steps = 0

    def on_train_batch_start(self, *args: Any) -> None:
        self.mode.__enter__()

    def on_train_batch_end(self, *args: Any) -> None:
        self.mode.__exit__(None, None, None)
        self.n_steps += 1


@pytest.mark.parametrize("method", ["rankbygene", "nh2st"])
def test_no_step_of_training_waits_for_the_device(method: str) -> None:
    watch = Watch()
    with watch.mode:
        torch.ones(1).item()
    assert watch.mode.found == ["aten::_local_scalar_dense"]
    watch.mode.found.clear()
    fit(make_plan(method), make_data(method), FiniteLoss(), watch)
    assert watch.n_steps >= 8
    assert watch.mode.found == []


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["rankbygene", "nh2st"])
def test_no_step_on_a_gpu_waits_for_it(method: str) -> None:
    class Strict(pl.Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            torch.cuda.set_sync_debug_mode("error")

        def on_train_batch_end(self, *args: Any) -> None:
            torch.cuda.set_sync_debug_mode("default")

    # The first steps fill what later ones reuse.
    fit(make_plan(method), make_data(method), accelerator="gpu")
    fit(make_plan(method), make_data(method), FiniteLoss(), Strict(), accelerator="gpu")


@pytest.mark.parametrize("method", ["rankbygene", "nh2st"])
def test_checkpointed_and_compiled_encoders_give_the_same_gradients(method: str) -> None:
    batch = next(iter(make_data(method).train_dataloader()))
    gradients = []
    for options in ({}, {"gradient_checkpointing": True}):
        plan = make_plan(method).train()
        with encoders_for_training(plan.module, **options):
            terms = plan.losses(batch, torch.Generator().manual_seed(0))
            torch.stack(list(terms.values())).sum().backward()
        gradients.append([p.grad for p in plan.module.parameters() if p.grad is not None])
        assert not plan.module.encoders[0].network.grad_checkpointing
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_compiling_is_of_the_fit_alone(monkeypatch: Any) -> None:
    plan = make_plan("rankbygene")
    before = set(plan.module.state_dict())
    compiled: list[Any] = []

    def compiling(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            compiled.append(function)
            return function(*args)

        return run

    monkeypatch.setattr(torch, "compile", compiling)
    (batch,) = [next(iter(make_data("rankbygene").train_dataloader()))]
    with encoders_for_training(plan.module, compile=True):
        plan.losses(batch, plan.generator)
        assert {f.__self__ for f in compiled} == set(plan.module.encoders)
        assert set(plan.module.state_dict()) == before
    assert all("forward" not in vars(encoder) for encoder in plan.module.encoders)


def test_an_encoder_that_cannot_compute_again_is_named() -> None:
    encoder, spec = build_backbone(torch.nn.Flatten(), tile_px=PX)
    module = RankByGeneModule(encoder, n_features=3 * PX * PX, n_genes=N_GENES)
    with (
        pytest.raises(InputValueError, match="gradient_checkpointing"),
        encoders_for_training(module, gradient_checkpointing=True),
    ):
        pass


@pytest.mark.parametrize(("room", "expected"), [(40, 32), (63, 32), (1000, 64), (4, None)])
def test_the_largest_batch_that_fits_is_found(
    room: int, expected: int | None, monkeypatch: Any
) -> None:
    plan = make_plan("rankbygene", "test_resnet").train()
    before = {name: value.clone() for name, value in plan.module.state_dict().items()}
    losses = plan.losses

    def limited(batch: Any, generator: torch.Generator) -> Any:
        terms = losses(batch, generator)
        if len(batch["spot"]) > room:
            raise torch.OutOfMemoryError
        return terms

    monkeypatch.setattr(plan, "losses", limited)

    def first(size: int) -> Any:
        return next(iter(make_data("rankbygene", size).train_dataloader()))

    if expected is None:
        with pytest.raises(TrainingError, match="does not fit"):
            find_batch_size(plan, first, largest=N_SPOTS)
    else:
        assert find_batch_size(plan, first, largest=N_SPOTS) == expected
    assert all(torch.equal(before[n], value) for n, value in plan.module.state_dict().items())
    assert all(p.grad is None for p in plan.module.parameters())
