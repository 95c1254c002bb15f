"""What a training on spots needs beside the runner: the scale of genes, a batch size, scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from rankbygene.base._inference import autocast_dtype
from rankbygene.data import ExpressionBank, SpatialDataModule
from rankbygene.errors import InputValueError
from rankbygene.metrics import pearson
from rankbygene.train._batch_size import find_batch_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.base.spots._plan import SpotPlan
    from rankbygene.base.spots._results import ResultsMixin
    from rankbygene.data.batches._datamodule import Batch

log = logging.getLogger("rankbygene")


def standardisation(
    bank: ExpressionBank, rows: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation per gene over the training spots on whose slide it was measured."""
    slides = bank.slide_of_row[rows]
    total, mean, square = (np.zeros(bank.values.shape[1]) for _ in range(3))
    for slide in np.unique(slides):
        values = bank.values[rows[slides == slide]].astype(np.float64)
        measured = bank.measured[slide]
        total += measured * len(values)
        mean += measured * values.sum(0)
        square += measured * (values**2).sum(0)
    mean /= np.maximum(total, 1)
    std = np.sqrt(np.maximum(square / np.maximum(total, 1) - mean**2, 0))
    # A gene that never varies keeps its scale: dividing by (nearly) nothing would make noise of it.
    std[std < 1e-6] = 1.0
    return mean.astype(np.float32), std.astype(np.float32)


def largest_batch(
    plan: SpotPlan,
    make: Callable[..., SpatialDataModule],
    batches: Mapping[str, Any],
    n_train: int,
    *,
    device: torch.device,
    precision: str,
) -> int:
    """Find the largest batch that fits on a GPU.

    Raises
    ------
    InputValueError
        The device is no GPU.
    """
    if device.type != "cuda":
        msg = (
            "batch_size='auto' fills the memory of a GPU, and training would run on "
            f"{device.type!r}, where larger batches are no faster; pass a number, such as 64"
        )
        raise InputValueError(msg)

    def first_batch(size: int) -> Batch:
        return next(iter(make(**{**batches, "batch_size": size}).train_dataloader()))

    plan.to(device).train()
    size = find_batch_size(
        plan,
        first_batch,
        largest=n_train,
        smallest=batches.get("group_size", 8),
        dtype=autocast_dtype(precision),
    )
    log.info("batch_size='auto': %d spots", size)
    return size


def validation_pearson(
    model: ResultsMixin, bank: ExpressionBank, rows: NDArray[np.intp]
) -> pd.Series[float]:
    """Pearson correlation per gene on the validation spots: within each slide, then the mean."""
    if not len(rows):
        return pd.Series(np.nan, index=model.genes, name="pearson")
    slides = bank.slide_of_row[rows]
    predicted = np.empty((len(rows), len(model.genes)), np.float32)
    names = list(model.training_frames)
    whole = model._context(None).keeps
    used = model._used_rows()
    for slide in np.unique(slides):
        frame = model.training_frames[names[slide]]
        own = slides == slide
        inside = rows[own] - model.tiles.slices[frame.slide].start
        if whole:  # what frozen context showed in training were spots of the whole slide
            frame, inside = model.frames[names[slide]], used[names[slide]][inside]
        predicted[own] = model._run(frame, inside)["expression"]
    truth = np.where(bank.measured[slides], bank.values[rows], np.nan)
    return pd.Series(pearson(truth, predicted, groups=slides), index=model.genes, name="pearson")
