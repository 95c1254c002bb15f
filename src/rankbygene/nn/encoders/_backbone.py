"""Image encoders: any timm model, named pathology encoders, or a module of the user's own."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankbygene._arguments import checked, checked_fields
from rankbygene._checks import check_mapping, check_text
from rankbygene.errors import BackboneError, InputValueError
from rankbygene.nn._images_seen import images_seen_by
from rankbygene.nn.encoders._hub import check_obtainable, is_on_hub, why_not
from rankbygene.nn.encoders._pathology import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PATHOLOGY_BACKBONES,
    PathologyBackbone,
    Pooling,
)
from rankbygene.nn.encoders._weights import hash_weights, load_weights

__all__ = ["BackboneSpec", "build_backbone"]

CUSTOM = "custom"


@checked_fields
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
    architecture
        Of an encoder from the hub: name and arguments by which timm builds the same network without
        the hub.
    images_seen
        Slides that it was trained on by :func:`rankbygene.model.pretrain`, without expression: for
        each name the fingerprints of its image.
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
    architecture: Mapping[str, Any] | None = None
    images_seen: Mapping[str, list[str]] = field(default_factory=dict)


class PooledBackbone(nn.Module):
    """Encoder whose output is always one vector per image, ``[B, n_features]``.

    Maps ``[B, C, H, W]`` are averaged over space. Of tokens ``[B, T, C]`` the class token is taken
    where the network has one, else the mean of the patch tokens; ``token+mean`` sets the class
    token beside that mean.
    """

    def __init__(self, network: nn.Module, pooling: Pooling = "token") -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        network: Any = self.network
        if self.pooling == "token+mean":
            return self._token_and_mean(network.forward_features(images))
        return self._pool(network(images))

    def forward_map(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the vectors of :meth:`forward` and the places of the map they come from.

        Places are the pixels of a convolutional map in rows, or the patch tokens of a transformer:
        ``[B, T, C]``. A module of the user's own that gives vectors has one place.
        """
        network: Any = self.network
        if not hasattr(network, "forward_head"):
            features = network(images)
            return self._pool(features), _places(features)
        features = network.forward_features(images)
        places = _places(
            features,
            n_prefix=getattr(network, "num_prefix_tokens", 0),
            channels_last=str(getattr(network, "output_fmt", "")).endswith("NHWC"),
        )
        if self.pooling == "token+mean":
            return self._token_and_mean(features), places
        return self._pool(network.forward_head(features)), places

    def map_shape(self, tile_px: int) -> tuple[int, int]:
        """Count the places of a tile's map and their features, by a blank tile."""
        was_training = self.training
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        with torch.no_grad():
            _, places = self.eval().forward_map(torch.zeros(1, 3, tile_px, tile_px, device=device))
        self.train(was_training)
        return int(places.shape[1]), int(places.shape[2])

    def _token_and_mean(self, tokens: torch.Tensor) -> torch.Tensor:
        n_prefix = getattr(self.network, "num_prefix_tokens", 0)
        return torch.cat([tokens[:, 0], tokens[:, n_prefix:].mean(1)], dim=1)

    def _pool(self, features: torch.Tensor) -> torch.Tensor:
        if features.ndim == 4:
            return features.mean((-1, -2))
        if features.ndim == 3:
            has_class = getattr(self.network, "cls_token", None) is not None
            n_prefix = getattr(self.network, "num_prefix_tokens", 0)
            return features[:, 0] if has_class else features[:, n_prefix:].mean(1)
        return features


def _places(
    features: torch.Tensor, *, n_prefix: int = 0, channels_last: bool = False
) -> torch.Tensor:
    """Lay out vectors, tokens or a map as ``[B, T, C]``."""
    if features.ndim == 4:
        return features.flatten(1, 2) if channels_last else features.flatten(2).mT
    return features[:, None] if features.ndim == 2 else features[:, n_prefix:]


