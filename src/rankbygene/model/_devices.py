"""What a fit on many devices needs of Lightning's trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.strategies import Strategy


def devices_kwargs(
    device: torch.device, devices: int | list[int] | str, trainer_kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Complete the settings of a trainer for many devices; they change nothing on one.

    Parameters
    ----------
    device
        Where a process trains.
    devices
        How many or which of them.
    trainer_kwargs
        What the user asked for.

    Raises
    ------
    InputValueError
        The strategy cannot train these models.
    """
    from rankbygene.train import SyncBatchNorm

    settings = {**trainer_kwargs, "use_distributed_sampler": False}
    if settings.get("strategy") == "fsdp":
        settings["strategy"] = _sharding(devices, settings.get("num_nodes", 1))
    elif "strategy" in settings:
        settings["strategy"] = _checked(settings["strategy"])
    # Not on a CPU, for which PyTorch has none.
    if settings.pop("sync_batchnorm", True) and device.type == "cuda":
        plugins = settings.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        settings["plugins"] = [*plugins, SyncBatchNorm()]
    return settings


def _sharding(devices: int | list[int] | str, n_nodes: int) -> Strategy:
    """Shards of weights on all devices (FSDP2); Lightning's strategy 'fsdp' is the older form."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    n_devices = len(devices) if isinstance(devices, list) else devices
    if not isinstance(n_devices, int) or n_devices < 1:
        msg = f"devices={devices!r} does not tell how many shards strategy='fsdp' makes; pass a number"
        raise InputValueError(msg)
    return ModelParallelStrategy(n_devices * n_nodes, 1)


def _checked(strategy: str | Strategy) -> str | Strategy:
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    is_ddp = name.startswith("ddp") or isinstance(strategy, DDPStrategy)
    if not (is_ddp or name == "auto" or isinstance(strategy, SingleDeviceStrategy)):
        msg = (
            f"strategy={name!r} is not known to work; pass 'ddp', or 'fsdp' for encoders whose weights are "
            "too large for a device"
        )
        raise InputValueError(msg)
    if "spawn" in (name if isinstance(strategy, str) else getattr(strategy, "_start_method", "")):
        msg = (
            f"strategy={name!r} would pickle all tiles into every process; pass strategy='ddp' in a "
            "script (started with python or torchrun) or strategy='ddp_notebook' in a notebook"
        )
        raise InputValueError(msg)
    # A weight that no loss reaches (a head whose weight is 0) must not stop a fit.
    tolerant = {n: f"{n}_find_unused_parameters_true" for n in ("ddp", "ddp_fork", "ddp_notebook")}
    return tolerant.get(strategy, strategy) if isinstance(strategy, str) else strategy
