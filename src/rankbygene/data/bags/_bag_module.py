"""Batches of bags for Lightning: read one slide at a time, a sample of its tiles in each step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rankbygene._arguments import checked
from rankbygene._checks import check_places
from rankbygene.data.bags._bags import Bag, read_tiles
from rankbygene.data.bags._cohort import OnError
from rankbygene.data.batches._orders import Passes
from rankbygene.data.batches._resumable import ResumableBatches, sample_of
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["BagDataModule"]

Batch = dict[str, torch.Tensor]
# Bags of which a tile is read to tell data apart.
_BAGS_LOOKED_AT = 16
Item = tuple[int, int]  # a bag and the pass over the bags, which together seed its sample


class BagDataModule(ResumableBatches):
    """Batches of bags with what is to be learnt of them.

    A batch is a dict of tensors: ``features`` float32 ``[B, T, n_features]``, padded to the largest
    bag of the batch, ``mask`` bool ``[B, T]``, True where there is a tile, and the targets ``[B]``.
    Only the tiles of one batch are in memory. Batches are of nearly equal size, so that no bag sits
    out. Neither the random state of torch nor that of numpy is used or changed.

    Parameters
    ----------
    bags
        What the model learns from, one patient or slide each.
    targets
        Arrays ``[n_bags]`` by name.
    train, validation
        Positions in ``bags``. Training bags are shuffled in every epoch.
    batch_size
        Bags in a batch.
    max_tiles
        Tiles of a bag in a step. Larger bags are sampled without replacement, anew in every epoch;
        for validation always in the same way.
    seed
        Of order and samples.
    on_error
        ``"raise"``: stop at a bag that cannot be read. ``"warn"``: name it and go on without it.

    Raises
    ------
    InputValueError
        There is no training bag, or a size is not positive.
    """

    @checked
    def __init__(
        self,
        bags: Sequence[Bag],
        targets: Mapping[str, NDArray[np.generic]],
        *,
        train: ArrayLike,
        validation: ArrayLike = (),
        batch_size: int = 16,
        max_tiles: int = 2048,
        seed: int = 0,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__()
        if min(batch_size, max_tiles) < 1:
            msg = f"batch_size={batch_size} and max_tiles={max_tiles} have to be at least 1"
            raise InputValueError(msg)
        self.train_idx = check_places(train, len(bags), "train")
        self.val_idx = check_places(validation, len(bags), "validation")
        if not len(self.train_idx):
            msg = "there is no bag to train on; hold out fewer"
            raise InputValueError(msg)
        self.batch_size, self.seed = batch_size, seed
        self._batches = _Batches(bags, targets, max_tiles, seed, on_error)
        self._train_sampler = _ShuffledBatches(self.train_idx, batch_size, seed)
        self._bags, self._targets, self._max_tiles = bags, targets, max_tiles

    @property
    def n_train(self) -> int:
        """Number of training bags."""
        return len(self.train_idx)

    @property
    def n_val(self) -> int:
        """Number of validation bags."""
        return len(self.val_idx)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Give the shuffled training batches."""
        return self._loader(self._train_sampler)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Give the validation bags, always with the same tiles; none without a validation split."""
        if not self.n_val:
            return []
        parts = np.array_split(self.val_idx, -(-self.n_val // self.batch_size))
        return self._loader(_FixedBatches([[(int(i), 0) for i in part] for part in parts]))

    def _train_order(self) -> Passes:
        return self._train_sampler

    def _content(self) -> Iterator[Any]:
        yield from (self.seed, self.batch_size, self._max_tiles, self.train_idx, self.val_idx)
        yield {name: np.asarray(values) for name, values in self._targets.items()}
        yield [bag.n_tiles for bag in self._bags]
        for i in sample_of(self.train_idx)[:_BAGS_LOOKED_AT]:
            with suppress(InputValueError):
                yield read_tiles(self._bags[i], np.zeros(1, np.intp))

    def _loader(self, batches: Sampler[list[Item]]) -> DataLoader[Batch]:
        return DataLoader(
            self._batches,
            sampler=batches,
            batch_size=None,
            pin_memory=torch.cuda.is_available(),
            # Without one of its own the loader would draw from torch's global state.
            generator=torch.Generator().manual_seed(self.seed),
        )


class _Batches(Dataset[Batch]):
    """Bags, indexed by the items of a whole batch."""

    def __init__(
        self,
        bags: Sequence[Bag],
        targets: Mapping[str, NDArray[np.generic]],
        max_tiles: int,
        seed: int,
        on_error: OnError,
    ) -> None:
        self._bags, self._max_tiles, self._seed, self._on_error = bags, max_tiles, seed, on_error
        self._targets = {name: torch.from_numpy(np.array(v)) for name, v in targets.items()}
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self._bags)

    def __getitem__(self, items: list[Item]) -> Batch:
        read = {i: self._read(i, epoch) for i, epoch in items if i not in self._broken}
        tiles = {i: values for i, values in read.items() if values is not None}
        if not tiles:
            msg = f"none of the slides of a batch can be read ({len(items)} slides)"
            raise InputValueError(msg)
        features = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(values) for values in tiles.values()], batch_first=True
        )
        sizes = torch.tensor([len(values) for values in tiles.values()])
        chosen = torch.tensor(list(tiles))
        return {
            "features": features,
            "mask": torch.arange(features.shape[1]) < sizes[:, None],
            **{name: values[chosen] for name, values in self._targets.items()},
        }

    def _read(self, i: int, epoch: int) -> NDArray[np.float32] | None:
        bag = self._bags[i]
        try:
            if bag.n_tiles <= self._max_tiles:
                return read_tiles(bag)
            rng = np.random.default_rng([self._seed, i, epoch])
            # Sorted, because files are read fastest in their own order.
            rows = np.sort(rng.choice(bag.n_tiles, self._max_tiles, replace=False))
            return read_tiles(bag, rows)
        except InputValueError as error:
            if self._on_error == "raise":
                raise
            self._broken.add(i)
            warnings.warn(f"{error} (left out from here on)", UserWarning, stacklevel=2)
            return None


class _ShuffledBatches(Passes, Sampler["list[Item]"]):
    """Bags in a new order at every pass, in batches of nearly equal size."""

    def __init__(self, bags: NDArray[np.intp], batch_size: int, seed: int) -> None:
        super().__init__()
        self._bags, self._seed = bags, seed
        self._n_batches = -(-len(bags) // batch_size)

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[list[Item]]:
        before, first = self.begin()
        epoch = before + 1  # 0 is the sample of validation
        order = np.random.default_rng([self._seed, epoch]).permutation(self._bags)
        for part in np.array_split(order, self._n_batches)[first:]:
            yield [(int(i), epoch) for i in part]


class _FixedBatches(Sampler["list[Item]"]):
    """The same batches at every pass."""

    def __init__(self, batches: list[list[Item]]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Item]]:
        return iter(self._batches)
