from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal, cast

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rankbygene.errors import TrainingError
from rankbygene.train import BestWeights, FiniteLoss


class Plan(pl.LightningModule):
    """Logs a score where the plan of the package logs its correlation; weights are the epoch."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.module = nn.Linear(1, 1)
        self.scores = scores

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.module(batch[0]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        nn.init.constant_(self.module.weight, self.current_epoch)

    def on_validation_epoch_end(self) -> None:
        self.log("score", torch.tensor(self.scores[self.current_epoch]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(plan: Plan, *callbacks: pl.Callback) -> None:
    loader = DataLoader(TensorDataset(torch.ones(2, 1)))
    pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=len(plan.scores),
        callbacks=list(callbacks),
    ).fit(plan, loader, loader)


@pytest.mark.parametrize(("mode", "epoch"), [("min", 3), ("max", 1)])
def test_the_epoch_whose_own_score_is_best_is_kept(mode: Literal["min", "max"], epoch: int) -> None:
    plan, best = Plan([2.0, 5.0, 3.0, 1.0, 4.0]), BestWeights("score", mode)
    fit(plan, best)
    assert best.best_epoch == epoch
    assert plan.module.weight.item() == epoch


def test_a_score_that_is_not_a_number_is_never_best() -> None:
    plan, best = Plan([float("nan"), 2.0, float("nan")]), BestWeights("score")
    fit(plan, best)
    assert best.best_epoch == 1
    assert plan.module.weight.item() == 1


def test_an_unknown_monitor_leaves_the_last_weights() -> None:
    plan, best = Plan([1.0, 2.0]), BestWeights("other")
    with pytest.warns(UserWarning, match="the last weights are kept"):
        fit(plan, best)
    assert best.best_epoch is None


def test_the_best_weights_survive_an_exception() -> None:
    class Failing(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                raise RuntimeError("broken")

    plan = Plan([3.0, 1.0, 2.0])
    with pytest.raises(RuntimeError, match="broken"):
        fit(plan, BestWeights("score"), Failing())
    assert plan.module.weight.item() == 1


def watch(callback: FiniteLoss, steps: list[dict[str, float]]) -> None:
    for step, terms in enumerate(steps, 1):
        trainer = cast("pl.Trainer", SimpleNamespace(global_step=step))
        outputs = {name: torch.tensor(value) for name, value in terms.items()}
        callback.on_train_batch_end(trainer, None, outputs, None, step)


def test_the_first_broken_step_and_its_terms_are_named() -> None:
    nan, inf = float("nan"), float("inf")
    fine = {"loss": 1.0, "contrast": 1.0, "ranking": 0.0}
    steps = [
        fine,
        {"loss": inf, "contrast": 1.0, "ranking": inf},
        {"loss": nan, "contrast": nan, "ranking": nan},
    ]
    with pytest.raises(TrainingError, match=r"step 2: ranking\."):
        watch(FiniteLoss(every=3), steps)
    with pytest.raises(TrainingError, match=r"step 2: loss\."):
        watch(FiniteLoss(every=2), [fine, fine | {"loss": nan}])


def test_losses_wait_until_looked_at() -> None:
    callback = FiniteLoss(every=10)
    watch(callback, [{"loss": float("nan")}])
    with pytest.raises(TrainingError, match="step 1: loss"):
        callback.on_train_epoch_end(cast("pl.Trainer", None), None)
    callback.on_train_epoch_end(cast("pl.Trainer", None), None)
