from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from rankbygene.errors import TrainingError
from rankbygene.module import RankByGeneModule
from rankbygene.nn import orientations
from rankbygene.train import (
    RELEASED,
    BestWeights,
    FiniteLoss,
    RankByGenePlan,
    default_momentum,
    fit_head,
    momentum_schedule,
    strong_view,
    update_teacher,
    weak_view,
)
from rankbygene.train._ema import StartlessAverage
from rankbygene.train._optimizer import warmup_cosine

N_GENES = 4


def make_module(head: str = "joint", scaling: str = "standard") -> RankByGeneModule:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return RankByGeneModule(
        backbone,
        n_features=6,
        n_genes=N_GENES,
        head=head,  # type: ignore[arg-type]
        scaling=scaling,  # type: ignore[arg-type]
    )


def make_batches(n: int = 4, size: int = 8, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.randint(
                0, 256, (size, 3, 16, 16), dtype=torch.uint8, generator=generator
            ),
            "expression": torch.randn(size, N_GENES, generator=generator),
            "measured": torch.ones(size, N_GENES, dtype=torch.bool),
            "slide": torch.zeros(size, dtype=torch.int64),
            "spot": torch.arange(size),
        }
        for _ in range(n)
    ]


def run(plan: RankByGenePlan, batches: list[Any] | None = None, **kwargs: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"max_epochs": 2} | kwargs),
    )
    loaders = [
        DataLoader(b, batch_size=None) for b in (batches or make_batches(), make_batches(2, seed=9))
    ]
    trainer.fit(plan, *loaders)
    return trainer


# ---- views ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [weak_view, strong_view])
def test_views_reach_all_eight_orientations_equally(view: Callable[..., torch.Tensor]) -> None:
    tile = torch.arange(9.0).view(1, 1, 3, 3).expand(1, 3, 3, 3) / 20 + 0.3
    known = [v[0, 0] for v in orientations(tile)]
    assert len({tuple(v.flatten().tolist()) for v in known}) == 8
    kwargs = {"jitter": 0.0, "grayscale": 0.0} if view is strong_view else {}
    batch = view(tile.expand(800, 3, 3, 3), torch.Generator().manual_seed(0), **kwargs)
    counts = [int((batch[:, 0] == one).all((1, 2)).sum()) for one in known]
    assert sum(counts) == 800
    assert min(counts) > 65


def test_released_views_never_meet() -> None:
    tile = torch.arange(9.0).view(1, 1, 3, 3).expand(400, 3, 3, 3) / 20 + 0.3
    reached = []
    for view, settings in ((strong_view, {"jitter": 0.0, "grayscale": 0.0}), (weak_view, {})):
        batch = view(tile, torch.Generator().manual_seed(0), orientation="released", **settings)
        reached.append({tuple(one[0].flatten().tolist()) for one in batch})
    known = {tuple(one[0, 0].flatten().tolist()) for one in orientations(tile[:1])}
    assert [len(one) for one in reached] == [4, 4]
    assert reached[0] | reached[1] == known


