"""What is left out together when a setting is chosen on the training side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rankbygene.data.splits._blocks import buffer_between, spatial_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data.expression._expression import Normalization
    from rankbygene.data.slides._frame import SpotFrame

__all__ = ["RowGroups", "row_groups"]

_MOST_FOLDS = 8
_N_BLOCKS = 4


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Rows that are left out in turn, and those that are fitted on meanwhile.

    Attributes
    ----------
    by
        What is left out whole.
    folds
        Pairs of rows to fit on and rows to judge on; what is in neither is a buffer.
    """

    by: Literal["patient", "slide", "block"]
    folds: tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]

    @classmethod
    def of_labels(cls, labels: NDArray[np.object_], by: Literal["patient", "slide"]) -> RowGroups:
        """Leave out whole groups of rows, several at once where there are more than eight."""
        names, codes, sizes = np.unique(labels.astype(str), return_inverse=True, return_counts=True)
        part = np.empty(len(names), np.intp)
        load = np.zeros(min(_MOST_FOLDS, len(names)))
        for group in np.argsort(-sizes, kind="stable"):
            part[group] = np.argmin(load)
            load[part[group]] += sizes[group]
        return cls(by, _one_out(part[codes]))

    @classmethod
    def of_blocks(
        cls,
        places: NDArray[np.float64],
        buffer: Callable[[NDArray[np.bool_]], NDArray[np.bool_]],
    ) -> RowGroups:
        """Leave out compact blocks; ``buffer`` finds the rows around those that are held out."""
        blocks = spatial_blocks(places, _N_BLOCKS)
        folds = []
        for block in np.unique(blocks):
            held = blocks == block
            fit = np.flatnonzero(~held & ~buffer(held))
            if len(fit) > 1:
                folds.append((fit, np.flatnonzero(held)))
        return cls("block", tuple(folds))


def row_groups(
    frames: Mapping[str, SpotFrame],
    rows: Mapping[str, NDArray[np.intp]] | None = None,
    *,
    tile_um: float,
    normalization: Normalization,
) -> RowGroups:
    """Leave out whole patients, else whole slides, else blocks of the only slide.

    Neighbouring spots look alike: a penalty that is chosen on some of them while others are fitted
    is far too small for the next slide.

    Parameters
    ----------
    frames
        The slides of the training side. One whose patient is not known is a patient of its own.
    rows
        For each slide the spots that are fitted on; all if None.
    tile_um, normalization
        Width of the widest tile and smoothing, for the buffer around blocks.

    Returns
    -------
    Rows counted through all slides in order. Without folds where a slide is too small to leave a
    block out.
    """
    used = {
        name: frame if rows is None else frame.take(rows[name]) for name, frame in frames.items()
    }
    used = {name: frame for name, frame in used.items() if frame.n_obs}
    sizes = [frame.n_obs for frame in used.values()]
    patients = [
        ("slide", name) if frame.patient is None else ("patient", frame.patient)
        for name, frame in used.items()
    ]
    if len(set(patients)) > 1:
        by: Literal["patient", "slide"] = (
            "patient" if any(kind == "patient" for kind, _ in patients) else "slide"
        )
        return RowGroups.of_labels(
            np.repeat([f"{kind} {name}" for kind, name in patients], sizes), by
        )
    if len(used) > 1:
        return RowGroups.of_labels(np.repeat(list(used), sizes), "slide")
    (frame,) = used.values()
    return RowGroups.of_blocks(
        frame.centers_um,
        lambda held: buffer_between(
            frame, held, buffer_um=None, tile_um=tile_um, normalization=normalization
        ),
    )


def _one_out(part: NDArray[np.intp]) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]:
    return tuple(
        (np.flatnonzero(part != i), np.flatnonzero(part == i)) for i in range(part.max() + 1)
    )
