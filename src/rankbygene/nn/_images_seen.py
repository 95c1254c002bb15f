"""What an encoder says of the slides that it was trained on without expression.

It goes with the weights: on the network that :func:`rankbygene.model.pretrain` gives, and in the metadata of
the file that it is saved as.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from rankbygene.errors import BackboneError

__all__ = ["RECORD", "ImagesSeen", "images_seen_by", "joined", "mark_images_seen"]

# For each slide the fingerprints of its image, see rankbygene.data._fingerprint.fingerprint_image.
ImagesSeen: TypeAlias = dict[str, list[str]]

RECORD = "rankbygene"  # in the metadata of a weight file
_FIELD = "images_seen"
_ATTRIBUTE = "_rankbygene_images_seen"


def mark_images_seen(network: nn.Module, seen: ImagesSeen) -> None:
    """Let a network, and copies of it, say what it was trained on."""
    setattr(network, _ATTRIBUTE, seen)


def images_seen_by(backbone: str | nn.Module, weights: str | Path | None) -> ImagesSeen:
    """Give what a network, any part of it, or a file of weights says of its slides.

    Raises
    ------
    BackboneError
        The file has a record that cannot be read.
    """
    seen: ImagesSeen = {}
    for part in backbone.modules() if isinstance(backbone, nn.Module) else ():
        seen = joined(seen, getattr(part, _ATTRIBUTE, {}))
    return seen if weights is None else joined(seen, _in_file(Path(weights)))


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> ImagesSeen:
    """Join two lists; slides of one name in both keep the fingerprints of both."""
    return {
        name: list(dict.fromkeys([*first.get(name, ()), *second.get(name, ())]))
        for name in [*first, *(name for name in second if name not in first)]
    }


def _in_file(path: Path) -> ImagesSeen:
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(RECORD)
        seen = {} if text is None else json.loads(text).get(_FIELD, {})
        if not all(_is_texts(prints) for prints in seen.values()):
            raise TypeError
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        msg = (
            f"what {path} says of the slides that its weights were trained on cannot be read; save the "
            "encoder again, or load the tensors and write them without metadata"
        )
        raise BackboneError(msg) from error
    return {name: list(prints) for name, prints in seen.items()}


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
