"""How a slide's network is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from rankbygene._arguments import checked
from rankbygene.base.slides._module import SlideModule
from rankbygene.train._callbacks import Mode
from rankbygene.train._watched_plan import WatchedPlan

__all__ = ["SlidePlan"]

Batch = Mapping[str, torch.Tensor]
Objective = Callable[[torch.Tensor, Batch], torch.Tensor]


class SlidePlan(WatchedPlan):
    """Training of :class:`~rankbygene.module.SlideModule`.

    Parameters
    ----------
    module
        The network.
    objective
        Loss of outputs ``[B, n_outputs]`` and the batch that they belong to.
    lr, weight_decay
        Of AdamW; the learning rate falls to zero along a cosine.
    """

    @checked
    def __init__(
        self,
        module: SlideModule,
        objective: Objective,
        *,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(module)
        self.objective = objective
        self.lr, self.weight_decay = lr, weight_decay
        self._judged: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []

    def monitors(self) -> dict[str, Mode]:
        """Name the loss of the validation bags."""
        return {"validation_loss": "min"}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return the loss."""
        outputs, _ = self.module(batch["features"], batch["mask"])
        # Sums of exponentials lose too much in half precision.
        with torch.autocast(self.device.type, enabled=False):
            loss = self.objective(outputs.float(), batch)
        self.add_to_epoch({"train_loss": loss}, len(outputs))
        return {"loss": loss}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Judge the bags; the loss is that of all of them together."""
        outputs, _ = self.module(batch["features"], batch["mask"])
        targets = {k: v for k, v in batch.items() if k not in ("features", "mask")}
        self._judged.append((outputs.float(), targets))

    def on_validation_epoch_end(self) -> None:
        """Log the loss over all validation bags: risk sets do not end at a batch."""
        judged, self._judged = self._judged, []
        outputs = torch.cat([output for output, _ in judged])
        targets = {k: torch.cat([t[k] for _, t in judged]) for k in judged[0][1]}
        self.log("validation_loss", self.objective(outputs, targets), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine over all steps."""
        optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=self.lr, weight_decay=self.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
