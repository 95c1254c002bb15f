"""How image encoders run during a fit, which is not part of what they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch

from rankbygene._arguments import checked
from rankbygene._checks import shown
from rankbygene.errors import InputTypeError, InputValueError

__all__ = ["encoders_for_training"]


@runtime_checkable
class WithEncoders(Protocol):
    """Networks that say which of them encode images."""

    @property
    def encoders(self) -> list[torch.nn.Module]:
        """The image encoders, that which is trained first."""


def _check_encoders(value: object, name: str) -> WithEncoders:
    if not isinstance(value, WithEncoders):
        msg = (
            f"{name} is {shown(value)} of type {type(value).__name__}; networks with `encoders` are needed, "
            "such as a rankbygene.module.SpotModule"
        )
        raise InputTypeError(msg)
    return value


@contextmanager
@checked(module=_check_encoders)
def encoders_for_training(
    module: WithEncoders, *, compile: bool = False, gradient_checkpointing: bool = False
) -> Iterator[None]:
    """Run a module's image encoders differently within a block.

    Parameters
    ----------
    module
        The networks.
    compile
        Let :func:`torch.compile` make one program of each encoder when it first runs.
    gradient_checkpointing
        Keep only what enters each block of the trained encoder, and compute the rest again on the
        way back: about a third more work, much less memory. Running statistics of batch
        normalisation then move twice in a step.

    Raises
    ------
    InputValueError
        The encoder cannot compute its blocks again.
    """
    with ExitStack() as stack:
        if gradient_checkpointing:
            stack.enter_context(_checkpointed(module.encoders[0]))
        if compile:
            for encoder in module.encoders:
                stack.enter_context(_compiled(encoder))
        yield


@contextmanager
def _checkpointed(encoder: torch.nn.Module) -> Iterator[None]:
    network: Any = getattr(encoder, "network", encoder)
    try:
        network.set_grad_checkpointing(True)
    # timm's networks that cannot say so by an assertion.
    except (AttributeError, AssertionError) as error:
        msg = (
            "gradient_checkpointing=True needs a timm network that can compute its blocks again, which "
            "this image encoder is not; leave it out and pass a smaller batch_size"
        )
        raise InputValueError(msg) from error
    try:
        yield
    finally:
        network.set_grad_checkpointing(False)


@contextmanager
def _compiled(encoder: Any) -> Iterator[None]:
    # On the instance alone: what is saved, copied or counted of the encoder stays as it is.
    names = [name for name in ("forward", "forward_map") if hasattr(encoder, name)]
    for name in names:
        setattr(encoder, name, torch.compile(getattr(encoder, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(encoder, name)
