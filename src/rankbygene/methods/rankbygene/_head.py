"""The paper's way to predict expression: a perceptron on finished features."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import cast

import pandas as pd
import torch

from rankbygene._arguments import checked
from rankbygene.base.spots._plan import measured_error
from rankbygene.errors import TrainingError
from rankbygene.methods.rankbygene._module import RankByGeneModule
from rankbygene.nn import ExpressionMLP
from rankbygene.train._callbacks import check_weights

__all__ = ["GIVEN", "fit_head"]

# What a model gives to it.
GIVEN = ("module", "features", "targets", "measured", "train", "validation", "seed")


@checked
def fit_head(
    module: RankByGeneModule,
    features: torch.Tensor,
    targets: torch.Tensor,
    measured: torch.Tensor,
    *,
    train: torch.Tensor,
    validation: torch.Tensor,
    max_epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-4,
    weight_decay: float = 0.0,
    patience: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Train the teacher's predictor on features that no longer change.

    Parameters
    ----------
    module
        Its teacher's predictor is trained in place.
    features, targets, measured
        ``[n, n_features]``, expression ``[n, n_genes]`` on the training scale, and where it was
        measured.
    train, validation
        Rows. With validation rows the best epoch's weights are kept and training stops after
        ``patience`` epochs without a better one.
    max_epochs, batch_size, lr, weight_decay
        Of AdamW.
    seed
        Of the order of the spots and of dropout; torch's own random state stays as it was.

    Returns
    -------
    ``train_loss`` and ``validation_loss`` per epoch: mean squared error of standardised genes.

    Raises
    ------
    TrainingError
        A loss or a weight was not finite.

    References
    ----------
    :cite:p:`huang2024rankbygene`
    """
    device = module.expression_mean.device
    features, measured = features.to(device), measured.to(device)
    train, validation = train.to(device), validation.to(device)
    targets = module.standardize(targets.to(device))
    predictor = cast("ExpressionMLP", module.teacher.predictor).requires_grad_(True)
    predictor.scale.fit(features[train])
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=lr, weight_decay=weight_decay)
    error = partial(_error, predictor, features, targets, measured)
    order = torch.Generator().manual_seed(seed)
    history: list[dict[str, float]] = []
    before = copy.deepcopy(predictor.state_dict())
    best, best_state, best_epoch = math.inf, None, 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for epoch in range(max_epochs):
            loss = _train_epoch(predictor, optimizer, error, train, batch_size, order)
            history.append({"train_loss": loss})
            _check(loss, "training", epoch, predictor, before)
            if not len(validation):
                continue
            loss = _evaluate(predictor, error, validation)
            history[-1]["validation_loss"] = loss
            _check(loss, "validation", epoch, predictor, before)
            if loss < best:
                best, best_state, best_epoch = loss, copy.deepcopy(predictor.state_dict()), epoch
            if epoch - best_epoch >= patience:
                break
    if best_state is not None:
        predictor.load_state_dict(best_state)
    check_weights(predictor.state_dict(), "in the prediction head")
    predictor.eval().requires_grad_(False)
    return pd.DataFrame(history).rename_axis("epoch")


def _check(
    loss: float, part: str, epoch: int, predictor: ExpressionMLP, before: dict[str, torch.Tensor]
) -> None:
    if math.isfinite(loss):
        return
    predictor.load_state_dict(before)
    predictor.eval().requires_grad_(False)
    msg = (
        f"the {part} loss of the prediction head is not finite in epoch {epoch}; lower its learning "
        "rate (`head_kwargs={'lr': ...}`)"
    )
    raise TrainingError(msg)


def _error(
    predictor: ExpressionMLP,
    features: torch.Tensor,
    targets: torch.Tensor,
    measured: torch.Tensor,
    rows: torch.Tensor,
) -> torch.Tensor:
    return measured_error(predictor(features[rows]), targets[rows], measured[rows])


def _train_epoch(
    predictor: ExpressionMLP,
    optimizer: torch.optim.Optimizer,
    error: Callable[[torch.Tensor], torch.Tensor],
    rows: torch.Tensor,
    batch_size: int,
    order: torch.Generator,
) -> float:
    predictor.train()
    losses = []
    shuffled = rows[torch.randperm(len(rows), generator=order).to(rows.device)]
    for batch in torch.split(shuffled, batch_size):
        loss = error(batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.detach() * (len(batch) / len(rows)))
    return float(torch.stack(losses).sum())


@torch.no_grad()
def _evaluate(
    predictor: ExpressionMLP, error: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor
) -> float:
    predictor.eval()
    return float(error(rows))
