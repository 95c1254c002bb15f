"""Training with scvi-tools' runner: one Lightning fit, history in memory, seeds kept apart."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch

from rankbygene._arguments import check_settings
from rankbygene._checks import check_keywords, keywords_of
from rankbygene.data import (
    BagDataModule,
    ExpressionBank,
    SpatialDataModule,
    TileDataModule,
)
from rankbygene.errors import InputValueError, RankByGeneError
from rankbygene.metrics import pearson
from rankbygene.model._devices import devices_kwargs
from rankbygene.model._inference import autocast_dtype, choose_precision
from rankbygene.model._random import forked_rng
from rankbygene.train import BestWeights, FiniteLoss, find_batch_size, whole_state

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from numpy.typing import NDArray

    from rankbygene.data._datamodule import Batch
    from rankbygene.model._base import BaseSpatialModel
    from rankbygene.train import SpotPlan

log = logging.getLogger("rankbygene")


def default_max_epochs(n_train: int) -> int:
    """Choose the number of epochs so that about 50,000 tiles are seen, between 10 and 100 epochs."""
    return int(np.clip(round(50_000 / n_train), 10, 100))


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


def training_device(accelerator: str, devices: int | list[int] | str) -> torch.device:
    """Device that Lightning would train on, the first one of several."""
    from scvi.model._utils import parse_device_args

    _, _, device = parse_device_args(accelerator, devices, return_device="torch")
    found: torch.device = device
    return found


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
        smallest=batches.get("patch_size", 8),
        dtype=autocast_dtype(precision),
    )
    log.info("batch_size='auto': %d spots", size)
    return size


def check_trainer(
    max_epochs: int | None,
    trainer_kwargs: Mapping[str, Any],
    *,
    accelerator: str = "auto",
    devices: int | list[int] | str = "auto",
    precision: str = "auto",
    **_others: Any,
) -> None:
    """Let Lightning judge its settings before anything slow, by a trainer that nobody uses.

    Raises
    ------
    InputTypeError
        There is no such setting.
    InputValueError
        Lightning or scvi-tools refuses one.
    """
    import lightning.pytorch as pl
    from scvi.train import Trainer

    known = {*keywords_of(Trainer), *keywords_of(pl.Trainer), "ckpt_path"}
    given = check_keywords(trainer_kwargs, "the trainer", sorted(known - _OWN_SETTINGS))
    try:
        device = training_device(accelerator, devices)
        settings = devices_kwargs(device, devices, given)
        if "WORLD_SIZE" in os.environ or settings.get("strategy", "auto") != "auto":
            return  # what is decided there depends on the other processes
        Trainer(
            max_epochs=max_epochs or 1,
            accelerator=accelerator,
            devices=devices,
            precision=choose_precision(precision, device),
            logger=False,
            **{
                key: value for key, value in settings.items() if key not in ("plugins", "ckpt_path")
            },
        )
    except RankByGeneError:
        raise
    except Exception as error:
        msg = f"the trainer cannot be made with these settings: {error}"
        raise InputValueError(msg) from error


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Let the trainer that nobody uses say nothing; the one that is used says it."""
    talker = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talker.setLevel(level)


