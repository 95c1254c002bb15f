"""What every model with a network has, whatever it is made of."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from rankbygene._arguments import checked
from rankbygene.base._inference import choose_device
from rankbygene.errors import NotTrainedError


class TrainedModel:
    """The network, its history and its device."""

    seed: int
    module: Any
    is_trained_: bool
    history_: dict[str, pd.DataFrame] | None

    @property
    def history(self) -> dict[str, pd.DataFrame] | None:
        """Losses and scores per epoch, one DataFrame each; None before training."""
        return self.history_

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        device: torch.device = next(self.module.parameters()).device
        return device

    @checked
    def to_device(self, device: str | torch.device) -> None:
        """Move the network to ``device``."""
        self.module.to(choose_device(device))

    def _check_trained(self) -> None:
        if not self.is_trained_:
            msg = f"this {type(self).__name__} has not been trained; call `model.train()` first"
            raise NotTrainedError(msg)
