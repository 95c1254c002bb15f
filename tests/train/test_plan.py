from __future__ import annotations

import copy
from typing import Any, Literal

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from rankbygene.module import RankByGeneModule
from rankbygene.train import RELEASED, RankByGenePlan

N_GENES = 4
TERMS = {"contrast": "contrast", "ranking": "alpha", "distillation": "beta", "expression": "gamma"}


def make_module(head: Literal["joint", "frozen"] = "joint") -> RankByGeneModule:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return RankByGeneModule(backbone, n_features=6, n_genes=N_GENES, head=head, n_hidden=8)


def make_batches(n: int = 4, size: int = 8) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shape = (size, 3, 16, 16)
    return [
        {
            "image": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
            "expression": torch.randn(size, N_GENES, generator=generator),
            "measured": torch.ones(size, N_GENES, dtype=torch.bool),
            "slide": torch.arange(size) % 2,
            "spot": torch.arange(size),
        }
        for _ in range(n)
    ]


def fit(plan: RankByGenePlan, n_batches: int = 4, **kwargs: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"max_epochs": 2} | kwargs),
    )
    train, validation = (
        DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        for batches in (make_batches(n_batches), make_batches(2))
    )
    trainer.fit(plan, train, validation)
    return trainer


@pytest.mark.parametrize("only", TERMS)
def test_a_term_without_weight_is_not_computed(only: str) -> None:
    weights = {argument: float(name == only) for name, argument in TERMS.items()}
    metrics = fit(RankByGenePlan(make_module(), **weights), max_epochs=1).callback_metrics  # type: ignore[arg-type]
    logged = {f"{part}_{name}" for part in ("train", "validation") for name in ("loss", only)}
    if only == "expression":
        logged.add("validation_pearson")
    assert set(metrics) == logged
    assert metrics["train_loss"] == pytest.approx(float(metrics[f"train_{only}"]))


def test_the_loss_is_the_weighted_sum() -> None:
    plan = RankByGenePlan(make_module(), contrast=2, alpha=3, beta=0.5, gamma=7)
    metrics = fit(plan, max_epochs=1).callback_metrics
    for part in ("train", "validation"):
        total = sum(plan.weights[name] * float(metrics[f"{part}_{name}"]) for name in TERMS)
        assert float(metrics[f"{part}_loss"]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("n_batches", "settings", "trainer", "updates"),
    [
        (3, {}, {"accumulate_grad_batches": 2}, 4),  # the odd batch is a step of its own
        (4, {"ema_every": "epoch"}, {"accumulate_grad_batches": 2, "max_epochs": 3}, 3),
        (4, {"ema_every": "epoch"}, {"max_epochs": 1}, 1),
    ],
)
def test_updates_are_counted_as_asked(
    n_batches: int, settings: dict[str, Any], trainer: dict[str, Any], updates: int
) -> None:
    plan = RankByGenePlan(make_module(), **settings)
    fit(plan, n_batches, **trainer)
    assert plan.n_updates == updates


@pytest.mark.parametrize(("momentum", "like"), [(0.0, "student"), (1.0, "start")])
def test_the_momentum_decides_where_the_teacher_is(momentum: float, like: str) -> None:
    plan = RankByGenePlan(make_module(), ema_start=momentum, ema_end=momentum)
    start = copy.deepcopy(plan.module.teacher)
    fit(plan)
    expected = start if like == "start" else plan.module.student
    for theirs, other in zip(plan.module.teacher.parameters(), expected.parameters(), strict=True):
        assert torch.equal(theirs, other)
    buffers = zip(plan.module.teacher.buffers(), plan.module.student.buffers(), strict=True)
    assert all(torch.equal(theirs, ours) for theirs, ours in buffers)


def test_a_batch_without_measured_genes_costs_nothing() -> None:
    plan = RankByGenePlan(make_module(), contrast=0, alpha=0, beta=0)
    (batch,) = make_batches(1)
    batch["measured"][:] = False
    terms = plan.losses(batch, torch.Generator().manual_seed(0))
    assert float(terms["expression"]) == 0


def test_gamma_is_ignored_with_a_frozen_head() -> None:
    states = []
    for gamma in (0.0, 100.0):
        plan = RankByGenePlan(make_module("frozen"), gamma=gamma)
        before = copy.deepcopy(plan.module.teacher.predictor.state_dict())
        metrics = fit(plan).callback_metrics
        assert not {"train_expression", "validation_pearson"} & set(metrics)
        after = plan.module.teacher.predictor.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        states.append(plan.module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("head", ["joint", "frozen"])
def test_released_settings_train(head: Literal["joint", "frozen"]) -> None:
    plan = RankByGenePlan(make_module(head), **RELEASED)
    before = copy.deepcopy(plan.module.student.backbone.state_dict())
    trainer = fit(plan)
    assert torch.isfinite(trainer.callback_metrics["train_loss"])
    assert "train_expression" not in trainer.callback_metrics
    assert plan.n_updates == 2
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert rates == [RELEASED["lr"], RELEASED["gene_lr"]]
    after = plan.module.student.backbone.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
