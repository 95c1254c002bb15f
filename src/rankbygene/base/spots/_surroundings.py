"""Results of spots that are seen with others: put together from what was computed tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from rankbygene.base.spots._spacing import warn_of_spacing
from rankbygene.data import local_places, nearest_spots

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.base.spots._context import Context, Neighbours
    from rankbygene.data import SpotFrame

__all__ = ["CONTEXT_FEATURES", "Around", "Combination", "SlideFeatures", "Surroundings"]

CONTEXT_FEATURES = "context_features"

# Spots that are put together at a time, and kept features that are read at a time.
AT_ONCE = 1024

# Reads rows of an array by its name; rows are those of the slide.
Read = Callable[[str, "NDArray[np.intp]"], "NDArray[np.float32]"]


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Some spots of a slide and what they look at, under the names that a batch of training has.

    Attributes
    ----------
    values
        What ``_apply`` gave for the ``U`` different tiles of the spots and their live neighbours, by
        name ``[U, ...]``.
    neighbours
        int64 ``[B, n]``: for each of ``B`` spots the places of its live neighbours among the ``U``, itself
        first, -1 for a missing one; ``[B, 1]`` where there are none.
    position
        float32 ``[U, 2]``, centres in micrometres.
    context, context_features, context_position
        int64 ``[B, n]``, ``[U', ...]`` and ``[U', 2]``, of frozen neighbours; None where there are none.
    place
        int64 ``[B]``: which rows of the slide the spots are.
    slide
        What ``_slide_product`` gave.
    """

    values: dict[str, torch.Tensor]
    neighbours: torch.Tensor
    position: torch.Tensor
    context: torch.Tensor | None
    context_features: torch.Tensor | None
    context_position: torch.Tensor | None
    place: torch.Tensor
    slide: Mapping[str, torch.Tensor]

    def own(self, name: str) -> torch.Tensor:
        """Give what ``_apply`` gave for the tiles of the spots themselves, ``[B, ...]``."""
        return self.values[name][self.neighbours[:, 0]]


class SlideFeatures:
    """The kept features of a slide, which are not all in memory.

    Parameters
    ----------
    frame
        The slide.
    read
        Reads rows of an array.
    device
        Where to put them.
    """

    def __init__(self, frame: SpotFrame, read: Read, device: torch.device) -> None:
        self.frame, self._read, self._device = frame, read, device

    def __len__(self) -> int:
        return self.frame.n_obs

    @property
    def position(self) -> torch.Tensor:
        """float32 ``[n, 2]``, centres in micrometres."""
        return torch.from_numpy(self.frame.centers_um.astype(np.float32)).to(self._device)

    def blocks(self, size: int = AT_ONCE) -> Iterator[torch.Tensor]:
        """Read the features of ``size`` rows at a time, each row once, in order."""
        for start in range(0, len(self), size):
            rows = np.arange(start, min(start + size, len(self)))
            yield torch.from_numpy(self._read(CONTEXT_FEATURES, rows)).to(self._device)

    def all(self) -> torch.Tensor:
        """Give the features of all rows, ``[n, ...]``, each read once."""
        return torch.cat(list(self.blocks()))


class Around:
    """Which rows of a slide the spots look at; found once per slide."""

    def __init__(self, frame: SpotFrame, context: Context) -> None:
        self.frame, self.context = frame, context
        self.live = _nearest(frame, context.live_neighbours)
        self.frozen = _nearest(frame, context.frozen_neighbours)

    def tiles_of(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Give the different tiles of spots and their live neighbours, and the places of these."""
        return local_places(rows[:, None] if self.live is None else self.live[rows])

    def rows_needed(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Rows whose tiles must be read to answer for ``rows``."""
        if self.context.whole_slide:
            return np.arange(self.frame.n_obs)
        if not self.context.looks_around:
            return rows
        needed = self.tiles_of(rows)[0]
        if self.frozen is not None:
            needed = np.union1d(needed, local_places(self.frozen[rows])[0])
        return needed


class Combines(Protocol):
    """What puts spots together: a model."""

    training_params: dict[str, Any]

    @property
    def device(self) -> torch.device: ...

    def _slide_product(self, slide: SlideFeatures) -> dict[str, torch.Tensor]: ...

    def _combine(self, spots: Surroundings) -> dict[str, torch.Tensor]: ...


class Combination:
    """Puts together what the tiles of a slide gave; what is done once per slide is done here.

    Parameters
    ----------
    model
        The model, whose ``_slide_product`` and ``_combine`` are called.
    around
        Who looks at whom.
    names
        Names of the arrays that were computed tile by tile.
    read
        Reads rows of one of them.
    """

    def __init__(self, model: Combines, around: Around, names: Sequence[str], read: Read) -> None:
        self._model, self._around, self._read = model, around, read
        self._names = [name for name in names if name != CONTEXT_FEATURES]
        learned = model.training_params.get("spacing_um")
        if learned is not None:
            warn_of_spacing(around.frame, learned)
        with torch.inference_mode():
            slide = SlideFeatures(around.frame, read, model.device)
            self._product = model._slide_product(slide)

    def __call__(self, rows: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
        """Give the results of some spots, each ``[len(rows), ...]``."""
        out: dict[str, NDArray[np.float32]] = {}
        for start in range(0, len(rows), AT_ONCE):
            block = rows[start : start + AT_ONCE]
            with torch.inference_mode():
                found = self._model._combine(self._of(block))
            for name, values in found.items():
                if name not in out:
                    out[name] = np.empty((len(rows), *values.shape[1:]), np.float32)
                out[name][start : start + len(block)] = values.float().cpu().numpy()
        return out

    def _of(self, rows: NDArray[np.intp]) -> Surroundings:
        tiles, neighbours = self._around.tiles_of(rows)
        near: dict[str, Any] = {"context": None, "context_features": None, "context_position": None}
        if self._around.frozen is not None:
            seen, places = local_places(self._around.frozen[rows])
            near = {
                "context": self._there(places),
                "context_features": self._there(self._read(CONTEXT_FEATURES, seen)),
                "context_position": self._there(self._position(seen)),
            }
        return Surroundings(
            values={name: self._there(self._read(name, tiles)) for name in self._names},
            neighbours=self._there(neighbours),
            position=self._there(self._position(tiles)),
            place=self._there(rows),
            slide=self._product,
            **near,
        )

    def _position(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return self._around.frame.centers_um[rows].astype(np.float32)

    def _there(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._model.device)


def _nearest(frame: SpotFrame, neighbours: Neighbours | None) -> NDArray[np.intp] | None:
    return None if neighbours is None else nearest_spots(frame.centers, neighbours.n)
