"""Which weights of an image encoder training changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal, get_args

from torch import nn

from rankbygene._arguments import checked
from rankbygene._checks import check_real, check_whole
from rankbygene.errors import BackboneError, InputKeyError, InputValueError

__all__ = ["FineTune", "rest_frozen", "set_fine_tuning"]

FineTune = Literal["full", "last_n", "lora", "none"]

_LORA = {"rank": 8, "alpha": None, "dropout": 0.0}
# A name that no pattern of timm's matches.
_UNMATCHED = "@"


@checked
def set_fine_tuning(
    backbone: nn.Module,
    fine_tune: FineTune = "full",
    *,
    n_last: int | None = None,
    lora_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Choose, in place, the weights of an image encoder that training changes.

    Parameters
    ----------
    backbone
        Made by :func:`build_backbone`.
    fine_tune
        ``"full"``: all. ``"last_n"``: the last ``n_last`` blocks and what follows them, such as a
        final normalisation. ``"lora"``: low-rank additions to every linear layer
        :cite:p:`hu2022lora`, which takes `peft <https://huggingface.co/docs/peft>`_. ``"none"``:
        nothing.
    n_last
        Number of blocks, as timm groups a network's weights: residual blocks of a convolutional
        network (ResNet-18 has 8), layers of a transformer (ViT-S has 12).
    lora_kwargs
        ``rank`` (8), ``alpha`` (twice the rank; the addition is scaled by ``alpha / rank``) and
        ``dropout`` (0) of the additions.

    Raises
    ------
    InputValueError
        A choice is not known or does not go with another, the network has fewer blocks, or no
        linear layer.
    InputKeyError
        An entry of ``lora_kwargs`` is not known.
    BackboneError
        peft is not installed.
    """
    _check(fine_tune, n_last, lora_kwargs)
    network: Any = getattr(backbone, "network", backbone)
    if fine_tune == "none":
        network.requires_grad_(False)
    elif fine_tune == "last_n" and n_last is not None:
        trained = set(_last_blocks(network, n_last))
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trained)
    elif fine_tune == "lora":
        _add_lora(network, **{**_LORA, **(lora_kwargs or {})})


def rest_frozen(module: nn.Module) -> None:
    """Let every part of a network evaluate that has weights, none of which training changes.

    Running statistics of batch normalisation would change otherwise, and with them what frozen
    weights make of a tile.
    """
    for part in module.modules():
        weights = list(part.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            part.eval()


def _check(fine_tune: str, n_last: int | None, lora_kwargs: Mapping[str, Any] | None) -> None:
    if fine_tune not in get_args(FineTune):
        msg = f"fine_tune={fine_tune!r} is not known; choose {' or '.join(map(repr, get_args(FineTune)))}"
        raise InputValueError(msg)
    if (fine_tune == "last_n") != (n_last is not None):
        msg = (
            f"fine_tune={fine_tune!r} and n_last={n_last} do not go together: 'last_n' needs a "
            "number of blocks, such as n_last=2, and nothing else takes one"
        )
        raise InputValueError(msg)
    if lora_kwargs is not None and fine_tune != "lora":
        msg = f"lora_kwargs have no effect with fine_tune={fine_tune!r}; pass fine_tune='lora'"
        raise InputValueError(msg)
    unknown = sorted(set(lora_kwargs or ()) - set(_LORA))
    if unknown:
        msg = f"lora_kwargs {unknown} are not known; there are {list(_LORA)}"
        raise InputKeyError(msg)


def _last_blocks(network: nn.Module, n_last: int) -> list[str]:
    """Name the weights of the last blocks and of what follows them."""
    from timm.models import group_parameters

    if not hasattr(network, "group_matcher"):
        msg = (
            "fine_tune='last_n' takes a timm network, which says what its blocks are; freeze the "
            "layers of your own module yourself and pass fine_tune='full'"
        )
        raise InputValueError(msg)
    matcher: Any = network.group_matcher
    # One more name, so that there is always a last group of what belongs to no block.
    named = [*network.named_parameters(), (_UNMATCHED, None)]
    holder: Any = SimpleNamespace(named_parameters=lambda: named)
    groups: dict[int, list[str]] = group_parameters(holder, matcher())
    _stem, *blocks, tail = (groups[number] for number in sorted(groups))
    if not 1 <= n_last <= len(blocks):
        msg = (
            f"n_last is {n_last}; this network has {len(blocks)} blocks, so pass 1 to "
            f"{len(blocks)}, or fine_tune='full'"
        )
        raise InputValueError(msg)
    return [name for block in blocks[-n_last:] for name in block] + tail


def _add_lora(network: nn.Module, rank: int, alpha: float | None, dropout: float) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        msg = "fine_tune='lora' needs peft; install it with `pip install 'rankbygene[lora]'`"
        raise BackboneError(msg) from error
    # Layers of a class of their own may never call their forward, where an addition would act.
    targets = [name for name, part in network.named_modules() if type(part) is nn.Linear]
    if not targets:
        msg = (
            "fine_tune='lora' adds to the linear layers of attention and MLPs, of which this network "
            "has none; pass fine_tune='last_n' with n_last, or a transformer such as "
            "backbone='vit_small_patch16_224'"
        )
        raise InputValueError(msg)
    rank = check_whole(rank, "the rank of lora_kwargs", at_least=1)
    # peft says that it takes whole numbers alone, and takes others.
    scale: Any = 2 * rank
    if alpha is not None:
        scale = check_real(alpha, "the alpha of lora_kwargs", above=0)
    config = LoraConfig(
        r=rank,
        lora_alpha=scale,
        lora_dropout=check_real(dropout, "the dropout of lora_kwargs", at_least=0, below=1),
        # A pattern, because names in a list are taken for the ends of names, too.
        target_modules="|".join(map(re.escape, targets)),
    )
    inject_adapter_in_model(config, network)
