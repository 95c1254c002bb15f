"""What a spot is seen with: itself, its neighbours, its whole slide, wider tiles; said once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rankbygene._arguments import checked_fields
from rankbygene._checks import check_real
from rankbygene.data import NeighbourhoodDataModule, SpatialDataModule
from rankbygene.data.tiles._bank import MEMORY_LIMIT, TileBank
from rankbygene.errors import InputTypeError, InputValueError

if TYPE_CHECKING:
    from rankbygene.data import ExpressionBank, SpotFrame, SpotSplit
    from rankbygene.data.batches._datamodule import Tiles
    from rankbygene.data.batches._kept import KeptContext

__all__ = ["Alone", "Context", "Neighbours", "WholeSlide", "Widths"]

P = TypeVar("P", bound="Context")

# Spots of a batch that lie side by side, where a method does not say.
_GROUP_SIZE = 32


class Context:
    """What a method sees of a slide beside the tile of a spot.

    A model says it in its ``_context``, for training and for prediction alike, and everything else
    follows from it: which rows are read, which of them are encoded in every step and which once, what
    a batch holds, how wide the widest tile is. :class:`Alone`, :class:`Neighbours`,
    :class:`WholeSlide` and :class:`Widths` are put together with ``&``::

        Neighbours(25, frozen=True) & WholeSlide() & Widths(224)

    **Live** rows bring their pixels, so that gradients reach the encoder. **Frozen** rows bring features that
    ``module.encode_context`` has given once: of a network that no training changes, and the same in
    training and in prediction. A batch may hold both.

    **What training may see.** Expression and pixels of live neighbours come from spots of the same part of
    the split; others are missing. Frozen context holds pixels alone, and still no pixel of a held-out
    spot enters training: rows that are seen are those of the same part, and the spots that
    ``max_spots`` left out on slides of which no other part has any. Buffer spots, whose tiles may overlap
    held-out ones, are seen by nobody. In prediction all spots of a slide are seen.
    """

    @property
    def parts(self) -> tuple[Context, ...]:
        """What this is put together of."""
        return (self,)

    def __and__(self, other: Context) -> Context:
        if not isinstance(other, Context):
            msg = f"{other!r} is no context; put together Alone, Neighbours, WholeSlide and Widths"
            raise InputTypeError(msg)
        return _together((*self.parts, *other.parts))

    @property
    def live_neighbours(self) -> Neighbours | None:
        """Neighbours whose pixels are in a batch."""
        return next((part for part in self._of(Neighbours) if not part.frozen), None)

    @property
    def frozen_neighbours(self) -> Neighbours | None:
        """Neighbours whose kept features are in a batch."""
        return next((part for part in self._of(Neighbours) if part.frozen), None)

    @property
    def whole_slide(self) -> bool:
        """Whether kept features of all spots of the slide are in a batch."""
        return bool(self._of(WholeSlide))

    @property
    def keeps(self) -> bool:
        """Whether features of some rows are computed once and kept."""
        return self.whole_slide or self.frozen_neighbours is not None

    @property
    def looks_around(self) -> bool:
        """Whether spots are seen with others."""
        return self.keeps or self.live_neighbours is not None

    def widths(self, tile_um: float) -> tuple[float, ...]:
        """Widths of the tiles at each spot in micrometres, that of the spot's own tile first."""
        return (tile_um, *(width for part in self._of(Widths) for width in part.um))

    def datamodule(
        self,
        inputs: Tiles,
        bank: ExpressionBank,
        split: SpotSplit,
        frames: Mapping[str, SpotFrame],
        kept: KeptContext | None,
        *,
        batch_size: int,
        seed: int,
        group_size: int | None = None,
    ) -> SpatialDataModule:
        """Build the batches of a training.

        Every batch holds ``image`` (or the features of an encoder that is not trained), ``expression``,
        ``measured``, ``slide``, ``spot`` and ``position``, float32 ``[.., 2]`` in micrometres. Live
        neighbours add what :class:`~rankbygene.data.NeighbourhoodDataModule` says, frozen rows and
        whole slides what :class:`~rankbygene.data.batches._kept.KeptContext` says.

        Parameters
        ----------
        inputs
            Tiles of all rows, or their features.
        bank, split
            Expression and use of the same rows.
        frames
            The slides, in their order.
        kept
            What :attr:`keeps` asks for.
        batch_size, seed
            Spots of a batch, and of their order.
        group_size
            Spots of a batch that lie side by side and so share live neighbours: 32 by default.
        """
        shared: dict[str, Any] = {
            "batch_size": batch_size,
            "seed": seed,
            "centers": [frame.centers_um for frame in frames.values()],
            "context": kept,
            "drop_last": True,
        }
        if self.live_neighbours is None:
            window = _shuffle_window(inputs, batch_size)
            return SpatialDataModule(inputs, bank, split, shuffle_window=window, **shared)
        if group_size is None:
            group_size = min(_GROUP_SIZE, batch_size)
        # Spots that look at nobody share nothing, and are better mixed.
        size = group_size if self.live_neighbours.n > 1 else 1
        return NeighbourhoodDataModule(
            inputs, bank, split, n=self.live_neighbours.n, group_size=size, **shared
        )

    def _of(self, kind: type[P]) -> list[P]:
        return [part for part in self.parts if isinstance(part, kind)]


