"""Seeds: one number repeats a run, and the caller's random state stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def choose_seed(seed: int | None) -> int:
    """Return ``seed``, or ``scvi.settings.seed`` where none is given, or 0."""
    if seed is not None:
        return seed
    import scvi

    return 0 if scvi.settings.seed is None else int(scvi.settings.seed)


@contextmanager
def forked_rng(seed: int) -> Iterator[None]:
    """Run a block under its own seeded torch random state, on every device."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
