"""What a fit on many devices needs of Lightning's trainer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rankbygene.errors import InputValueError, RankByGeneError

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.strategies import Strategy


def check_devices(accelerator: object, devices: object, n_nodes: object = 1) -> None:
    """Refuse devices that this machine does not have, before a process is started for each.

    Parameters
    ----------
    accelerator, devices, n_nodes
        What the user asked for, in Lightning's terms.

    Raises
    ------
    InputTypeError, InputValueError
        There is no such accelerator here, or not so many or not these devices.
    """
    found = _devices_here()
    here = " and ".join(f"{n} {name.upper()}{'s' * (n > 1)}" for name, n in found.items() if n)
    kind = accelerator.lower() if isinstance(accelerator, str) else accelerator
    if kind not in ("auto", "gpu", "tpu", "hpu", *found):
        msg = (
            f"accelerator={accelerator!r} is not known; choose 'auto', 'cpu', 'gpu', 'cuda' or 'mps'. "
            f"This machine has {here}"
        )
        raise InputValueError(msg)
    if kind in ("tpu", "hpu"):  # for Lightning to judge
        return
    gpu = "mps" if found["mps"] else "cuda"
    # As scvi-tools has it: Apple's GPU is used on request alone.
    by_itself = "cuda" if found["cuda"] else "cpu"
    chosen = {"auto": by_itself, "gpu": gpu}.get(str(kind), str(kind))
    if not found[chosen]:
        msg = f"accelerator={accelerator!r} is not here; this machine has {here}. Pass 'auto' or 'cpu'"
        raise InputValueError(msg)
    problem = _problem(devices, found[chosen], numbered=chosen != "cpu")
    if problem:
        msg = (
            f"devices={devices!r} {problem}; this machine has {here}. Pass 'auto', or a number from 1 to "
            f"{found[chosen]}"
        )
        raise InputValueError(msg)
    if isinstance(n_nodes, bool) or not isinstance(n_nodes, int) or n_nodes < 1:
        msg = f"num_nodes={n_nodes!r} is no number of machines; pass 1, or as many as take part"
        raise InputValueError(msg)


def _devices_here() -> dict[str, int]:
    """Count the processors that a process of this machine could train on."""
    import torch

    bound = hasattr(os, "sched_getaffinity")
    n_cpus = len(os.sched_getaffinity(0)) if bound else os.cpu_count() or 1
    return {
        "cpu": n_cpus,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }


def _problem(devices: object, n_here: int, *, numbered: bool) -> str:
    """Say what is wrong with devices; nothing if nothing is."""
    if isinstance(devices, str):
        text = devices.strip()
        if text == "auto":
            return ""
        try:
            parts = [int(part) for part in text.split(",") if part.strip()]
        except ValueError:
            return "is no number of devices"
        devices = parts if "," in text else parts[0] if parts else 0
    if isinstance(devices, bool) or not isinstance(devices, (int, list, tuple)):
        return "is no number of devices"
    if isinstance(devices, int):
        if devices == -1:
            return ""
        return "" if 1 <= devices <= n_here else "are not there"
    if not numbered:
        return "names processors one by one, which works for GPUs alone"
    if not devices or any(isinstance(i, bool) or not isinstance(i, int) for i in devices):
        return "is no list of devices"
    if len(set(devices)) < len(devices):
        return "names a device twice"
    return "" if all(0 <= i < n_here for i in devices) else "are not there"


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
    from rankbygene.train._sync_batchnorm import SyncBatchNorm

    settings = {**trainer_kwargs, "use_distributed_sampler": False}
    if settings.get("strategy") == "fsdp":
        settings["strategy"] = _sharding(devices, settings.get("num_nodes", 1))
    elif "strategy" in settings:
        settings["strategy"] = _checked(settings["strategy"])
    # Not on a CPU, for which PyTorch has none.
    plugins = settings.get("plugins") or []
    plugins = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
    if settings.pop("sync_batchnorm", True) and device.type == "cuda":
        plugins.append(SyncBatchNorm())
    if plugins:
        settings["plugins"] = plugins
    return settings


@contextmanager
def one_or_all_tasks(devices: object, n_nodes: int = 1) -> Iterator[None]:
    """Let a trainer that is made in the block count the tasks of a SLURM job only if it has several.

    Lightning takes a training on one device for a mistake in a job of several tasks, and advises
    ``devices=<tasks>``, which is another training than the one asked for.
    """
    alone = devices in (1, "1", "auto") or (
        isinstance(devices, (list, tuple)) and len(devices) == 1
    )
    tasks = os.environ.pop("SLURM_NTASKS", None) if alone and n_nodes == 1 else None
    try:
        yield
    finally:
        if tasks is not None:
            os.environ["SLURM_NTASKS"] = tasks


@contextmanager
def trainer_errors() -> Iterator[None]:
    """Say as an error of the input what a trainer finds wrong with its settings.

    Raises
    ------
    InputValueError
        In place of what the block raises.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, RankByGeneError):
            raise
        msg = f"the trainer cannot be made with these settings: {error}"
        raise InputValueError(msg) from error


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
