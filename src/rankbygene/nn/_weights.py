"""Weight files: read without running code, fitted to a network, and identified by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankbygene.errors import BackboneError

__all__ = ["hash_weights", "load_weights", "read_tensors"]


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


def hash_weights(network: nn.Module) -> str:
    """SHA-256 over the names and bytes of all tensors, independent of their device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
