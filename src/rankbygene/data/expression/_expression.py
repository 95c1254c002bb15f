"""Counts to the matrix that a model learns from: library size, logarithm, panel, smoothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from scipy import sparse

from rankbygene._arguments import checked, checked_fields
from rankbygene._checks import check_rows_of
from rankbygene.data.counts._matrix import row_blocks
from rankbygene.data.expression._neighbors import neighbour_graph, smoothing_operator
from rankbygene.data.expression._panel import check_measured, gene_columns, panel_counts
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data.slides._frame import SpotFrame

__all__ = ["ExpressionBank", "Normalization", "expression_matrix", "smoother"]

logger = logging.getLogger("rankbygene")

Library = Literal["all", "panel"]
LogBase = Literal["e", "2", "10", "none"]
Neighbourhood = Literal["auto", "grid8", "hex6", "checker8", "knn", "none"]

_LOG_OF_BASE = {"e": 1.0, "2": float(np.log(2)), "10": float(np.log(10))}


@checked_fields
@dataclass(frozen=True)
class Normalization:
    """How counts become the values that a model is trained on.

    The steps are, in this order: division by the library size and multiplication by
    ``target_sum``; ``log(1 + x)``; restriction to the gene panel; mean over each spot and its
    present neighbours. Smoothing happens after the logarithm, so it is the mean of logarithms.

    Parameters
    ----------
    target_sum
        Library size that every spot is scaled to.
    library
        Genes whose counts make up the library size: all measured genes, or only the panel.
    log_base
        Base of the logarithm; ``"none"`` leaves it out.
    neighbourhood
        Spots averaged over, see :func:`~rankbygene.data.neighbour_graph`; ``"none"`` leaves
        smoothing out.
    n_neighbors
        Number of neighbours where they are found by distance.

    Raises
    ------
    InputValueError
        If a value is not among the allowed ones.
    """

    target_sum: float = 1e4
    library: Library = "all"
    log_base: LogBase = "e"
    neighbourhood: Neighbourhood = "auto"
    n_neighbors: int = 8

    def __post_init__(self) -> None:
        _check_choice("library", self.library, get_args(Library))
        _check_choice("log_base", self.log_base, get_args(LogBase))
        _check_choice("neighbourhood", self.neighbourhood, get_args(Neighbourhood))
        if not (np.isfinite(self.target_sum) and self.target_sum > 0):
            msg = f"target_sum is {self.target_sum}; a positive number is needed, such as 1e4"
            raise InputValueError(msg)
        if self.n_neighbors < 1:
            msg = f"n_neighbors is {self.n_neighbors}; at least 1 is needed"
            raise InputValueError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Give the parameters as plain values."""
        return asdict(self)

    @classmethod
    @checked
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from what :meth:`to_dict` gave.

        Raises
        ------
        InputValueError
            If a name is not a parameter or a value is not allowed.
        """
        allowed = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(allowed))
        if unknown:
            msg = f"unknown normalization parameters {unknown}; allowed are {allowed}"
            raise InputValueError(msg)
        return cls(**values)

    @checked
    def from_counts(self, scaled: NDArray[np.floating]) -> NDArray[np.floating]:
        """Apply the logarithm to counts that were scaled to ``target_sum``."""
        if self.log_base == "none":
            return scaled
        logs: NDArray[np.floating] = np.log1p(scaled) / _LOG_OF_BASE[self.log_base]
        return logs

    @checked
    def to_counts_per_target(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Undo the logarithm: counts per ``target_sum``, never below zero.

        Smoothing cannot be undone; for smoothed values the result is the geometric mean (of
        one plus the counts) over the neighbourhood.

        Parameters
        ----------
        values
            Expression on the scale of this normalisation, any shape.

        Returns
        -------
        Array of the same shape and dtype.
        """
        counts = values
        if self.log_base != "none":
            counts = np.expm1(values * _LOG_OF_BASE[self.log_base])
        counts_above_zero: NDArray[np.floating] = np.maximum(counts, 0)
        return counts_above_zero


