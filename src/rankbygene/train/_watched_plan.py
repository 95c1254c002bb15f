"""What every training shares, whatever is trained: what is known of an epoch, and who stops it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from rankbygene._parent import die_with_parent
from rankbygene.train._callbacks import Mode

__all__ = ["WatchedPlan"]


class WatchedPlan(pl.LightningModule):
    """A training that says what its epochs can be compared by.

    Losses of training are averaged over an epoch here: Lightning's own sums are in no checkpoint, so
    that an epoch that was resumed would show the mean of its second half, or none.

    Parameters
    ----------
    module
        The networks.
    """

    module: Any

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.ended_epoch: int | None = None
        self._sums: dict[str, torch.Tensor] = {}
        self._n_summed = 0

    def monitors(self) -> dict[str, Mode]:
        """Name what validation tells of an epoch, and whether the smallest or largest is best."""
        return {}

    def add_to_epoch(self, terms: Mapping[str, torch.Tensor], size: int) -> None:
        """Add the losses of a batch of so many to the means of the epoch."""
        for name, term in terms.items():
            value = term.detach() * size
            self._sums[name] = (
                self._sums[name].to(value.device) + value if self._n_summed else value
            )
        self._n_summed += size

    # ---- Lightning -----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Compute in one thread where a notebook's process was forked, and end with that process.

        A forked process has none of the threads that its parent computed with, and OpenMP would
        wait for them for ever.
        """
        launcher = self.trainer.strategy.launcher
        if getattr(launcher, "_start_method", None) == "fork":
            torch.set_num_threads(1)
            die_with_parent()
        elif self.trainer.world_size > 1 and _was_launched_by_lightning(self.trainer):
            die_with_parent()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop together: callbacks of one process may have decided alone."""
        self._stop_together()

    def on_validation_end(self) -> None:
        """Stop together."""
        self._stop_together()

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch, and stop together."""
        sums, n = self._sums, self._n_summed
        self._sums, self._n_summed = {}, 0
        for name, total in sums.items():
            bar = name == "train_loss"
            # All processes know the same losses, up to rounding, which must not make them decide apart.
            self.log(name, total / n, batch_size=n, prog_bar=bar, on_epoch=True, sync_dist=True)
        self.ended_epoch = self.current_epoch
        self._stop_together()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed fit needs beside the weights."""
        checkpoint["epoch_sums"], checkpoint["n_summed"] = self._sums, self._n_summed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self._sums, self._n_summed = dict(checkpoint["epoch_sums"]), checkpoint["n_summed"]

    def _stop_together(self) -> None:
        if self.trainer.world_size > 1:
            stop = self.trainer.strategy.reduce_boolean_decision(
                self.trainer.should_stop, all=False
            )
            self.trainer.should_stop = bool(stop)


def _was_launched_by_lightning(trainer: pl.Trainer) -> bool:
    """Whether this process is one that the first one of its machine has started."""
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    launched = isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)
    return launched and trainer.local_rank > 0
