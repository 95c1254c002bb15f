"""Weight files: read without running code, fitted to a network, and identified by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankbygene._arguments import checked
from rankbygene.errors import BackboneError

__all__ = [
    "hash_weights",
    "load_shared",
    "load_weights",
    "read_tensors",
    "save_tensors",
    "shared_state",
]


@checked
def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors from safetensors or from a checkpoint, without running any code in it.

    Raises
    ------
    BackboneError
        The file is missing or holds something else.
    """
    if not path.is_file():
        msg = (
            f"there is no file {path}; pass the path of a weight file, or `pretrained=False` to start "
            "from random weights"
        )
        raise BackboneError(msg)
    try:
        loaded = _read(path)
    except Exception as error:
        # torch's own text would advise to switch the safety off.
        msg = f"{path} is not a file of plain tensors, so it is not opened ({type(error).__name__})"
        raise BackboneError(msg) from error
    for key in ("state_dict", "model", "teacher"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    items = loaded.items() if isinstance(loaded, Mapping) else ()
    tensors = {name: value for name, value in items if isinstance(value, torch.Tensor)}
    if not tensors:
        msg = f"{path} holds no named tensors"
        raise BackboneError(msg)
    return tensors


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def save_tensors(
    tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, readable by whom other new files are readable."""
    from safetensors.torch import save_file

    # safetensors gives its files to their owner alone, whatever the user's mask says.
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)
    path.chmod(mode)


def load_weights(network: nn.Module, path: Path, name: str) -> None:
    """Load a file into a timm network; a classifier that the network lacks is left out.

    Raises
    ------
    BackboneError
        The file cannot be read or is of another architecture.
    """
    state = read_tensors(path)
    try:
        network.load_state_dict(_without_classifier(_to_timm_layout(state, network), network))
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        msg = (
            f"weights in {path} do not fit backbone {name!r}: {error}. Give a file of that "
            "architecture, or another backbone."
        )
        raise BackboneError(msg) from error


def _to_timm_layout(state: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """Resample the position embedding of a vision transformer to the network's image size."""
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    if not isinstance(network, VisionTransformer):
        return state
    fitted: dict[str, torch.Tensor] = checkpoint_filter_fn(state, network)
    return fitted


def _without_classifier(
    state: dict[str, torch.Tensor], network: nn.Module
) -> dict[str, torch.Tensor]:
    wanted = set(network.state_dict())
    heads = ("fc.", "head.", "classifier.")
    return {k: v for k, v in state.items() if k in wanted or not k.startswith(heads)}


def shared_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Name every tensor of a network once, also where several parts share it."""
    state = module.state_dict()
    return {name: tensor for name, tensor in state.items() if name not in _aliases(module)}


def load_shared(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put back what :func:`shared_state` gave."""
    found = {alias: state[name] for alias, name in _aliases(module).items() if name in state}
    module.load_state_dict({**found, **state})


def _aliases(module: nn.Module) -> dict[str, str]:
    """Further names of tensors, with the first name of each."""
    first: dict[int, str] = {}
    names = [(name, id(tensor)) for name, tensor in module.state_dict(keep_vars=True).items()]
    return {name: first[key] for name, key in names if first.setdefault(key, name) != name}


def hash_weights(network: nn.Module) -> str:
    """SHA-256 over the names and bytes of all tensors, independent of their device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
