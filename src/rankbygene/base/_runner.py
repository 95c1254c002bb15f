"""Training with scvi-tools' runner: one Lightning fit, history in memory, seeds kept apart."""

from __future__ import annotations

import copy
import logging
import os
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from rankbygene import errors
from rankbygene._arguments import check_settings
from rankbygene._atomic import scratch
from rankbygene._checks import check_keywords, keywords_of
from rankbygene.base._devices import (
    check_devices,
    devices_kwargs,
    one_or_all_tasks,
    trainer_errors,
)
from rankbygene.base._inference import choose_precision
from rankbygene.base._random import forked_rng
from rankbygene.base._record import plain
from rankbygene.errors import InputValueError, RankByGeneError, TrainingError
from rankbygene.nn.encoders._weights import shared_state
from rankbygene.train._callbacks import BestWeights, FiniteLoss, check_weights
from rankbygene.train._resume import Resume, read_checkpoint
from rankbygene.train._shard import whole_state

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from rankbygene.data.batches._resumable import ResumableBatches
    from rankbygene.train._callbacks import Mode
    from rankbygene.train._watched_plan import WatchedPlan

log = logging.getLogger("rankbygene")


def default_max_epochs(n_train: int) -> int:
    """Choose the number of epochs so that about 50,000 tiles are seen, between 10 and 100 epochs."""
    return int(np.clip(round(50_000 / n_train), 10, 100))


def training_device(accelerator: str, devices: int | list[int] | str) -> torch.device:
    """Device that Lightning would train on, the first one of several."""
    from scvi.model._utils import parse_device_args

    check_devices(accelerator, devices)
    with one_or_all_tasks(devices), trainer_errors():
        _, _, device = parse_device_args(accelerator, devices, return_device="torch")
    found: torch.device = device
    return found


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
        left = {
            key: value for key, value in settings.items() if key not in ("plugins", "ckpt_path")
        }
        with one_or_all_tasks(devices, settings.get("num_nodes", 1)):
            Trainer(
                max_epochs=max_epochs or 1,
                accelerator=accelerator,
                devices=devices,
                precision=choose_precision(precision, device),
                logger=False,
                **left,
            )
    except RankByGeneError:
        raise
    except Exception as error:
        msg = f"the trainer cannot be made with these settings: {error}"
        raise InputValueError(msg) from error


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

    @property
    def training_params(self) -> Mapping[str, Any]: ...

    def to_device(self, device: str | torch.device) -> None: ...


def choose_mode(
    monitor: str, known: Mapping[str, Mode], *, validated: bool, early_stopping: bool
) -> Mode | None:
    """Say whether the best epoch has the smallest or the largest ``monitor``.

    Parameters
    ----------
    monitor
        What epochs are compared by.
    known
        What validation will tell of an epoch.
    validated
        Whether there is anything to validate on.
    early_stopping
        Whether the monitor is to stop the training, too.

    Returns
    -------
    None without a validation split, where the last epoch is kept.

    Raises
    ------
    InputValueError
        ``monitor`` is not known, or nothing is held out to compute it on.
    """
    if not validated:
        if early_stopping or monitor != "validation_loss":
            asked = "early_stopping=True" if early_stopping else f"monitor={monitor!r}"
            msg = (
                f"{asked} needs held-out data, and nothing is held out; leave it out (the last epoch is "
                "then kept), or make the model with a validation_size above 0"
            )
            raise InputValueError(msg)
        return None
    if monitor not in known:
        near = get_close_matches(str(monitor), known, n=1, cutoff=0.0)
        why = (
            ": a mean over an epoch in which the weights change tells no epoch's worth"
            if str(monitor).startswith("train_")
            else ""
        )
        msg = (
            f"monitor={monitor!r} is not known{why}. Did you mean {near[0]!r}? This training can be "
            f"watched by {', '.join(f'{name} ({mode})' for name, mode in known.items())}"
        )
        raise InputValueError(msg)
    return known[monitor]


# Of the trainer, said by other arguments here.
_SAID_OTHERWISE = {
    "early_stopping_monitor": "monitor",
    "early_stopping_mode": "monitor, whose name tells the mode",
    "early_stopping_min_delta": "a callback `EarlyStopping` of your own",
    "early_stopping_warmup_epochs": "a callback `EarlyStopping` of your own",
    "checkpointing_monitor": "a callback `ModelCheckpoint` of your own",
    "enable_checkpointing": "a callback `ModelCheckpoint` of your own",
    "learning_rate_monitor": "a callback `LearningRateMonitor` of your own",
}


def check_before_training(
    plan: WatchedPlan,
    *,
    validated: bool,
    monitor: str,
    early_stopping: bool,
    accelerator: str,
    devices: int | Sequence[int] | str,
    **runner: Any,
) -> None:
    """Refuse what could not be trained or resumed, before anything slow begins.

    Raises
    ------
    InputTypeError, InputValueError
        A device, a monitor, a checkpoint or a setting of the trainer cannot be used.
    """
    check_devices(accelerator, devices, runner.get("num_nodes", 1))
    choose_mode(monitor, plan.monitors(), validated=validated, early_stopping=early_stopping)
    for name in _SAID_OTHERWISE.keys() & runner.keys():
        msg = f"{name} would have no effect; use {_SAID_OTHERWISE[name]}"
        raise InputValueError(msg)
    if runner.get("ckpt_path") is not None:
        read_checkpoint(runner["ckpt_path"], plan.state_dict())