def test_strong_views_change_colours_image_by_image_and_repeat() -> None:
    images = torch.rand(1, 3, 8, 8).expand(64, 3, 8, 8)
    first, again = (strong_view(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    means = first.mean((2, 3))
    assert len({tuple(row.tolist()) for row in means.round(decimals=4)}) > 40
    gray = (first.amax(1) - first.amin(1)).amax((1, 2)) < 1e-5
    assert 3 <= int(gray.sum()) <= 28


# ---- teacher -------------------------------------------------------------------------------------


def test_momentum_schedule_and_average() -> None:
    values = [momentum_schedule(epoch, 100, 0.96) for epoch in range(100)]
    assert values[0] == pytest.approx(0.96)
    assert values[50] == pytest.approx(0.98031732, abs=1e-8)
    assert values[98] == pytest.approx(0.99998993, abs=1e-8)
    assert values[99] == 1
    assert np.prod(values) == pytest.approx(0.1312, abs=1e-4)
    teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.zeros_(teacher.weight)
    student.running_mean += 5
    for _ in range(3):
        update_teacher(teacher, student, 0.9)
    assert torch.allclose(teacher.weight, torch.full((2,), 0.271))
    assert torch.equal(teacher.running_mean, student.running_mean)


@pytest.mark.parametrize("n", [2, 3, 10, 20, 50, 199, 300, 1000, 5000, 100_000])
def test_the_teacher_forgets_where_it_started(n: int) -> None:
    start = default_momentum(n)
    assert 0 <= start <= 0.996
    left = np.prod([momentum_schedule(step, n, start) for step in range(n)])
    assert left <= min(np.exp(-10), np.exp(-(1 - start) * n / 2))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_the_corrected_average_is_that_of_what_the_updates_brought(momenta: list[float]) -> None:
    weights = np.zeros(len(momenta))
    for step, momentum in enumerate(momenta):
        weights *= momentum
        weights[step] = 1 - momentum
    average, found = StartlessAverage(), 100.0
    for step, momentum in enumerate(momenta):
        share = average(momentum)
        assert 0 <= share <= 1
        found = share * found + (1 - share) * step
    assert average.start_share == pytest.approx(np.prod(momenta))
    if weights.sum() > 1e-6:
        assert found == pytest.approx(weights @ np.arange(len(momenta)) / weights.sum(), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "trainer", "updates"),
    [
        ({}, {}, 8),
        ({}, {"accumulate_grad_batches": 2}, 4),
        ({"ema_every": "epoch"}, {}, 2),
    ],
    ids=["step", "accumulated", "epoch"],
)
def test_the_teacher_moves_with_the_optimiser(
    settings: dict[str, Any], trainer: dict[str, Any], updates: int
) -> None:
    plan = RankByGenePlan(make_module(), **settings)
    run(plan, **trainer)
    assert plan.n_updates == updates


# ---- losses in training --------------------------------------------------------------------------


def test_every_term_is_logged_and_reaches_its_part() -> None:
    plan = RankByGenePlan(make_module())
    trainer = run(plan, max_epochs=1)
    terms = {"loss", "contrast", "ranking", "distillation", "expression"}
    assert {f"{part}_{term}" for part in ("train", "validation") for term in terms} <= set(
        trainer.callback_metrics
    )
    assert "validation_pearson" in trainer.callback_metrics
    plan = RankByGenePlan(make_module())
    (batch,) = make_batches(1)
    sum(plan.losses(batch, torch.Generator().manual_seed(0)).values()).backward()
    module = plan.module
    for part in (
        module.student.backbone,
        module.student.projection,
        module.student.predictor,
        module.gene_encoder,
    ):
        assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part.parameters())
    assert all(p.grad is None for p in module.teacher.parameters())


def test_validation_repeats_and_leaves_torch_alone() -> None:
    plan = RankByGenePlan(make_module()).eval()
    (batch,) = make_batches(1)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    values = []
    for _ in range(2):
        plan.on_validation_epoch_start()
        terms = plan.losses(batch, plan.validation_generator)
        values.append(torch.stack(list(terms.values())))
    assert torch.equal(values[0], values[1])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("detach", [True, False])
def test_genes_lead_where_they_are_detached(detach: bool) -> None:
    plan = RankByGenePlan(
        make_module(),
        weights={"contrast": 0, "distillation": 0, "expression": 0},
        detach_gene=detach,
    )
    terms = plan.losses(make_batches(1)[0], torch.Generator().manual_seed(0))
    assert list(terms) == ["ranking"]
    terms["ranking"].backward()
    moved = any(p.grad is not None for p in plan.module.gene_encoder.parameters())
    assert moved is not detach
    assert any(p.grad is not None for p in plan.module.student.parameters())


def test_unmeasured_genes_are_left_out() -> None:
    plan = RankByGenePlan(make_module())
    (batch,) = make_batches(1)
    batch["measured"][:, 1] = False
    changed = {**batch, "expression": batch["expression"].clone()}
    changed["expression"][:, 1] = 100
    values = []
    for one in (batch, changed):
        values.append(plan.losses(one, torch.Generator().manual_seed(0)))
    for name in values[0]:
        assert torch.equal(values[0][name], values[1][name]), name


def test_a_frozen_head_takes_no_part_and_released_settings_train() -> None:
    plan = RankByGenePlan(make_module("frozen"), **RELEASED)
    assert plan.weights["expression"] == 0
    trainer = run(plan, max_epochs=1)
    assert "train_expression" not in trainer.callback_metrics
    assert torch.isfinite(trainer.callback_metrics["train_loss"])
    with pytest.raises(ValueError, match="'step', 'epoch'"):
        RankByGenePlan(make_module(), ema_every="never")  # type: ignore[arg-type]