@dataclass(frozen=True)
class Alone(Context):
    """The spot's own tile and nothing else."""


@checked_fields
@dataclass(frozen=True)
class Neighbours(Context):
    """The nearest spots of the slide.

    Live ones share tiles: a batch holds each different tile once, and says in ``neighbours`` where those
    of a spot are. Frozen ones are in ``context`` and ``context_features``. A context may have both.

    Parameters
    ----------
    n
        Spots of a neighbourhood, the spot itself included. ``Neighbours(1, frozen=True)`` keeps
        something of the spot alone, such as features of many small tiles that
        ``module.encode_context`` cuts out of a wider one.
    frozen
        Look at kept features, not at pixels.
    """

    n: int
    frozen: bool = False


@dataclass(frozen=True)
class WholeSlide(Context):
    """All spots of the slide, by kept features.

    A batch is of one slide and carries ``slide_features`` ``[n, ...]`` and ``slide_position`` ``[n, 2]``
    of the rows that may be seen, not copied, and ``place`` ``[B]``, where its spots are among them. In
    prediction ``_slide_product`` is called once per slide.
    """


@dataclass(frozen=True, init=False)
class Widths(Context):
    """Further tiles around the same centre, stacked along the channels behind the spot's own.

    Parameters
    ----------
    *um
        Their widths in micrometres.
    """

    um: tuple[float, ...]

    def __init__(self, *um: float) -> None:
        widths = tuple(check_real(width, "a width of a tile", above=0) for width in um)
        object.__setattr__(self, "um", widths)


@dataclass(frozen=True)
class _Together(Context):
    """Several kinds of context at once."""

    kinds: tuple[Context, ...]

    @property
    def parts(self) -> tuple[Context, ...]:
        return self.kinds


def _together(parts: tuple[Context, ...]) -> Context:
    """Put parts into one order, all widths together, and leave out what says nothing."""
    hoods = [part for part in parts if isinstance(part, Neighbours)]
    if len({hood.frozen for hood in hoods}) < len(hoods):
        msg = (
            f"{' & '.join(map(repr, hoods))} says twice which neighbours are seen; give one number of live "
            "ones and one of frozen ones"
        )
        raise InputValueError(msg)
    widths = Widths(*(um for part in parts if isinstance(part, Widths) for um in part.um))
    kinds: list[Context] = [*sorted(hoods, key=lambda hood: hood.frozen)]
    kinds += [WholeSlide()] if any(isinstance(part, WholeSlide) for part in parts) else []
    kinds += [widths] if widths.um else []
    if not kinds:
        return Alone()
    return kinds[0] if len(kinds) == 1 else _Together(tuple(kinds))


def _shuffle_window(inputs: Tiles, batch_size: int) -> int | None:
    """Choose among how many rows tiles are shuffled that memory does not hold; None: among all."""
    n_bytes = inputs.n_bytes if isinstance(inputs, TileBank) else 0
    if n_bytes <= MEMORY_LIMIT:
        return None
    return max(batch_size, len(inputs) * MEMORY_LIMIT // (4 * n_bytes))