def run_training(
    model: Trainee,
    plan: WatchedPlan,
    datamodule: ResumableBatches,
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
    """Fit ``plan`` and leave the best weights, the history and the device in ``model``.

    After an exception ``is_trained_`` tells whether the weights are those of a good epoch.
    """
    from scvi.train import LoudEarlyStopping

    validated = datamodule.n_val > 0
    check_before_training(
        plan,
        validated=validated,
        monitor=monitor,
        early_stopping=early_stopping,
        accelerator=accelerator,
        devices=devices,
        **trainer_kwargs,
    )
    mode = choose_mode(monitor, plan.monitors(), validated=validated, early_stopping=early_stopping)
    keeper = BestWeights(None) if mode is None else BestWeights(monitor, mode)
    device = training_device(accelerator, devices)
    precision = choose_precision(precision, device)
    log.info("training in precision %r on %s", precision, device.type)
    settings = {
        "training": type(plan).__name__,
        "precision": precision,
        **{
            n: v for n, v in model.training_params.items() if n not in ("max_epochs", "accelerator")
        },
    }
    own: list[pl.Callback] = [FiniteLoss(), keeper]
    if early_stopping:
        # scvi-tools' trainer would leave it out on many devices, where its losses differ. Right after
        # validation, so that a checkpoint has it, wherever that is written.
        stopping = LoudEarlyStopping(
            monitor=monitor,
            mode=mode,
            patience=early_stopping_patience,
            check_on_train_epoch_end=False,
            warmup_epochs=0,
        )
        own.append(stopping)
    own.append(Resume(plain(settings)))
    if trainer_kwargs.get("ckpt_path") is not None:
        # The checkpoint has the whole history.
        model.is_trained_, model.history_ = False, None
    try:
        with forked_rng(model.seed), _interruptible():
            _run(
                model,
                plan,
                datamodule,
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                precision=precision,
                logger=logger,
                callbacks=[*own, *callbacks],
                **devices_kwargs(device, devices, trainer_kwargs),
            )
        check_weights(shared_state(model.module), "at the end of the training")
    except BaseException:
        model.module.eval()
        model.is_trained_ = keeper.put_back
        raise


def _run(
    model: Trainee,
    plan: WatchedPlan,
    datamodule: ResumableBatches,
    *,
    logger: pl.loggers.Logger | None,
    callbacks: Sequence[pl.Callback],
    **trainer_kwargs: Any,
) -> None:
    """Let scvi-tools' runner fit ``plan``."""
    from lightning.pytorch.callbacks import Checkpoint
    from scvi.train import TrainRunner
    from scvi.train._logger import SimpleLogger

    # Lightning keeps the mode it finds, and results leave the module evaluating.
    model.module.train()
    sharded = type(trainer_kwargs.get("strategy")).__name__ == "ModelParallelStrategy"
    whole = copy.deepcopy(model.module) if sharded else None
    with (
        warnings.catch_warnings(),
        # Where a notebook forks, the history is handed over in a file.
        scratch("rankbygene") as folder,
    ):
        # Banks and bags are read in this process: workers would copy them.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", "early_stopping was automatically disabled")
        # The teacher never trains.
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
        # Batches begin where the checkpoint was written, which Lightning cannot know.
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
        loggers = [SimpleLogger(save_dir=folder), *([] if logger is None else [logger])]
        n_nodes = trainer_kwargs.get("num_nodes", 1)
        with one_or_all_tasks(trainer_kwargs["devices"], n_nodes), trainer_errors():
            runner = TrainRunner(
                model,
                training_plan=plan,
                data_splitter=datamodule,
                check_val_every_n_epoch=1,
                benchmark=False,
                log_every_n_steps=1,
                logger=loggers,
                callbacks=[c for c in callbacks if not isinstance(c, Checkpoint)],
                **trainer_kwargs,
            )
        # The runner knows the first device alone.
        runner.device = runner.trainer.strategy.root_device
        # scvi's trainer knows one checkpoint callback, its own, which expects a model of AnnData.
        runner.trainer.callbacks.extend(c for c in callbacks if isinstance(c, Checkpoint))
        # No checkpoint runs code, whatever the environment asks of torch.
        runner.trainer.fit = partial(runner.trainer.fit, weights_only=True)
        try:
            runner()
        finally:
            if whole is not None:
                _take_whole(model, whole, runner.device)


def _take_whole(model: Trainee, whole: Any, device: torch.device) -> None:
    whole.load_state_dict(whole_state(model.module))
    model.module = whole.eval()
    model.to_device(device)


def _raised_there(text: str) -> RankByGeneError:
    """Give the error of another process, of which its traceback arrives."""
    own = re.findall(rf"^{errors.__name__}\.(\w+): (.*)", text, re.MULTILINE | re.DOTALL)
    if own:
        kind, message = own[-1]
        found: RankByGeneError = getattr(errors, kind)(message.strip())
        return found
    return TrainingError(f"training broke off in one of its processes: {text.strip()}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let an interruption by the user be one, and the next one too.

    Lightning turns it into the end of the process, and ignores further ones for good. What breaks off
    in forked processes arrives as text.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except ProcessRaisedException as error:
        raise _raised_there(str(error)) from error
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
