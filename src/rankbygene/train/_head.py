"""The paper's way to predict expression: a perceptron on finished features."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

import pandas as pd
import torch
import torch.nn.functional as F

from rankbygene.module import RankByGeneModule
from rankbygene.nn import ExpressionMLP

__all__ = ["fit_head"]


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
        Of the order of the spots.

    Returns
    -------
    ``train_loss`` and ``validation_loss`` per epoch: mean squared error of standardised genes.

    References
    ----------
    :cite:p:`huang2024rankbygene`; the released code scales each spot's features to [0, 1] where
    this standardises each feature over the training spots.
    """
    device = module.expression_mean.device
    features, measured = features.to(device), measured.to(device)
    train, validation = train.to(device), validation.to(device)
    targets = module.standardize(targets.to(device))
    predictor = cast("ExpressionMLP", module.teacher.predictor).requires_grad_(True)
    predictor.scale.fit(features[train])
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=lr, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    history, best, best_state, best_epoch = [], float("inf"), None, 0

    def error(rows: torch.Tensor) -> torch.Tensor:
        difference = F.mse_loss(predictor(features[rows]), targets[rows], reduction="none")
        return (difference * measured[rows]).sum() / measured[rows].sum().clamp(min=1)

    for epoch in range(max_epochs):
        predictor.train()
        losses = []
        for rows in _batches(train, batch_size, generator):
            loss = error(rows)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(loss.detach())
        record = {"train_loss": float(torch.stack(losses).mean())}
        if len(validation):
            predictor.eval()
            with torch.no_grad():
                record["validation_loss"] = float(error(validation))
            if record["validation_loss"] < best:
                best, best_epoch = record["validation_loss"], epoch
                best_state = copy.deepcopy(predictor.state_dict())
        history.append(record)
        if len(validation) and epoch - best_epoch >= patience:
            break
    if best_state is not None:
        predictor.load_state_dict(best_state)
    predictor.eval().requires_grad_(False)
    return pd.DataFrame(history).rename_axis("epoch")


def _batches(rows: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    order = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
    yield from torch.split(order, size)
