"""Whether weights can be had from the Hugging Face hub, and what to do where they cannot."""

from __future__ import annotations

import urllib.request

from rankbygene.errors import BackboneError
from rankbygene.nn.encoders._pathology import PathologyBackbone

__all__ = ["check_obtainable", "is_on_hub", "why_not"]

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def check_obtainable(name: str, card: PathologyBackbone | None, *, pretrained: bool) -> None:
    """Fail at once where files are neither cached nor reachable; the hub retries for a minute.

    Raises
    ------
    BackboneError
        The hub cannot be reached.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    repository = _repository(name, card, pretrained=pretrained)
    files = _WEIGHTS if pretrained else ("config.json",)
    if (
        not repository
        or constants.HF_HUB_OFFLINE  # then the hub itself refuses at once
        or any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)
    ):
        return
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=5).close()
    except OSError as error:
        raise BackboneError(why_not(name, card, error, pretrained=pretrained)) from error


def is_on_hub(name: str) -> bool:
    """Whether a name of timm's means a repository on the hub."""
    return name.startswith(("hf-hub:", "hf_hub:"))


def _repository(name: str, card: PathologyBackbone | None, *, pretrained: bool) -> str:
    """Repository on the hub that will be asked; empty where none will."""
    import timm

    if ":" in name:
        return name.partition(":")[2].partition("@")[0] if is_on_hub(name) else ""
    if not pretrained:
        return ""
    if card is not None:
        return card.hub_id
    config = timm.get_pretrained_cfg(name)
    return (config.hf_hub_id if config else None) or ""


def why_not(
    name: str, card: PathologyBackbone | None, error: BaseException, *, pretrained: bool
) -> str:
    """Say why a backbone could not be built or its weights not be had, and what to do."""
    reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if not pretrained:
        return (
            f"backbone {name!r} cannot be built ({reason}). An 'hf-hub:' id needs the network for "
            "its description, or the hub's cache."
        )
    gated = ""
    if card is not None and card.gated:
        gated = (
            f" Its weights are gated ({card.licence}): ask for access at "
            f"https://huggingface.co/{card.hub_id} and log in with `hf auth login`."
        )
    return (
        f"weights of backbone {name!r} could not be loaded ({reason}).{gated} Without access or "
        "network, pass `weights=` a local file, or `pretrained=False` to start from random weights."
    )
