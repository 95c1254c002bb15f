"""The features of an encoder that training does not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from rankbygene.base._inference import collect, run_over_tiles
from rankbygene.base.spots._annotate import free_memory
from rankbygene.data import FeatureBank, nearest_spots
from rankbygene.data.batches._kept import KeptContext, KeptRows
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.base.spots._context import Context
    from rankbygene.data import SpotFrame, SpotSplit, TileBank

    # Reads tiles of some rows of a slide, each with its place among them.
    Stream = Callable[
        [SpotFrame, NDArray[np.intp]], Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]
    ]


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
    advice = "pass fine_tune='last_n' or 'lora', which keep none,"
    _check_room(n * sum(values.nbytes for values in one.values()), "all tiles", advice)
    return FeatureBank(collect(encode, ((rows, tiles[rows]) for rows in blocks), n, **settings))


def keep_context(
    context: Context,
    frames: Mapping[str, SpotFrame],
    split: SpotSplit,
    used: Mapping[str, NDArray[np.intp]],
    stream: Stream,
    encode: Callable[[torch.Tensor], torch.Tensor],
    *,
    device: torch.device,
    batch_size: int,
    precision: str,
) -> KeptContext:
    """Encode once every row that the spots of a training may look at.

    Parameters
    ----------
    context
        What they look at.
    frames, split
        All spots of the slides, and what they are used for.
    used
        For each slide the spots that the training has.
    stream
        Reads tiles of some rows of a slide, each with its place among them.
    encode
        Maps tiles to features ``[B, ...]``.

    Raises
    ------
    InputValueError
        The features would not fit in memory.
    """
    seen = [
        _Seen.of(context, frame, split.labels[name], used[name]) for name, frame in frames.items()
    ]
    slides = list(zip(frames.values(), seen, strict=True))

    def encoded(frame: SpotFrame, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        found = run_over_tiles(
            lambda images: {"features": encode(images)},
            stream(frame, rows),
            len(rows),
            device=device,
            batch_size=batch_size,
            precision=precision,
        )
        return found["features"]

    frame, first = next((frame, one) for frame, one in slides if len(one.rows))
    n_rows = sum(len(one.rows) for one in seen)
    _check_room(n_rows * encoded(frame, first.rows[:1]).nbytes, "spots that others look at", "pass")
    sides: list[KeptRows] = []
    side = []
    for frame, one in slides:
        side.append(np.where(one.side >= 0, one.side + len(sides), -1))
        if not len(one.rows):  # none of its spots is in a part
            continue
        features = torch.from_numpy(encoded(frame, one.rows))
        position = torch.from_numpy(frame.centers_um[one.rows].astype(np.float32))
        pairs = zip(torch.split(features, one.sizes), torch.split(position, one.sizes), strict=True)
        sides += [KeptRows(*pair) for pair in pairs]
    return KeptContext(
        sides,
        np.concatenate(side),
        np.concatenate([one.place for one in seen]),
        None if context.frozen_neighbours is None else np.concatenate([one.near for one in seen]),
        context.whole_slide,
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the spots of one slide may look at, in sides that do not see each other.

    Attributes
    ----------
    rows
        Rows of the slide that are kept, side by side.
    sizes
        Rows of each side.
    side, place
        For each spot of the training its side, and its row there.
    near
        For each of them the rows in its side that it looks at singly.
    """

    rows: NDArray[np.intp]
    sizes: list[int]
    side: NDArray[np.intp]
    place: NDArray[np.intp]
    near: NDArray[np.intp] | None

    @classmethod
    def of(
        cls,
        context: Context,
        frame: SpotFrame,
        labels: NDArray[Any],
        used: NDArray[np.intp],
    ) -> Self:
        """Find them on one slide, by the labels of all its spots."""
        part = _parts(labels)
        kept = part >= 0
        near = None
        if context.frozen_neighbours is not None:
            near = nearest_spots(frame.centers, context.frozen_neighbours.n)[used]
            near = np.where((near >= 0) & (part[near] == part[used, None]), near, -1)
            near[part[used] < 0] = -1
            if not context.whole_slide:
                kept = np.zeros_like(kept)
                kept[near[near >= 0]] = True
        rows = np.flatnonzero(kept)
        rows = rows[np.argsort(part[rows], kind="stable")]
        _, number, sizes = np.unique(part[rows], return_inverse=True, return_counts=True)
        side, place = np.full((2, frame.n_obs), -1)
        side[rows] = number
        place[rows] = np.arange(len(rows)) - (np.cumsum(sizes) - sizes)[number]
        return cls(
            rows,
            sizes.tolist(),
            side[used],
            place[used],
            None if near is None else np.where(near >= 0, place[near], -1),
        )


def _parts(labels: NDArray[Any]) -> NDArray[np.intp]:
    """Number the part of the split that may see each spot; -1 for none.

    Spots that a sample left out may have been of any part, and so are seen where there is one alone.
    """
    part = np.full(len(labels), -1)
    for number, name in enumerate(("train", "validation", "test")):
        part[labels == name] = number
    present = np.unique(part[part >= 0])
    if len(present) == 1:
        part[labels == "unused"] = present[0]
    return part


def _check_room(n_bytes: int, whose: str, advice: str) -> None:
    free = free_memory()
    if n_bytes > 0.8 * free:
        msg = (
            f"the features of {whose} take {n_bytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are "
            f"free; {advice} a smaller backbone, or fewer spots"
        )
        raise InputValueError(msg)
