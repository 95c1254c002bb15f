"""Which windows touch which parts of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rankbygene.data.slides._chunks import Position

# A chunk that is this many windows high is split, so that only its lower margin has to wait.
_SPLIT_FROM = 4


class Pieces:
    """The parts in which an image is held while windows are cut out of it.

    A piece is a chunk. A chunk that is much higher than a window makes two: its lower margin, as
    high as a window, is all that windows which reach into the chunks below have of it.

    Parameters
    ----------
    chunks
        Sizes of the chunks along y and along x.
    x0, y0
        First column and row of the windows, ``[n]``; they may lie outside the image.
    side
        Width of the windows.

    Attributes
    ----------
    per_window
        Number of pieces that each window touches, ``[n]``.
    """

    def __init__(
        self,
        chunks: Sequence[Sequence[int]],
        x0: NDArray[np.int64],
        y0: NDArray[np.int64],
        side: int,
    ) -> None:
        heights, self._chunk_of_row = _with_margins(chunks[0], side)
        self._top, self._left = _starts(heights), _starts(chunks[1])
        first_row, n_rows = _touched(self._top, y0, side)
        first_column, n_columns = _touched(self._left, x0, side)
        self.per_window = n_rows * n_columns
        # One entry per window and piece, in the order of windows, row-major within each.
        self._begin = np.cumsum(self.per_window) - self.per_window
        window = np.repeat(np.arange(len(x0)), self.per_window)
        place = np.arange(len(window)) - self._begin[window]
        row = first_row[window] + place // n_columns[window]
        column = first_column[window] + place % n_columns[window]
        self._row, self._column = row, column
        # The same entries in the order of pieces.
        piece = row * len(chunks[1]) + column
        order = np.argsort(piece, kind="stable")
        self._window = window[order]
        ids, begin, counts = np.unique(piece[order], return_index=True, return_counts=True)
        rows, columns = np.divmod(ids, len(chunks[1]))
        keys = zip(rows.tolist(), columns.tolist(), strict=True)
        self._entries: dict[Position, tuple[int, int]] = dict(
            zip(keys, zip(begin.tolist(), (begin + counts).tolist(), strict=True), strict=True)
        )

    @property
    def chunks(self) -> set[Position]:
        """Chunks that some window touches."""
        return {(int(self._chunk_of_row[row]), column) for row, column in self._entries}

    def split(
        self, chunk: Position, block: NDArray[np.uint8]
    ) -> Iterator[tuple[Position, NDArray[np.uint8]]]:
        """Give those pieces of a chunk that some window touches, as views of its pixels."""
        rows = np.flatnonzero(self._chunk_of_row == chunk[0])
        top = self._top[rows[0]]
        for row in rows.tolist():
            piece = (row, chunk[1])
            if piece in self._entries:
                yield piece, block[:, self._top[row] - top : self._top[row + 1] - top]

    def windows_of(self, piece: Position) -> NDArray[np.intp]:
        """Windows that touch a piece."""
        begin, end = self._entries[piece]
        return self._window[begin:end]

    def pieces_of(self, window: int) -> list[tuple[Position, int, int]]:
        """Pieces that a window touches, each with the row and column of its own corner."""
        begin = self._begin[window]
        entries = slice(begin, begin + self.per_window[window])
        rows, columns = self._row[entries], self._column[entries]
        places = zip(
            rows.tolist(),
            columns.tolist(),
            self._top[rows].tolist(),
            self._left[columns].tolist(),
            strict=True,
        )
        return [((row, column), top, left) for row, column, top, left in places]


def _with_margins(heights: Sequence[int], side: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split high chunks into what lies above the lower margin and the margin."""
    high = np.asarray(heights) >= _SPLIT_FROM * side
    chunk_of_row = np.repeat(np.arange(len(heights)), np.where(high, 2, 1))
    split = np.asarray(heights)[chunk_of_row]
    margins = np.flatnonzero(high) + np.arange(1, high.sum() + 1)
    split[margins] = side
    split[margins - 1] -= side
    return split, chunk_of_row


def _starts(sizes: Sequence[int] | NDArray[np.intp]) -> NDArray[np.intp]:
    """Where pieces begin along one axis, and where the last one ends."""
    return np.cumsum(np.concatenate([[0], sizes]))


def _touched(
    starts: NDArray[np.intp], start: NDArray[np.int64], side: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first piece that windows from ``start`` on touch along one axis, and how many."""
    first = np.searchsorted(starts[1:], start, side="right")
    return first, np.searchsorted(starts[:-1], start + side, side="left") - first