def check_train_kwargs(
    model: Any, value: object, name: str = "train_kwargs", *, owned: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Check arguments of a model's ``train``, and those that it hands on, before anything slow.

    Parameters
    ----------
    model
        The model's class.
    value
        The mapping of arguments; None is an empty one.
    name
        What the mapping is called.
    owned
        Arguments that the caller gives itself.

    Returns
    -------
    The arguments as plain values.

    Raises
    ------
    InputTypeError, InputValueError
        A name is not known, or a value cannot be used.
    """
    given = check_settings(model.train, value, name, owned=owned)
    for key, (function, own) in model._settings_of.items():
        if given.get(key) is not None:
            given[key] = check_settings(function, given[key], key, owned=own)
    named = keywords_of(model.train)
    check_trainer(
        given.get("max_epochs"),
        {key: setting for key, setting in given.items() if key not in named},
        **{key: given[key] for key in ("accelerator", "devices", "precision") if key in given},
    )
    return given


# What the fit itself gives to the trainer.
_OWN_SETTINGS = {
    "model", "training_plan", "data_splitter", "max_epochs", "accelerator", "devices", "precision",
    "benchmark", "check_val_every_n_epoch", "log_every_n_steps", "logger", "callbacks", "self",
    "early_stopping", "early_stopping_patience", "use_distributed_sampler",
}  # fmt: skip


class Trainee(Protocol):
    """What scvi-tools' runner reads and writes of a model."""

    module: Any
    seed: int
    is_trained_: bool
    history_: dict[str, pd.DataFrame] | None

    def to_device(self, device: str | torch.device) -> None: ...


def run_training(
    model: Trainee,
    plan: pl.LightningModule,
    datamodule: SpatialDataModule | TileDataModule | BagDataModule,
    *,
    max_epochs: int,
    accelerator: str,
    devices: int | list[int] | str,
    precision: str,
    early_stopping: bool,
    early_stopping_patience: int,
    monitor: str,
    logger: pl.loggers.Logger | None,
    callbacks: Sequence[pl.Callback],
    **trainer_kwargs: Any,
) -> None:
    """Fit ``plan`` and leave the best weights, the history and the device in ``model``."""
    from lightning.pytorch.callbacks import Checkpoint
    from scvi.train import LoudEarlyStopping, TrainRunner
    from scvi.train._logger import SimpleLogger

    validated = datamodule.n_val > 0
    device = training_device(accelerator, devices)
    precision = choose_precision(precision, device)
    log.info("training in precision %r on %s", precision, device.type)
    own: list[pl.Callback] = [FiniteLoss()]
    if validated:
        own.append(BestWeights(monitor=monitor))
    if early_stopping and validated:
        # scvi-tools' trainer would leave it out on many devices, where its losses differ.
        own.append(
            LoudEarlyStopping(monitor=monitor, patience=early_stopping_patience, warmup_epochs=0)
        )
    # Lightning keeps the mode it finds, and results leave the module evaluating.
    model.module.train()
    whole = copy.deepcopy(model.module) if trainer_kwargs.get("strategy") == "fsdp" else None
    with (
        forked_rng(model.seed),
        warnings.catch_warnings(),
        # Where a notebook forks, the history is handed over in a file.
        TemporaryDirectory(prefix="rankbygene-") as folder,
    ):
        # Banks and bags are read in this process: workers would copy them.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", "early_stopping was automatically disabled")
        # The teacher never trains.
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
        runner = TrainRunner(
            model,
            training_plan=plan,
            data_splitter=datamodule,
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            check_val_every_n_epoch=1,
            benchmark=False,
            log_every_n_steps=1,
            logger=[SimpleLogger(save_dir=folder), *([] if logger is None else [logger])],
            callbacks=[*own, *(c for c in callbacks if not isinstance(c, Checkpoint))],
            **devices_kwargs(device, devices, trainer_kwargs),
        )
        # The runner knows the first device alone.
        runner.device = runner.trainer.strategy.root_device
        # scvi's trainer knows one checkpoint callback, its own, which expects a model of AnnData.
        runner.trainer.callbacks.extend(c for c in callbacks if isinstance(c, Checkpoint))
        runner()
        if whole is not None:
            whole.load_state_dict(whole_state(model.module))
            model.module = whole.eval()
            model.to_device(runner.device)


def validation_pearson(
    model: BaseSpatialModel, bank: ExpressionBank, rows: NDArray[np.intp]
) -> pd.Series[float]:
    """Pearson correlation per gene on the validation spots: within each slide, then the mean."""
    if not len(rows):
        return pd.Series(np.nan, index=model.genes, name="pearson")
    slides = bank.slide_of_row[rows]
    predicted = np.empty((len(rows), len(model.genes)), np.float32)
    names = list(model.training_frames)
    for slide in np.unique(slides):
        frame = model.training_frames[names[slide]]
        own = slides == slide
        inside = rows[own] - model.tiles.slices[frame.slide].start
        predicted[own] = model._run(frame, inside)["expression"]
    truth = np.where(bank.measured[slides], bank.values[rows], np.nan)
    return pd.Series(pearson(truth, predicted, groups=slides), index=model.genes, name="pearson")
