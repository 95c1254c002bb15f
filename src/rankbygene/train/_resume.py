"""Checkpoints from which a fit goes on exactly: what Lightning does not keep is kept here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping

from rankbygene.errors import InputTypeError, InputValueError

__all__ = ["Resume", "read_checkpoint"]

_KEY = "rankbygene"
_PARTS = ("state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers", _KEY)


class Resume(pl.Callback):
    """Keep and restore the place in an epoch, random states, scores and history.

    Parameters
    ----------
    settings
        What has to be the same for a fit to go on from another's checkpoint, in plain values.

    Raises
    ------
    InputValueError
        When a fit begins: its settings or data are not those of the checkpoint.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self._fingerprint: str | None = None
        self._found: dict[str, Any] | None = None
        self._stops = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Write what a resumed fit needs."""
        n_batches = max(1, int(trainer.num_training_batches))
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        epochs: Any = trainer.fit_loop.epoch_progress.current
        done = progress.processed
        # Callbacks are called after a step before it counts as completed.
        ends = done == n_batches and progress.completed < done
        random = {"cpu": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(pl_module.device)
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        checkpoint[_KEY] = {
            "settings": self.settings,
            "data": self._data(trainer),
            "sample": trainer.datamodule.sample(),  # type: ignore[attr-defined]
            "place": (epochs.processed, done if epochs.processed == epochs.completed else 0),
            "epoch_has_ended": pl_module.ended_epoch == trainer.current_epoch,
            "epoch_is_to_end": ends,
            "random": random,
            "scores": scores,
            "history": _history(trainer, pl_module, scores),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Compare, and go to the place in the epoch."""
        found = checkpoint[_KEY]
        self._compare(trainer, pl_module, found)
        self._found = found
        trainer.datamodule.start_at(*found["place"])  # type: ignore[attr-defined]
        if found["epoch_is_to_end"]:
            _end_epoch_first(checkpoint["loops"]["fit_loop"], pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Restore scores and history, also where the fit had come to its end."""
        if self._found is None:
            return
        for name, value in self._found["scores"].items():
            trainer.callback_metrics[name] = torch.tensor(value)
        _restore_history(trainer, self._found["history"])
        stoppers = [c for c in trainer.callbacks if isinstance(c, EarlyStopping)]  # type: ignore[attr-defined]
        if any(stopper.wait_count >= stopper.patience for stopper in stoppers):
            trainer.should_stop = bool(self._found["epoch_has_ended"])
            self._stops = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Stop where the fit had stopped, once its last epoch has ended."""
        trainer.should_stop = trainer.should_stop or self._stops

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Restore random states last of all."""
        if self._found is None:
            return
        torch.set_rng_state(self._found["random"]["cpu"].cpu())
        if pl_module.device.type == "cuda" and "cuda" in self._found["random"]:
            torch.cuda.set_rng_state(self._found["random"]["cuda"].cpu(), pl_module.device)

    def _data(self, trainer: pl.Trainer) -> str:
        if self._fingerprint is None:
            self._fingerprint = trainer.datamodule.fingerprint()  # type: ignore[attr-defined]
        return self._fingerprint

    def _compare(self, trainer: pl.Trainer, pl_module: Any, found: Mapping[str, Any]) -> None:
        was, now = found["settings"], self.settings
        names = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
        if names:
            pairs = [f"{name}: {was.get(name)!r}, now {now.get(name)!r}" for name in names]
            msg = (
                "the checkpoint was written by a training with other settings, so that going on would "
                f"be neither of them ({'; '.join(pairs)}); pass those of the checkpoint"
            )
            raise InputValueError(msg)
        sample = trainer.datamodule.sample()  # type: ignore[attr-defined]
        if found["data"] != self._data(trainer) or not _alike(found["sample"], sample):
            msg = (
                "the checkpoint was written by a training on other data (slides, spots, split, counts, "
                "image or encoder differ); pass the model the data that it was made with"
            )
            raise InputValueError(msg)


def _end_epoch_first(loop: dict[str, Any], pl_module: Any) -> None:
    """Let an epoch that lacks no step be validated and ended, which Lightning would skip."""
    batches = loop["epoch_loop.batch_progress"]
    for count in (batches["total"], batches["current"]):
        count["completed"] = count["processed"]
    if pl_module.trainer.datamodule.n_val:  # as if it had been interrupted in validation
        validated = loop["epoch_loop.val_loop.batch_progress"]
        for count in (validated["total"], validated["current"]):
            count.update(ready=1, started=1, processed=0, completed=0)


def _alike(was: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor]) -> bool:
    """Compare features, which depend on the machine by rounding."""
    if {name: rows.shape for name, rows in was.items()} != {n: r.shape for n, r in now.items()}:
        return False
    return all(
        float((rows - now[name]).abs().max()) <= 0.05 * float(rows.std()) + 1e-6
        for name, rows in was.items()
    )


def _history(
    trainer: pl.Trainer, pl_module: Any, scores: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Give what was logged, by name; and the means of an epoch that has just ended."""
    tables = getattr(trainer.loggers[0], "history", {}) if trainer.loggers else {}
    found: dict[str, dict[str, Any]] = {
        name: {
            "at": [int(place) for place in table.index],
            "values": [float(value) for value in table[name]],
            "index": str(table.index.name),
        }
        for name, table in tables.items()
    }
    epoch = trainer.current_epoch
    if trainer.state.stage == "train" and pl_module.ended_epoch == epoch:
        for name, value in scores.items():
            column = found.setdefault(name, {"at": [], "values": [], "index": "epoch"})
            if name.startswith("train_") and epoch not in column["at"]:
                column["at"].append(epoch)
                column["values"].append(value)
    return {name: column for name, column in found.items() if column["at"]}


def _restore_history(trainer: pl.Trainer, history: Mapping[str, Mapping[str, Any]]) -> None:
    experiment: Any = getattr(trainer.loggers[0], "experiment", None) if trainer.loggers else None
    if not trainer.is_global_zero or not hasattr(experiment, "data"):
        return
    for name, column in history.items():
        table = pd.DataFrame(columns=[name])
        table.index.name = column["index"]
        for place, value in zip(column["at"], column["values"], strict=True):
            table.loc[place, name] = value
        experiment.data[name] = table


def read_checkpoint(path: object, state: Mapping[str, torch.Tensor]) -> None:
    """Look into a checkpoint before anything slow begins, without running code in it.

    Parameters
    ----------
    path
        The file.
    state
        Tensors of the training that is to go on from it.

    Raises
    ------
    InputTypeError, InputValueError
        It is no checkpoint, or not one that a training like this can go on from.
    """
    if not isinstance(path, (str, Path)):
        msg = f"ckpt_path is {path!r}; pass the path of a checkpoint file"
        raise InputTypeError(msg)
    file = Path(path)
    if file.is_dir():  # of strategy 'fsdp', in shards
        return
    if not file.is_file():
        msg = (
            f"ckpt_path={str(path)!r} is not a file; pass the path of the checkpoint to go on from"
        )
        raise InputValueError(msg)
    found = _loaded(file)
    missing = [part for part in _PARTS if part not in found]
    if missing:
        msg = (
            f"{file} lacks {', '.join(missing)}, so that training cannot go on from it exactly; pass a "
            "checkpoint that a `ModelCheckpoint` wrote in `train` of this version, and not of weights "
            "alone"
        )
        raise InputValueError(msg)
    _check_fits(file, found["state_dict"], state)


def _loaded(file: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001
        # Without its cause: torch's text would advise to switch the safety off.
        msg = (
            f"{file} is not a checkpoint of tensors and plain values ({type(error).__name__}), so it is "
            "not opened: it is damaged, or holds objects that could run code"
        )
        raise InputValueError(msg) from None
    return found if isinstance(found, Mapping) else {}


def _check_fits(file: Path, found: object, state: Mapping[str, torch.Tensor]) -> None:
    tensors = found if isinstance(found, Mapping) else {}
    shapes = {name: getattr(value, "shape", None) for name, value in tensors.items()}
    other = [name for name, tensor in state.items() if shapes.get(name) != tensor.shape]
    other += [name for name in shapes if name not in state]
    broken = [
        name
        for name, value in tensors.items()
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and not bool(value.isfinite().all())
    ]
    if other or broken:
        what = (
            f"{len(other)} tensors differ in name or shape" if other else "weights are not finite"
        )
        msg = (
            f"{file} is of another network ({what}, first: {(other or broken)[0]}); pass a checkpoint of "
            "a model with the same settings"
        )
        raise InputValueError(msg)