@checked
def build_backbone(
    backbone: str | nn.Module = "resnet18",
    *,
    pretrained: bool = True,
    weights: str | Path | None = None,
    tile_px: int | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, BackboneSpec]:
    """Build an image encoder.

    Parameters
    ----------
    backbone
        A name in ``PATHOLOGY_BACKBONES``, a timm model name, an ``hf-hub:`` id, or a module that
        maps ``[B, 3, H, W]`` to vectors, maps ``[B, C, H, W]`` or tokens ``[B, T, C]``. Of a module a
        copy is taken: yours stays as it is, whatever is trained.
    pretrained
        Load published weights. The default backbone's are Apache-2.0 and not gated. Of the
        pathology encoders, ``"h-optimus-0"`` (Apache-2.0, 1.1 billion parameters) and, for
        non-commercial research, ``"kaiko-vits16"`` (22 million) need no request for access.
    weights
        Local file of weights instead: safetensors, or a checkpoint of tensors.
    tile_px
        Side of the tiles in pixels, where it is not the encoder's own; a vision transformer then
        interpolates its position embedding.
    architecture
        What :class:`BackboneSpec` says of an encoder from the hub, to build it without asking the hub; its
        weights are random then.

    Returns
    -------
    The module, ``[B, 3, H, W]`` to ``[B, n_features]``, and its description.

    Raises
    ------
    BackboneError
        The name is unknown, or weights cannot be had (offline, gated, missing or unfit file); or a
        module cannot be copied.
    InputValueError
        ``tile_px`` is no multiple of the patch size, ``weights`` came with a module, or a module
        gives something other than vectors, maps or tokens.
    """
    if isinstance(backbone, nn.Module):
        if weights is not None:
            msg = (
                "`weights` goes with a backbone's name; load them into the module before passing it"
            )
            raise InputValueError(msg)
        network, card, name, pretrained = PooledBackbone(_copied(backbone)), None, CUSTOM, False
    else:
        name, card = backbone, PATHOLOGY_BACKBONES.get(backbone)
        pretrained = pretrained and weights is None
        if architecture is None:
            created = _create(backbone, card, pretrained=pretrained, tile_px=tile_px)
            architecture = _described_on_hub(name)
        else:
            created = _rebuild(architecture, name, tile_px)
        network = PooledBackbone(created, card.pooling if card else "token")
    if weights is not None:
        load_weights(network.network, Path(weights), name)
    if tile_px is not None:
        _check_patches(network.network, tile_px)
    spec = _describe(network, name, card, pretrained, weights, tile_px)
    seen = images_seen_by(backbone, weights)
    return network, replace(spec, architecture=architecture, images_seen=seen)


def _copied(module: nn.Module) -> nn.Module:
    """Copy a module of the user's, from which the next model must start as this one did."""
    try:
        return copy.deepcopy(module)
    # Whatever its attributes raise: tensors with a history, locks, open files.
    except Exception as error:
        msg = (
            f"the module {type(module).__name__} cannot be copied ({type(error).__name__}: {error}), and "
            "it would be changed by training. Keep results of computations, locks and open files out of its "
            "attributes, so that copy.deepcopy(module) works"
        )
        raise BackboneError(msg) from error


def _create(
    name: str, card: PathologyBackbone | None, *, pretrained: bool, tile_px: int | None
) -> nn.Module:
    if card is None:
        _check_known(name)
        timm_name, arguments = name, {}
    else:
        timm_name = f"hf-hub:{card.hub_id}" if pretrained else card.architecture
        arguments = _card_arguments(card)
    check_obtainable(name, card, pretrained=pretrained)
    sizes = _size_arguments(name, tile_px) if card is None else [{}]
    try:
        return _first_accepted(timm_name, sizes, pretrained=pretrained, num_classes=0, **arguments)
    except Exception as error:
        raise BackboneError(why_not(name, card, error, pretrained=pretrained)) from error


def _described_on_hub(name: str) -> dict[str, Any] | None:
    """Give name and arguments of an encoder's architecture; None where its name says it all."""
    if not is_on_hub(name):
        return None
    from timm.models import load_model_config_from_hf

    _, built, arguments = load_model_config_from_hf(name.partition(":")[2])
    return {"name": built, "args": dict(arguments or {})}