def test_one_seed_one_result() -> None:
    states = []
    for seed in (1, 1, 2):
        plan = RankByGenePlan(make_module(), seed=seed)
        torch.manual_seed(5)
        run(plan)
        states.append(plan.module.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_learning_rate_rises_then_falls() -> None:
    factors = [warmup_cosine(step, n_warmup=10, n_steps=100) for step in range(101)]
    assert np.argmax(factors) == 10
    assert factors[10] == 1
    assert factors[100] == pytest.approx(0, abs=1e-9)
    assert min(factors) >= 0
    assert warmup_cosine(0, n_warmup=0, n_steps=1) == 1


# ---- callbacks -----------------------------------------------------------------------------------


class Scripted(pl.Callback):
    """Replaces the monitored value, and marks the epoch in a buffer."""

    def __init__(self, values: list[float], stop_at: int | None = None) -> None:
        self.values, self.stop_at = values, stop_at

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        trainer.callback_metrics["score"] = torch.tensor(self.values[epoch])
        pl_module.module.expression_mean.fill_(epoch)
        if epoch == self.stop_at:
            raise RuntimeError("broken")


def test_the_best_epoch_is_put_back() -> None:
    plan = RankByGenePlan(make_module())
    best = BestWeights("score")
    run(plan, max_epochs=3, callbacks=[Scripted([3.0, 1.0, 2.0]), best])
    assert best.best_epoch == 1
    assert torch.equal(plan.module.expression_mean, torch.full((N_GENES,), 1.0))


def test_the_best_epoch_survives_a_failure() -> None:
    plan = RankByGenePlan(make_module())
    with pytest.raises(RuntimeError, match="broken"):
        run(
            plan,
            max_epochs=3,
            callbacks=[BestWeights("score"), Scripted([1.0, 2.0, 3.0], stop_at=2)],
        )
    # The callback copies before the script marks the epoch, so the first copy is of the start.
    assert torch.equal(plan.module.expression_mean, torch.zeros(N_GENES))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_best_epoch_survives_an_interruption(error: type[BaseException]) -> None:
    class Interrupting(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.module.expression_mean.fill_(7)
                raise error

    plan = RankByGenePlan(make_module())
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        run(plan, max_epochs=3, callbacks=[BestWeights(), Interrupting()])
    assert torch.equal(plan.module.expression_mean, torch.zeros(N_GENES))


def test_a_broken_loss_is_named_with_its_step() -> None:
    batches = make_batches(6)
    batches[3]["expression"][0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"step 4: .*expression"):
        run(
            RankByGenePlan(make_module(), weights={"contrast": 0, "ranking": 0, "distillation": 0}),
            batches,
            callbacks=[FiniteLoss()],
        )


# ---- scores and the frozen head ------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["standard", "spot"])
def test_the_frozen_head_learns_and_repeats(scaling: str) -> None:
    generator = torch.Generator().manual_seed(0)
    features = 3 + 5 * torch.randn(200, 6, generator=generator)
    if scaling == "spot":  # what it cannot see: the level and spread of a spot
        features[:, 0], features[:, 1] = -40, 40
    targets = features @ torch.randn(6, N_GENES, generator=generator)
    measured = torch.ones(200, N_GENES, dtype=torch.bool)
    measured[:, 3] = False
    train, validation = torch.arange(150), torch.arange(150, 200)
    predictions, histories = [], []
    for broken in (0.0, 1e6):
        module = make_module("frozen", scaling)
        module.set_expression_stats(targets.mean(0), targets.std(0))
        noisy = targets.clone()
        noisy[:, 3] += broken
        torch.manual_seed(int(broken))
        before = torch.get_rng_state()
        histories.append(
            fit_head(module, features, noisy, measured, train=train, validation=validation, lr=1e-3)
        )
        predictions.append(module.predict_from_features(features))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(predictions[0], predictions[1])
    error = (predictions[0] - targets)[validation][:, :3].square().mean(0)
    assert bool((error < 0.2 * targets[validation][:, :3].var(0)).all())
    assert histories[0]["validation_loss"].min() < 0.5 * histories[0]["validation_loss"].iloc[0]