@checked
def expression_matrix(
    frame: SpotFrame,
    genes: Sequence[str],
    normalization: Normalization,
    rows: NDArray[np.intp] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Normalise the counts of one slide and keep the genes of a panel.

    Parameters
    ----------
    frame
        The spots of one slide.
    genes
        The panel; the columns of the result follow it.
    normalization
        What is done to the counts.
    rows
        Spots to give; all if None. Smoothing looks at their neighbours in any case.

    Returns
    -------
    values
        Float32 ``[n_rows, n_genes]``; zero in the columns of genes that the slide lacks.
    measured
        Bool ``[n_genes]``; False for genes that the slide lacks.

    Raises
    ------
    InputValueError
        If the panel is empty or repeats a gene, or if the table has repeated gene names.
    InputKeyError
        If the slide measures none of the genes, or lacks the named layer.
    """
    wanted = np.arange(frame.n_obs) if rows is None else rows
    values = np.zeros((len(wanted), len(genes)), dtype=np.float32)
    measured = _fill(values, frame, genes, normalization, wanted)
    return values, measured


def _fill(
    values: NDArray[np.float32],
    frame: SpotFrame,
    genes: Sequence[str],
    normalization: Normalization,
    rows: NDArray[np.intp],
) -> NDArray[np.bool_]:
    """Put what :func:`expression_matrix` gives into an array of zeros, and return what is measured."""
    columns = gene_columns(frame, genes)
    measured = columns >= 0
    counts, totals = panel_counts(frame, columns[measured])
    if normalization.library == "panel":
        totals = counts.sum(axis=1)
    scale = np.divide(normalization.target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    logs = sparse.csr_array(sparse.diags_array(scale) @ counts)
    logs.data = normalization.from_counts(logs.data)
    operator = smoother(frame, normalization)
    # block by block, so that only a few thousand rows are ever dense in float64
    for block in row_blocks(len(rows)):
        part = logs[rows[block]] if operator is None else operator[rows[block]] @ logs
        values[block, measured] = part.toarray()
    return measured


@checked_fields
@dataclass(frozen=True, eq=False)
class ExpressionBank:
    """Normalised expression of all slides, one row per spot.

    Parameters
    ----------
    values
        Float32 ``[n_spots, n_genes]``; the slides one after the other, in the order of the frames.
    measured
        Bool ``[n_slides, n_genes]``; False where a slide lacks a gene. The values of such a gene
        are zero on that slide and mean nothing.
    slide_of_row
        Int64 ``[n_spots]``; which slide a row belongs to.
    genes
        The panel, as the columns.
    slides
        Names of the slides.
    """

    values: NDArray[np.float32]
    measured: NDArray[np.bool_]
    slide_of_row: NDArray[np.int64]
    genes: tuple[str, ...]
    slides: tuple[str, ...]

    @classmethod
    @checked
    def build(
        cls,
        frames: Mapping[str, SpotFrame],
        genes: Sequence[str],
        normalization: Normalization | None = None,
        rows: Mapping[str, NDArray[np.intp]] | None = None,
    ) -> Self:
        """Normalise every slide.

        Parameters
        ----------
        frames
            The slides by name.
        genes
            The panel. A gene may be missing from some slides.
        normalization
            What is done to the counts; the defaults of :class:`Normalization` if None.
        rows
            For each slide the spots to give; all if None.

        Raises
        ------
        InputKeyError
            If a gene is measured on no slide, or a slide measures none of them.
        InputValueError
            If the panel is empty or repeats a gene, or if there is no slide.
        """
        check_rows_of(rows, list(frames))
        chosen = Normalization() if normalization is None else normalization
        wanted = {
            name: np.arange(frame.n_obs) if rows is None else rows[name]
            for name, frame in frames.items()
        }
        sizes = [len(own) for own in wanted.values()]
        values = np.zeros((sum(sizes), len(genes)), dtype=np.float32)
        parts = np.split(values, np.cumsum(sizes)[:-1])
        measured = np.stack(
            [
                _fill(part, frame, genes, chosen, wanted[name])
                for part, (name, frame) in zip(parts, frames.items(), strict=True)
            ]
        )
        check_measured(genes, measured)
        _report_missing(len(genes), list(frames), measured)
        return cls(
            values=values,
            measured=measured,
            slide_of_row=np.repeat(np.arange(len(sizes), dtype=np.int64), sizes),
            genes=tuple(genes),
            slides=tuple(frames),
        )

    def __len__(self) -> int:
        return len(self.values)


def smoother(frame: SpotFrame, normalization: Normalization) -> sparse.csr_array | None:
    """Build the smoothing operator of a slide, or None where values are not smoothed."""
    if normalization.neighbourhood == "none":
        return None
    graph = neighbour_graph(
        frame, kind=normalization.neighbourhood, n_neighbors=normalization.n_neighbors
    )
    return smoothing_operator(graph)


def _report_missing(n_genes: int, slides: list[str], measured: NDArray[np.bool_]) -> None:
    for slide, n_missing in zip(slides, (~measured).sum(axis=1).tolist(), strict=True):
        if n_missing:
            logger.warning(
                "slide %r lacks %d of the %d genes; they are masked out on it",
                slide,
                n_missing,
                n_genes,
            )


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        msg = f"{name} is {value!r}; allowed are {', '.join(map(repr, allowed))}"
        raise InputValueError(msg)
