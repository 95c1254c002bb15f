"""Published pathology encoders that timm can build, with what each was trained on.

Constructor arguments and normalisation are facts of the model cards. Loading weights means
accepting their licence: most are gated and limited to non-commercial research.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rankbygene._arguments import checked_fields

__all__ = ["PATHOLOGY_BACKBONES", "PathologyBackbone", "Pooling"]

Pooling = Literal["token", "token+mean"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
_OPTIMUS_MEAN, _OPTIMUS_STD = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)


@checked_fields
@dataclass(frozen=True)
class PathologyBackbone:
    """How to build one encoder.

    Attributes
    ----------
    hub_id
        Repository of the weights on the Hugging Face hub.
    architecture, arguments
        timm's name and constructor arguments.
    licence, gated
        Of the weights; gated ones are given out after a request on the hub.
    mean, std
        Channel statistics on the scale [0, 1].
    pooling
        ``"token"``: the class token. ``"token+mean"``: class token beside the mean of the patch
        tokens (registers left out), as the Virchow cards ask for.
    swiglu
        Whether the blocks hold packed SwiGLU layers with SiLU.
    tile_um, tile_px
        Width of a training tile in micrometres and pixels (0.5 um per pixel).
    """

    hub_id: str
    architecture: str
    licence: str
    gated: bool
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    pooling: Pooling = "token"
    swiglu: bool = False
    tile_um: float = 112.0
    tile_px: int = 224


PATHOLOGY_BACKBONES: dict[str, PathologyBackbone] = {
    "uni": PathologyBackbone(
        "MahmoodLab/UNI",
        "vit_large_patch16_224",
        "CC-BY-NC-ND-4.0",
        gated=True,
        arguments={"init_values": 1e-5},
    ),
    "uni2": PathologyBackbone(
        "MahmoodLab/UNI2-h",
        "vit_giant_patch14_224",
        "CC-BY-NC-ND-4.0",
        gated=True,
        arguments={
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
        },
        swiglu=True,
    ),
    "virchow": PathologyBackbone(
        "paige-ai/Virchow",
        "vit_huge_patch14_224",
        "Apache-2.0",
        gated=True,
        arguments={"init_values": 1e-5, "mlp_ratio": 5.3375},
        pooling="token+mean",
        swiglu=True,
    ),
    "virchow2": PathologyBackbone(
        "paige-ai/Virchow2",
        "vit_huge_patch14_224",
        "CC-BY-NC-ND-4.0",
        gated=True,
        arguments={"init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4},
        pooling="token+mean",
        swiglu=True,
    ),
    "h-optimus-0": PathologyBackbone(
        "bioptimus/H-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        "Apache-2.0",
        gated=False,
        arguments={"img_size": 224, "init_values": 1e-5},
        mean=_OPTIMUS_MEAN,
        std=_OPTIMUS_STD,
    ),
    "h-optimus-1": PathologyBackbone(
        "bioptimus/H-optimus-1",
        "vit_giant_patch14_reg4_dinov2",
        "CC-BY-NC-ND-4.0",
        gated=True,
        arguments={"img_size": 224, "init_values": 1e-5},
        mean=_OPTIMUS_MEAN,
        std=_OPTIMUS_STD,
    ),
    "h0-mini": PathologyBackbone(
        "bioptimus/H0-mini",
        "vit_base_patch14_reg4_dinov2",
        "CC-BY-NC-ND-4.0",
        gated=True,
        arguments={"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.33334},
        mean=_OPTIMUS_MEAN,
        std=_OPTIMUS_STD,
        swiglu=True,
    ),
    "gigapath": PathologyBackbone(
        "prov-gigapath/prov-gigapath",
        "vit_giant_patch14_dinov2",
        "Apache-2.0",
        gated=True,
        arguments={"img_size": 224, "patch_size": 16, "init_values": 1e-5, "mlp_ratio": 5.33334},
    ),
    "phikon": PathologyBackbone(
        "1aurent/vit_base_patch16_224.owkin_pancancer",
        "vit_base_patch16_224",
        "Owkin non-commercial",
        gated=False,
    ),
    "kaiko-vits16": PathologyBackbone(
        "1aurent/vit_small_patch16_224.kaiko_ai_towards_large_pathology_fms",
        "vit_small_patch16_224",
        "Kaiko non-commercial",
        gated=False,
        mean=_HALF,
        std=_HALF,
    ),
    "kaiko-vitb16": PathologyBackbone(
        "1aurent/vit_base_patch16_224.kaiko_ai_towards_large_pathology_fms",
        "vit_base_patch16_224",
        "Kaiko non-commercial",
        gated=False,
        mean=_HALF,
        std=_HALF,
    ),
    "kaiko-vitl14": PathologyBackbone(
        "1aurent/vit_large_patch14_reg4_224.kaiko_ai_towards_large_pathology_fms",
        "vit_large_patch14_reg4_dinov2",
        "Kaiko non-commercial",
        gated=False,
        arguments={"img_size": 224, "init_values": 1e-5},
        mean=_HALF,
        std=_HALF,
    ),
}