def _rebuild(architecture: Mapping[str, Any], name: str, tile_px: int | None) -> nn.Module:
    missing = {"name", "args"} - set(architecture)
    if missing:
        msg = f"architecture has no {sorted(missing)}; it is that of a `BackboneSpec`: {{'name': ..., 'args': {{...}}}}"
        raise InputValueError(msg)
    built = check_text(architecture["name"], "architecture['name']")
    arguments = {**check_mapping(architecture["args"], "architecture['args']"), "num_classes": 0}
    try:
        return _first_accepted(
            built, _size_arguments(built, tile_px), pretrained=False, **arguments
        )
    # What timm raises depends on the architecture.
    except Exception as error:
        msg = f"the architecture {built!r} of backbone {name!r} cannot be built here ({error}); update timm"
        raise BackboneError(msg) from error


def _check_known(name: str) -> None:
    import timm

    if ":" in name or timm.is_model(name):
        return
    if name == CUSTOM:
        msg = "this encoder is a module of your own and cannot be built by name; pass it as `backbone`"
        raise BackboneError(msg)
    close = difflib.get_close_matches(name, [*PATHOLOGY_BACKBONES, *timm.list_models()], n=3)
    meant = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
    msg = (
        f"backbone {name!r} is not known.{meant} Pass a timm model name (`timm.list_models()`), an "
        f"'hf-hub:' id, a torch module, or one of {', '.join(PATHOLOGY_BACKBONES)}."
    )
    raise BackboneError(msg)


def _size_arguments(name: str, tile_px: int | None) -> list[dict[str, Any]]:
    """Ways to tell a timm model the size of its images; convolutional ones need none."""
    import timm

    config = None if ":" in name else timm.get_pretrained_cfg(name)
    if tile_px is None or (config is not None and config.input_size[-1] == tile_px):
        return [{}]
    return [{"dynamic_img_size": True}, {"img_size": tile_px}, {}]


def _first_accepted(timm_name: str, sizes: list[dict[str, Any]], **arguments: Any) -> nn.Module:
    import timm

    *attempts, last = sizes
    for size in attempts:
        (argument,) = size
        try:
            created: nn.Module = timm.create_model(timm_name, **arguments, **size)
        except TypeError as error:
            if argument not in str(error):
                raise
            continue
        # Some architectures swallow arguments that they do not know.
        if argument == "img_size" or getattr(created, argument, False):
            return created
    created = timm.create_model(timm_name, **arguments, **last)
    return created


def _check_patches(network: nn.Module, tile_px: int) -> None:
    if not hasattr(network, "num_prefix_tokens"):  # only plain transformers cannot pad
        return
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", (1,))[0]
    if tile_px % patch:
        below = tile_px // patch * patch
        msg = (
            f"tile_px={tile_px} is no multiple of the encoder's patch of {patch} px; pass "
            f"tile_px={max(below, patch)} or {below + patch}"
        )
        raise InputValueError(msg)


def _card_arguments(card: PathologyBackbone) -> dict[str, Any]:
    arguments: dict[str, Any] = {**card.arguments, "dynamic_img_size": True}
    # Some published configurations leave out the pooling, and would give all tokens.
    arguments["global_pool"] = "token" if card.pooling == "token" else ""
    if card.swiglu:
        from timm.layers import SwiGLUPacked  # type: ignore[attr-defined]

        arguments |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    return arguments


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
        n_features=_count_features(network, card, tile_px or own_px),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        tile_um=own_um,
        tile_px=own_px,
        pretrained=pretrained,
        weights=None if weights is None else str(weights),
        weights_hash=hash_weights(network),
    )


def _count_features(network: PooledBackbone, card: PathologyBackbone | None, tile_px: int) -> int:
    if card is not None:
        inner: Any = network.network
        return int(inner.num_features) * (2 if network.pooling == "token+mean" else 1)
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
