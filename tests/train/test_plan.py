from __future__ import annotations

import copy
import math
from typing import Any, Literal

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from rankbygene.errors import InputValueError
from rankbygene.module import RankByGeneModule
from rankbygene.train import RELEASED, RankByGenePlan, momentum_schedule

N_GENES = 4
TERMS = ("contrast", "ranking", "distillation", "expression")


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
    weights = {name: float(name == only) for name in TERMS}
    metrics = fit(RankByGenePlan(make_module(), weights=weights), max_epochs=1).callback_metrics
    logged = {f"{part}_{name}" for part in ("train", "validation") for name in ("loss", only)}
    if only == "expression":
        logged.add("validation_pearson")
    assert set(metrics) == logged
    assert metrics["train_loss"] == pytest.approx(float(metrics[f"train_{only}"]))


def test_the_loss_is_the_weighted_sum() -> None:
    plan = RankByGenePlan(
        make_module(),
        weights={"contrast": 2, "ranking": 3, "distillation": 0.5, "expression": 7},
    )
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


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_every_loss_of_a_small_validation_batch_is_defined(
    n: int, variant: Literal["paper", "released"]
) -> None:
    plan = RankByGenePlan(make_module(), n_shifts=5, ranking_variant=variant).eval()
    (batch,) = make_batches(1, size=n)
    terms = plan.losses(batch, torch.Generator().manual_seed(0))
    assert set(terms) == set(TERMS)
    assert all(bool(term.isfinite()) for term in terms.values())
    values = {name: float(term.detach()) for name, term in terms.items()}
    assert n >= 3 or values["ranking"] == 0
    assert n < 3 or values["ranking"] > 0 or variant == "released"
    assert n > 1 or values["contrast"] == values["distillation"] == 0
    plan.judge(batch)
    if 3 <= n <= 5 and variant == "paper":  # fewer spots than shifts: all triplets
        every = RankByGenePlan(make_module(), n_shifts=None).eval()
        all_terms = every.losses(batch, torch.Generator().manual_seed(0))
        assert torch.equal(terms["ranking"], all_terms["ranking"])


def test_means_over_uneven_batches_count_spots() -> None:
    plan = RankByGenePlan(make_module())
    small, large = make_batches(1, size=2)[0], make_batches(1, size=7)[0]
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (metrics,) = trainer.validate(plan, DataLoader([small, large], batch_size=None), verbose=False)  # type: ignore[arg-type]
    plan.eval().on_validation_epoch_start()
    terms = [plan.losses(batch, plan.validation_generator) for batch in (small, large)]
    for name in TERMS:
        expected = (2 * float(terms[0][name].detach()) + 7 * float(terms[1][name].detach())) / 9
        assert metrics[f"validation_{name}"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "smallest"),
    [
        ({}, 3),
        ({"n_shifts": 6}, 7),
        ({"n_shifts": None}, 3),
        ({"weights": {"ranking": 0}, "n_shifts": 6}, 2),
    ],
)
def test_batches_in_which_nothing_can_be_compared_are_refused(
    settings: dict[str, Any], smallest: int
) -> None:
    plan = RankByGenePlan(make_module(), **settings)
    plan.check_sizes(smallest, 0)
    with pytest.raises(InputValueError, match=f"batch_size of {smallest} or more"):
        plan.check_sizes(smallest - 1, 0)
    with pytest.warns(UserWarning, match="1 validation spots"):
        plan.check_sizes(smallest, 1)


def kept_of_the_start(n_batches: int = 4, *, trainer: dict[str, Any], **settings: Any) -> float:
    """Share of its start that the teacher keeps, by a student that stands still."""
    plan = RankByGenePlan(make_module(), lr=0.0, gene_lr=0.0, weight_decay=0.0, **settings)
    weight = plan.module.teacher.predictor.bias
    start = weight.clone()
    weight += 1
    fit(plan, n_batches, **trainer)
    return float((weight - start).mean())


@pytest.mark.parametrize("every", ["step", "epoch"])
@pytest.mark.parametrize("n_updates", [1, 2, 10, 20, 50])
def test_nothing_is_left_of_the_start(n_updates: int, every: Literal["step", "epoch"]) -> None:
    n_batches, epochs = (n_updates, 1) if every == "step" else (1, n_updates)
    kept = kept_of_the_start(n_batches, trainer={"max_epochs": epochs}, ema_every=every)
    assert kept == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("stop", [{"max_steps": 3}, {"max_steps": 7}, {"limit_train_batches": 1}])
@pytest.mark.parametrize("every", ["step", "epoch"])
def test_fits_that_end_before_their_epochs_forget_the_start_too(
    stop: dict[str, int], every: Literal["step", "epoch"]
) -> None:
    settings = {"ema_every": every, "ema_correction": False}
    n_steps = min(stop.get("max_steps", 99), 5 * stop.get("limit_train_batches", 4))
    n_epochs = math.ceil(n_steps / stop.get("limit_train_batches", 4))
    n_updates = n_steps if every == "step" else n_epochs
    kept = kept_of_the_start(trainer={"max_epochs": 5, **stop}, **settings)
    expected = math.prod(momentum_schedule(i, n_updates, 0.0) for i in range(n_updates))
    assert kept == pytest.approx(expected, abs=1e-6)
    assert kept_of_the_start(trainer={"max_epochs": 5, **stop}, ema_every=every) < 1e-6


def test_the_released_average_keeps_what_its_momenta_say() -> None:
    released = {name: value for name, value in RELEASED.items() if name.startswith("ema")}
    kept = kept_of_the_start(1, trainer={"max_epochs": 20}, **released)
    expected = math.prod(momentum_schedule(epoch, 20, 0.96) for epoch in range(20))
    assert kept == pytest.approx(expected, rel=1e-5)
    assert kept > 0.6


def test_an_epoch_is_judged_with_the_teacher_that_it_made() -> None:
    seen = []

    class Look(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                seen.append(pl_module.n_updates)

    fit(RankByGenePlan(make_module(), ema_every="epoch"), callbacks=[Look()])
    assert seen == [1, 2]


def test_a_batch_without_measured_genes_costs_nothing() -> None:
    plan = RankByGenePlan(make_module(), weights={"contrast": 0, "ranking": 0, "distillation": 0})
    (batch,) = make_batches(1)
    batch["measured"][:] = False
    terms = plan.losses(batch, torch.Generator().manual_seed(0))
    assert float(terms["expression"]) == 0


def test_what_was_not_measured_enters_nowhere_not_even_as_nan() -> None:
    found = []
    for unmeasured in (0.0, torch.nan):
        plan = RankByGenePlan(make_module()).eval()
        (batch,) = make_batches(1)
        batch["measured"][:, 1] = False
        batch["measured"][:3, 2] = False
        batch["expression"][~batch["measured"]] = unmeasured
        terms = plan.losses(batch, torch.Generator().manual_seed(0))
        torch.stack(list(terms.values())).sum().backward()
        plan.running_pearson.update(*plan.judge(batch))
        found.append(
            [
                *(term.detach() for term in terms.values()),
                *(p.grad for p in plan.parameters() if p.grad is not None),
                plan.running_pearson.compute(),
            ]
        )
    assert all(torch.equal(zero, nan) for zero, nan in zip(*found, strict=True))
    assert all(bool(value.isfinite().all()) for value in found[0])


def test_the_weight_of_expression_is_ignored_with_a_frozen_head() -> None:
    states = []
    for weight in (0.0, 100.0):
        plan = RankByGenePlan(make_module("frozen"), weights={"expression": weight})
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
