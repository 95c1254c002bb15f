"""What RankByGene fits when its encoders are finished: the frozen head, the regression on statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rankbygene.base._inference import BATCH_SIZE
from rankbygene.base._random import forked_rng
from rankbygene.data.splits._row_groups import row_groups
from rankbygene.methods.rankbygene._head import fit_head
from rankbygene.train._statistics import fit_statistics

if TYPE_CHECKING:
    from rankbygene.base.spots._model import SpotModel
    from rankbygene.data import ExpressionBank

__all__ = ["add_frozen_head", "add_statistics"]


def add_frozen_head(model: SpotModel, bank: ExpressionBank, settings: Mapping[str, Any]) -> None:
    """Fit the paper's head on the finished teacher's features, and add its history."""
    features = np.concatenate(
        [model._run(frame)["latent"] for frame in model.training_frames.values()]
    )
    with forked_rng(model.seed):
        history = fit_head(
            model.module,
            torch.from_numpy(features),
            torch.from_numpy(bank.values),
            torch.from_numpy(bank.measured[bank.slide_of_row]),
            train=torch.from_numpy(model.training_split.rows("train")),
            validation=torch.from_numpy(model.training_split.rows("validation")),
            seed=model.seed,
            **settings,
        )
    columns = {f"head_{name}": history[[name]].add_prefix("head_") for name in history.columns}
    model.history_ = {**(model.history_ or {}), **columns}


def add_statistics(model: SpotModel, layer: torch.nn.Linear, bank: ExpressionBank) -> None:
    """Fit the regression on colour and texture of the training tiles, its penalty by groups."""
    rows = model.training_split.rows("train")
    blocks = np.split(rows, np.arange(BATCH_SIZE, len(rows), BATCH_SIZE))
    statistics = [
        model.module.describe(torch.from_numpy(model.tiles[block][:, :3]).to(model.device)).cpu()
        for block in blocks
    ]
    measured = bank.measured[bank.slide_of_row[rows]]
    expression = np.where(measured, bank.values[rows], np.float32(np.nan))
    labels = model.training_split.labels
    groups = row_groups(
        model.training_frames,
        {name: np.flatnonzero(own == "train") for name, own in labels.items()},
        tile_um=max(model.tile_widths),
        normalization=model.normalization,
    )
    fit_statistics(layer, torch.cat(statistics).numpy(), expression, groups.folds)
