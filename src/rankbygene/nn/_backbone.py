"""Image encoders: any timm model, named pathology encoders, or a module of the user's own."""

from __future__ import annotations

import hashlib
import logging
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankbygene.errors import BackboneError, InputValueError
from rankbygene.nn._pathology import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PATHOLOGY_BACKBONES,
    PathologyBackbone,
)

__all__ = ["BackboneSpec", "build_backbone", "read_tensors"]

logger = logging.getLogger(__name__)

CUSTOM = "custom"


@dataclass(frozen=True)
class BackboneSpec:
    """What an image encoder is and expects.

    Attributes
    ----------
    name
        As given; ``"custom"`` for a module of the user's own.
    n_features
        Width of its output.
    mean, std
        Channel statistics it expects, on the scale [0, 1].
    tile_um, tile_px
        Width of its tiles in micrometres and pixels.
    pretrained, weights
        Whether published weights were loaded, or the file they came from.
    weights_hash
        SHA-256 of the weights it started from.
    """

    name: str
    n_features: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tile_um: float
    tile_px: int
    pretrained: bool
    weights: str | None
    weights_hash: str


class PooledBackbone(nn.Module):
    """Encoder whose output is always one vector per image, ``[B, n_features]``.

    Maps ``[B, C, H, W]`` are averaged over space and tokens ``[B, T, C]`` over tokens;
    ``token+mean`` sets the class token beside the mean of the patch tokens.
    """

    def __init__(self, network: nn.Module, pooling: str = "timm") -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.pooling == "token+mean":
            network: Any = self.network
            tokens = network.forward_features(images)
            patches = tokens[:, network.num_prefix_tokens :]
            return torch.cat([tokens[:, 0], patches.mean(1)], dim=1)
        features: torch.Tensor = self.network(images)
        if features.ndim == 4:
            return features.mean((-1, -2))
        return features.mean(1) if features.ndim == 3 else features


def build_backbone(
    backbone: str | nn.Module = "resnet18",
    *,
    pretrained: bool = True,
    weights: str | Path | None = None,
    tile_px: int | None = None,
) -> tuple[nn.Module, BackboneSpec]:
    """Build an image encoder.

    Parameters
    ----------
    backbone
        A name in ``PATHOLOGY_BACKBONES``, a timm model name, an ``hf-hub:`` id, or a module that
        maps ``[B, 3, H, W]`` to vectors, maps or tokens.
    pretrained
        Load published weights. The default backbone's are Apache-2.0 and not gated.
    weights
        Local file of weights instead: safetensors, or a checkpoint of tensors.
    tile_px
        Side of the tiles, where it is not the encoder's own; vision transformers then interpolate
        their position embedding.

    Returns
    -------
    The module, ``[B, 3, H, W]`` to ``[B, n_features]``, and its description.

    Raises
    ------
    BackboneError
        The name is unknown, or weights cannot be had (offline, gated, missing or unfit file).
    """
    if isinstance(backbone, nn.Module):
        if weights is not None:
            msg = (
                "`weights` goes with a backbone's name; load them into the module before passing it"
            )
            raise InputValueError(msg)
        network, card, name, pretrained = PooledBackbone(backbone), None, CUSTOM, False
    else:
        name, card = backbone, PATHOLOGY_BACKBONES.get(backbone)
        pretrained = pretrained and weights is None
        created = _create(backbone, card, pretrained=pretrained, tile_px=tile_px)
        network = PooledBackbone(created, card.pooling if card else "timm")
    if weights is not None:
        _load_weights(network.network, Path(weights), name)
    return network, _describe(network, name, card, pretrained, weights, tile_px)


def _create(
    name: str, card: PathologyBackbone | None, *, pretrained: bool, tile_px: int | None
) -> nn.Module:
    import timm

    arguments: dict[str, Any] = {"num_classes": 0}
    timm_name = name
    if card is not None:
        arguments |= _card_arguments(card)
        timm_name = f"hf-hub:{card.hub_id}" if pretrained else card.architecture
    if tile_px is not None and "vit" in timm_name:
        arguments["dynamic_img_size"] = True
    if pretrained:
        _check_obtainable(name, card)
    try:
        created: nn.Module = timm.create_model(timm_name, pretrained=pretrained, **arguments)
    except Exception as error:
        raise BackboneError(_why_not(name, card, pretrained)) from error
    return created


