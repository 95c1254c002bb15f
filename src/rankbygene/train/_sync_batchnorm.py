"""Batch normalisation over the whole batch of all devices."""

from __future__ import annotations

from lightning.pytorch.plugins import LayerSync
from torch import nn

from rankbygene._arguments import checked

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(LayerSync):
    """Take the statistics of batch normalisation over all devices during a fit.

    Unlike Lightning's own plug-in it knows the layers of timm that hold an activation as well, which would
    be lost, and puts back the layers that were there.
    """

    @checked
    def __init__(self) -> None:
        self._replaced: dict[str, nn.Module] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace layers; they share their weights with those they stand for."""
        from timm.layers.norm_act import convert_sync_batchnorm

        before = dict(model.named_modules())
        synced: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self._replaced = {
            name: before[name]
            for name, layer in synced.named_modules()
            if isinstance(layer, nn.SyncBatchNorm) and before[name] is not layer
        }
        return synced

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the layers back, with the statistics of the fit."""
        for name, layer in self._replaced.items():
            synced = model.get_submodule(name)
            # Weights are shared; moving a module to a device replaces its buffers.
            layer._buffers = synced._buffers
            layer.train(synced.training)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
        self._replaced = {}
        return model
