"""How an image encoder is trained on tiles alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from rankbygene.errors import InputValueError
from rankbygene.module import SimCLRModule
from rankbygene.nn.losses import nt_xent
from rankbygene.train._spot_plan import adamw, with_warmup
from rankbygene.train._views import strong_view

__all__ = ["SimCLRPlan"]


class SimCLRPlan(pl.LightningModule):
    """Training of :class:`~rankbygene.module.SimCLRModule`: two views of a tile, told from others.

    Parameters
    ----------
    module
        The network.
    temperature
        See :func:`~rankbygene.nn.losses.nt_xent`.
    crop
        Share of a tile's area that a view shows, see :func:`~rankbygene.train.strong_view`.
    lr, weight_decay
        Of AdamW.
    warmup
        Share of the steps over which the learning rate rises before it falls along a cosine.
    seed
        Of the views.

    Raises
    ------
    InputValueError
        A setting is out of range.

    References
    ----------
    :cite:p:`chen2020simclr`
    """

    def __init__(
        self,
        module: SimCLRModule,
        *,
        temperature: float = 0.1,
        crop: tuple[float, float] = (0.3, 1.0),
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (temperature > 0 and lr > 0):
            msg = f"temperature and lr must be positive, found {temperature} and {lr}"
            raise InputValueError(msg)
        if not 0 < crop[0] <= crop[1] <= 1:
            msg = f"crop is {crop}; pass two shares of the area, (smallest, largest), above 0 and up to 1"
            raise InputValueError(msg)
        self.module = module
        self.temperature, self.crop = temperature, crop
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup
        self.generator = torch.Generator().manual_seed(seed)

    def training_step(
        self, batch: Mapping[str, torch.Tensor], batch_idx: int
    ) -> dict[str, torch.Tensor]:
        """Return the loss."""
        images = batch["image"]
        views = [strong_view(images, self.generator, crop=self.crop) for _ in range(2)]
        # Both views in one pass, so that batch statistics cannot tell one from the other.
        features = self.module.image_features(torch.cat(views))
        # Similarities and exponentials lose too much in half precision.
        with torch.autocast(self.device.type, enabled=False):
            first, second = self.module.project(features.float()).chunk(2)
            loss = nt_xent(first, second, self.temperature)
        self.log(
            "train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images), prog_bar=True
        )
        return {"loss": loss}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed fit needs beside the weights."""
        checkpoint["generator"] = self.generator.get_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self.generator.set_state(checkpoint["generator"])

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate rises, then falls along a cosine."""
        optimizer = adamw(
            self, self.module.parameters(), lr=self.lr, weight_decay=self.weight_decay
        )
        return with_warmup(optimizer, self.warmup, int(self.trainer.estimated_stepping_batches))
