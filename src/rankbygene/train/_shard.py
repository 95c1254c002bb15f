"""Weights in shards: every device keeps a part of every network, and lends it out when it is applied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["shard", "whole_state"]


@checked
def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Spread the weights of a module over the devices of a mesh, in place (FSDP2).

    The parts of the module, and before them the blocks of a transformer, are gathered when they are
    applied and given back after it. Gradients are averaged over devices, as they are without shards.

    Parameters
    ----------
    module
        Networks whose parts are applied by calling them.
    mesh
        One-dimensional.

    Raises
    ------
    InputValueError
        There is batch normalisation, whose statistics would differ between devices.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()):
        msg = (
            "strategy='fsdp' does not synchronise batch normalisation; pass strategy='ddp', or a backbone "
            "without it, such as a vision transformer"
        )
        raise InputValueError(msg)
    for part in _parts(module):
        for block in getattr(getattr(part, "network", None), "blocks", ()):
            fully_shard(block, mesh=mesh)
        # A teacher has no backward, after which weights would be given back.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
        if hasattr(part, "forward_map"):
            register_fsdp_forward_method(part, "forward_map")


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Give the networks with weights that are applied by calling them.

    What has no ``forward`` of its own, such as a branch of an encoder and its heads, only holds them.
    """
    for part in module.children():
        if type(part).forward is nn.Module.forward:
            yield from _parts(part)
        elif any(True for _ in part.parameters()):
            yield part


@checked
def whole_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Gather the tensors of a module from all devices, which all must ask for them."""
    from torch.distributed.tensor import DTensor

    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in module.state_dict().items()
    }
