"""What every training by comparison shares: the whole batch, however many devices and chunks encode it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.train._gather import gather, gather_batch
from rankbygene.train._grad_cache import Encoder, Tiles, encode_in_chunks
from rankbygene.train._shard import shard
from rankbygene.train._watched_plan import WatchedPlan

__all__ = ["Batch", "BatchPlan", "WholeBatch"]

Batch = Mapping[str, torch.Tensor]


class WholeBatch(NamedTuple):
    """A batch of all processes, of whose tiles this one has its share.

    Attributes
    ----------
    tiles
        The share of this process; None where the features of all were kept, which are then targets.
    sizes
        Tiles of each process.
    targets
        Everything but the images, of all processes.
    """

    tiles: Tiles | None
    sizes: list[int]
    targets: Batch


class BatchPlan(WatchedPlan, ABC):
    """Training by losses that compare the tiles of a batch.

    Every process encodes its share of the tiles, in chunks where memory is short, and compares the
    whole batch. All processes make the same random choices, those of the whole batch.

    Parameters
    ----------
    module
        The networks.
    chunk_size
        Tiles that a process encodes at a time. None: its whole share.
    seed
        Of every random choice.

    Raises
    ------
    InputValueError
        ``chunk_size`` is below 1.
    """

    # What a batch holds that all processes have, whatever their share is; it is not sent about.
    same_everywhere: ClassVar[frozenset[str]] = frozenset()

    @checked
    def __init__(self, module: nn.Module, *, chunk_size: int | None, seed: int) -> None:
        super().__init__(module)
        if chunk_size is not None and chunk_size < 1:
            msg = f"chunk_size is {chunk_size}; pass the tiles to encode at a time, at least 1, or None"
            raise InputValueError(msg)
        self.chunk_size = chunk_size
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)

    @abstractmethod
    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute every term of the loss by its name, unweighted, for one batch.

        Where there are many processes, ``batch`` is the share of this one, and the terms are those
        of the whole batch.
        """

    def configure_model(self) -> None:
        """Spread the weights over the devices, if the strategy has prepared for it."""
        if self.device_mesh is not None:
            shard(self.module, self.device_mesh["data_parallel"])

    def whole(self, batch: Batch) -> WholeBatch:
        """Learn what all processes have in their share of a batch."""
        if "image" not in batch:
            return self._of_kept(batch)
        images = batch["image"]
        if self._alone:
            places = torch.arange(len(images), device=images.device)
            return WholeBatch(Tiles(images, places, len(images)), [len(images)], batch)
        rows, parts = gather_batch(batch, leave={"image", *self.same_everywhere})
        sizes = rows["image"]
        start = sum(sizes[: self.global_rank])
        places = torch.arange(start, start + len(images), device=images.device)
        targets = self.join(parts, sizes) | self._same(batch)
        return WholeBatch(Tiles(images, places, sum(sizes)), sizes, targets)

    def _of_kept(self, batch: Batch) -> WholeBatch:
        """Join batches of kept features: without an encoder there is nothing to share."""
        if self._alone:
            return WholeBatch(None, [len(batch["features"])], batch)
        rows, parts = gather_batch(batch, leave=self.same_everywhere)
        sizes = rows["features"]
        return WholeBatch(None, sizes, self.join(parts, sizes) | self._same(batch))

    def _same(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: batch[name] for name in self.same_everywhere if name in batch}

    def all_rows(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Join tensors with those of the other processes, without gradients."""
        if self._alone:
            return tensors
        _, parts = gather_batch({str(i): rows for i, rows in enumerate(tensors)})
        return tuple(map(torch.cat, zip(*(part.values() for part in parts), strict=True)))

    @property
    def _alone(self) -> bool:
        return self._trainer is None or self._trainer.world_size == 1

    def join(self, parts: Sequence[Batch], sizes: Sequence[int]) -> dict[str, torch.Tensor]:
        """Make one batch of those of all processes, which have so many tiles."""
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def encode(
        self, encoder: Encoder, whole: WholeBatch, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        """Represent the tiles of all processes; gradients flow back to those that encoded them."""
        # The same number everywhere, none of them empty: processes meet in synchronised batch
        # normalisation.
        wanted = 1 if self.chunk_size is None else math.ceil(max(whole.sizes) / self.chunk_size)
        n_chunks = min(wanted, *whole.sizes)
        if whole.tiles is None:
            msg = "there are no tiles to encode: their features were kept"
            raise InputValueError(msg)
        encoded = encode_in_chunks(
            encoder, whole.tiles, generator, n_chunks=n_chunks, module=self.module
        )
        return tuple(gather(rows, whole.sizes) for rows in encoded)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed fit needs beside the weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["generator"] = self.generator.get_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        super().on_load_checkpoint(checkpoint)
        self.generator.set_state(checkpoint["generator"].cpu())