def _check_obtainable(name: str, card: PathologyBackbone | None) -> None:
    """Fail at once where weights are neither cached nor reachable; the hub retries for a minute."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    if card is not None:
        repository = card.hub_id
    elif ":" in name:
        repository = name.partition(":")[2]
    else:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        repository = (config.hf_hub_id if config else None) or ""
    files = ("model.safetensors", "pytorch_model.bin")
    if not repository or any(
        isinstance(try_to_load_from_cache(repository, file), str) for file in files
    ):
        return
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=5).close()
    except OSError as error:
        raise BackboneError(_why_not(name, card, pretrained=True)) from error


def _card_arguments(card: PathologyBackbone) -> dict[str, Any]:
    arguments = dict(card.arguments) | {"dynamic_img_size": True}
    if card.swiglu:
        from timm.layers import SwiGLUPacked  # type: ignore[attr-defined]

        arguments |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    return arguments


def _why_not(name: str, card: PathologyBackbone | None, pretrained: bool) -> str:
    if not pretrained:
        known = ", ".join(PATHOLOGY_BACKBONES)
        return (
            f"backbone {name!r} cannot be built; pass a timm model name (`timm.list_models()`), one "
            f"of {known}, or a torch module. An `hf-hub:` id needs the network for its description."
        )
    gated = ""
    if card is not None and card.gated:
        gated = (
            f" Its weights are gated ({card.licence}): ask for access at "
            f"https://huggingface.co/{card.hub_id} and log in with `hf auth login`."
        )
    return (
        f"weights of backbone {name!r} could not be loaded: the hub cannot be reached, or refuses "
        f"access.{gated} Offline, pass `weights=` a local file, or `pretrained=False` to start from "
        "random weights."
    )


def _load_weights(network: nn.Module, path: Path, name: str) -> None:
    try:
        state = _strip_classifier(read_tensors(path), network)
        network.load_state_dict(state)
    except BackboneError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        msg = (
            f"weights in {path} do not fit backbone {name!r}: {error}. Give a file of that "
            "architecture, or another backbone."
        )
        raise BackboneError(msg) from error


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
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        loaded: Any = load_file(path)
    else:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            msg = f"{path} is not a checkpoint of plain tensors, so it is not opened: {error}"
            raise BackboneError(msg) from error
    for key in ("state_dict", "model", "teacher"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    tensors = {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        msg = f"{path} holds no tensors"
        raise BackboneError(msg)
    return tensors


def _strip_classifier(
    state: dict[str, torch.Tensor], network: nn.Module
) -> dict[str, torch.Tensor]:
    """Leave out the classifier that a published file may hold and this encoder does not."""
    wanted = set(network.state_dict())
    heads = ("fc.", "head.", "classifier.")
    return {k: v for k, v in state.items() if k in wanted or not k.startswith(heads)}


def _describe(
    network: PooledBackbone,
    name: str,
    card: PathologyBackbone | None,
    pretrained: bool,
    weights: str | Path | None,
    tile_px: int | None,
) -> BackboneSpec:
    config: Mapping[str, Any] = getattr(network.network, "pretrained_cfg", None) or {}
    if card is None:
        own_px = int(config.get("input_size", (3, 224, 224))[-1])
        mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
        # Where nothing says otherwise, the scale of the pathology encoders: 0.5 um per pixel.
        own_um = 112.0
    else:
        own_px, own_um, mean, std = card.tile_px, card.tile_um, card.mean, card.std
    return BackboneSpec(
        name=name,
        n_features=_count_features(network, tile_px or own_px, name),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        tile_um=own_um,
        tile_px=own_px,
        pretrained=pretrained,
        weights=None if weights is None else str(weights),
        weights_hash=hash_weights(network),
    )


def _count_features(network: PooledBackbone, tile_px: int, name: str) -> int:
    declared = getattr(network.network, "num_features", None)
    if isinstance(declared, int) and name != CUSTOM:
        return declared * (2 if network.pooling == "token+mean" else 1)
    was_training = network.training
    parameter = next(network.parameters(), torch.zeros(()))
    with torch.no_grad():
        output = network.eval()(torch.zeros(1, 3, tile_px, tile_px, device=parameter.device))
    network.train(was_training)
    if output.ndim != 2:
        msg = (
            f"the backbone must give [B, n_features], maps or tokens; it gave {tuple(output.shape)}"
        )
        raise InputValueError(msg)
    return int(output.shape[1])


def hash_weights(network: nn.Module) -> str:
    """SHA-256 over the names and bytes of all tensors, independent of their device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
