"""What watches over a fit: the best weights are kept, a loss that breaks stops it."""

from __future__ import annotations

import math
from typing import Any, Literal

import lightning.pytorch as pl
import torch

from rankbygene._arguments import checked
from rankbygene.errors import TrainingError
from rankbygene.nn._weights import load_shared, shared_state

__all__ = ["BestWeights", "FiniteLoss"]


class BestWeights(pl.Callback):
    """Keep a copy of the best epoch's weights and put it back at the end of the fit.

    Parameters
    ----------
    monitor
        Logged value to compare epochs by.
    mode
        Whether the smallest or the largest is best.
    """

    @checked
    def __init__(
        self, monitor: str = "validation_loss", mode: Literal["min", "max"] = "min"
    ) -> None:
        self.monitor = monitor
        self.sign = 1 if mode == "min" else -1
        self.best_score = math.inf
        self.best_epoch: int | None = None
        self._state: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Copy the weights where the epoch is the best so far.

        Callbacks' ``on_validation_epoch_end`` comes before the plan's, which logs a score there.
        """
        value = trainer.callback_metrics.get(self.monitor)
        if value is None or trainer.sanity_checking:
            return
        score = self.sign * float(value)
        if score < self.best_score:
            self.best_score, self.best_epoch = score, trainer.current_epoch
            state = shared_state(pl_module.module)
            self._state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Put the best weights back."""
        self._restore(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Put the best weights back when the fit breaks off, so that they are not lost."""
        self._restore(pl_module)

    def _restore(self, pl_module: Any) -> None:
        if self._state is not None:
            load_shared(pl_module.module, self._state)
            self._state = None


class FiniteLoss(pl.Callback):
    """Stop a fit whose loss is no longer finite, and name the step and the term.

    Losses are looked at once every ``every`` steps and at the end of an epoch, because each look
    waits for the device.
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

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Look at the rest of the epoch."""
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
        msg = (
            f"the loss is not finite at step {step}: {', '.join(names)}. Lower the learning rate "
            "(`lr`; of a model `plan_kwargs={'lr': ...}`), or use `precision='32-true'`."
        )
        raise TrainingError(msg)
