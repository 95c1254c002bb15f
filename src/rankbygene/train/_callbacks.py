"""What watches over a fit: good weights are kept, what is not finite stops it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import lightning.pytorch as pl
import torch

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError, TrainingError
from rankbygene.nn.encoders._weights import load_shared, shared_state

__all__ = ["BestWeights", "FiniteLoss", "Mode"]

Mode = Literal["min", "max"]


class BestWeights(pl.Callback):
    """Keep a copy of the best epoch's weights and put it back at the end of the fit.

    Parameters
    ----------
    monitor
        Logged value to compare epochs by. None, where there is nothing to compare by, keeps a copy of
        the last epoch for a fit that breaks off; one that ends well keeps its own last weights.
    mode
        Whether the smallest or the largest is best.

    Raises
    ------
    TrainingError
        During the fit: weights that would be kept are not finite.
    """

    @checked
    def __init__(self, monitor: str | None = "validation_loss", mode: Mode = "min") -> None:
        self.monitor, self.mode = monitor, mode
        self.sign = 1 if mode == "min" else -1
        self.best_score = math.inf
        self.best_epoch: int | None = None
        self.put_back = False
        self._state: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Copy the weights where the epoch is the best so far.

        Callbacks' ``on_validation_epoch_end`` comes before the plan's, which logs a score there.
        """
        value = None if self.monitor is None else trainer.callback_metrics.get(self.monitor)
        if value is None or trainer.sanity_checking:
            return
        score = self.sign * float(value)
        if score < self.best_score:
            self._copy(trainer, pl_module)
            self.best_score = score

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Copy the weights of every epoch where none is better than another."""
        if self.monitor is None:
            self._copy(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Put the best weights back; say so where there are none."""
        if self.monitor is not None and self._state is not None:
            self._restore(pl_module)
            return
        check_weights(shared_state(pl_module.module), "at the end of the training")
        if self.monitor is not None:
            text = (
                f"{self.monitor} was not a number after any epoch that was validated, if there was one; "
                "the last weights are kept, not the best"
            )
            warnings.warn(text, UserWarning, stacklevel=2)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Put the best weights back when the fit breaks off, so that they are not lost."""
        self._restore(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed fit goes on from."""
        return {
            "monitor": self.monitor,
            "mode": self.mode,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "weights": self._state,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best epoch so far."""
        if (state_dict["monitor"], state_dict["mode"]) != (self.monitor, self.mode):
            msg = (
                f"the checkpoint keeps the best epoch by {state_dict['monitor']!r}, this training by "
                f"{self.monitor!r}; pass monitor={state_dict['monitor']!r} to resume it"
            )
            raise InputValueError(msg)
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
        self._state = state_dict["weights"]

    def _copy(self, trainer: pl.Trainer, pl_module: Any) -> None:
        state = {
            name: tensor.detach().cpu().clone()
            for name, tensor in shared_state(pl_module.module).items()
        }
        check_weights(state, f"after epoch {trainer.current_epoch}")
        self._state, self.best_epoch = state, trainer.current_epoch

    def _restore(self, pl_module: Any) -> None:
        if self._state is not None:
            load_shared(pl_module.module, self._state)
            self._state, self.put_back = None, True


class FiniteLoss(pl.Callback):
    """Stop a fit whose loss is no longer finite, and name the step and the term.

    Losses are looked at once every ``every`` steps, before validation, before a checkpoint is
    written and at the end of an epoch, because each look waits for the device.
    """

    @checked
    def __init__(self, every: int = 50) -> None:
        self.every = every
        self._waiting: list[tuple[int, dict[str, torch.Tensor]]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the terms of a step."""
        terms = {name: term.detach() for name, term in outputs.items()}
        self._waiting.append((trainer.global_step, terms))
        if len(self._waiting) >= self.every:
            self._check()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Look at the steps so far: they explain what validation would find."""
        self._check()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Look at the losses of the validation spots; a correlation may be undefined."""
        modes: Mapping[str, Mode] = pl_module.monitors()
        losses = [name for name, mode in modes.items() if mode == "min"]
        found = {name: trainer.callback_metrics.get(name) for name in losses}
        broken = [n for n, value in found.items() if value is not None and not value.isfinite()]
        if broken and not trainer.sanity_checking:
            names = [name for name in broken if name != "validation_loss"] or broken
            msg = (
                f"the loss of the validation data is not finite after epoch {trainer.current_epoch}: "
                f"{', '.join(names)}. {_REMEDY}"
            )
            raise TrainingError(msg)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Look at the rest of the epoch."""
        self._check()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Look at the steps that a checkpoint holds."""
        self._check()

    def _check(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        values = torch.stack([torch.stack(list(terms.values())) for _, terms in waiting])
        finite = torch.isfinite(values.float()).cpu()
        if finite.all():
            return
        first = int((~finite.all(1)).nonzero()[0])
        step, terms = waiting[first]
        broken = [name for name, fine in zip(terms, finite[first], strict=True) if not fine]
        names = [name for name in broken if name != "loss"] or broken
        msg = f"the loss is not finite at step {step}: {', '.join(names)}. {_REMEDY}"
        raise TrainingError(msg)


_REMEDY = (
    "Lower the learning rate (`lr`; of a model `plan_kwargs={'lr': ...}`), or use "
    "`precision='32-true'`."
)


def check_weights(state: Mapping[str, torch.Tensor], when: str) -> None:
    """Refuse weights that are not numbers.

    Raises
    ------
    TrainingError
        Some are not finite; the parts of the network are named.
    """
    broken = {
        name: n
        for name, tensor in state.items()
        if tensor.is_floating_point() and (n := int((~tensor.isfinite()).sum()))
    }
    if broken:
        n_all = sum(tensor.numel() for tensor in state.values())
        msg = (
            f"{sum(broken.values()):,} of {n_all:,} weights are not finite {when} (first: "
            f"{', '.join(list(broken)[:3])}). {_REMEDY}"
        )
        raise TrainingError(msg)
