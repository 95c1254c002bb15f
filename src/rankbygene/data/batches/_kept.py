"""Kept features of the rows that spots look at, beside the spots' own tiles in a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from rankbygene.data.batches._resumable import sample_of
from rankbygene.data.expression._neighbors import local_places

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OF_SLIDE", "KeptContext", "KeptRows"]

Batch = dict[str, torch.Tensor]

# What a batch holds of its slide: the same in every process, and too large to be sent about.
OF_SLIDE = frozenset({"slide_features", "slide_position"})


@dataclass(frozen=True, eq=False)
class KeptRows:
    """Rows of one slide that the spots of one part of a split may look at.

    Parameters
    ----------
    features
        float32 ``[m, ...]``, of an encoder that does not change.
    position
        float32 ``[m, 2]``, centres in micrometres.
    """

    features: torch.Tensor
    position: torch.Tensor


@dataclass(frozen=True, eq=False)
class KeptContext:
    """What the spots of a training look at beside their own tiles.

    Parameters
    ----------
    sides
        For each slide and part of the split the rows that its spots may see. No side sees another.
    side, place
        For each spot its side, and its row there; -1 for a spot that is in no part, or whose own
        features nobody looks at.
    neighbours
        For each spot places in its side ``[n_spots, n]``, -1 for a missing one; None where spots do
        not look at single rows.
    whole
        Whether spots look at all rows of their side. A batch is then of one slide.
    """

    sides: Sequence[KeptRows]
    side: NDArray[np.intp]
    place: NDArray[np.intp]
    neighbours: NDArray[np.intp] | None
    whole: bool

    def of(self, spots: NDArray[np.intp]) -> Batch:
        """Give what a batch of these spots holds beside their tiles.

        ``context`` int64 ``[B, n]`` are places among ``context_features`` ``[U, ...]``, with
        ``context_position`` ``[U, 2]``: each different row once. ``slide_features`` and
        ``slide_position`` are all rows of the side, not copied, and ``place`` int64 ``[B]`` says which
        of them the spots are.
        """
        found: dict[str, torch.Tensor] = {}
        if self.neighbours is not None:
            found |= self._near(self.side[spots], self.neighbours[spots])
        if self.whole:
            kept = self.sides[self.side[spots[0]]]
            found["place"] = torch.from_numpy(self.place[spots].astype(np.int64))
            found |= {"slide_features": kept.features, "slide_position": kept.position}
        return found

    def content(self) -> Iterator[Any]:
        """Give what tells these rows from others."""
        yield from (self.side, self.place, self.whole)
        yield self.neighbours
        yield from (kept.position.numpy() for kept in self.sides)

    def sample(self) -> dict[str, torch.Tensor]:
        """Give the features of a few rows."""
        few = [kept.features[sample_of(np.arange(len(kept.features)))] for kept in self.sides]
        return {"context_features": torch.cat(few)}

    def _near(self, side: NDArray[np.intp], near: NDArray[np.intp]) -> Batch:
        starts = np.cumsum([0, *(len(kept.features) for kept in self.sides)])
        numbered = np.where(near >= 0, near + starts[side][:, None], -1)
        rows, places = local_places(numbered)
        owner = np.searchsorted(starts, rows, side="right") - 1
        features, position = [], []
        for number in np.unique(owner).tolist():
            own = torch.from_numpy(rows[owner == number] - starts[number])
            features.append(self.sides[number].features[own])
            position.append(self.sides[number].position[own])
        return {
            "context": torch.from_numpy(places.astype(np.int64)),
            "context_features": torch.cat(features),
            "context_position": torch.cat(position),
        }


class ContextBatches(Dataset[Batch]):
    """Batches of spots with what they look at."""

    def __init__(self, batches: Dataset[Batch], context: KeptContext) -> None:
        self._batches, self._context = batches, context

    def __getitem__(self, index: Any) -> Batch:
        batch = self._batches[index]
        spots = batch["spot"]
        if "neighbours" in batch:
            spots = spots[batch["neighbours"][:, 0]]
        return {**batch, **self._context.of(spots.numpy())}
