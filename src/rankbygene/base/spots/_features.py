"""The features of an encoder that training does not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene.base._inference import collect
from rankbygene.base.spots._annotate import free_memory
from rankbygene.data import FeatureBank
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    import torch

    from rankbygene.data import TileBank


def keep_features(
    encode: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    tiles: TileBank,
    *,
    device: torch.device,
    batch_size: int,
    precision: str,
) -> FeatureBank:
    """Encode every tile once, to train on what comes out.

    Features are kept in the type that the encoder computes at ``precision``, so that keeping them
    costs nothing of it.

    Raises
    ------
    InputValueError
        They would not fit in memory.
    """
    n = len(tiles)
    blocks = np.split(np.arange(n), np.arange(batch_size, n, batch_size))
    settings: dict[str, Any] = {"device": device, "precision": precision}
    one = collect(encode, [(np.arange(1), tiles[:1])], 1, **settings)
    _check_room(n * sum(values.nbytes for values in one.values()))
    return FeatureBank(collect(encode, ((rows, tiles[rows]) for rows in blocks), n, **settings))


def _check_room(n_bytes: int) -> None:
    free = free_memory()
    if n_bytes > 0.8 * free:
        msg = (
            f"the features of all tiles take {n_bytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are "
            "free; pass fine_tune='last_n' or 'lora', which keep none, a smaller backbone, or fewer spots"
        )
        raise InputValueError(msg)
