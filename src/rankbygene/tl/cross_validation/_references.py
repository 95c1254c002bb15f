"""How far a score could go at all: what the counts allow, and what position alone gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from rankbygene._arguments import checked
from rankbygene.base._setup import recall_setup
from rankbygene.data import Normalization, SpatialSetup, neighbour_graph, resolve_slides
from rankbygene.data.counts._counts import count_matrix
from rankbygene.data.counts._matrix import read_matrix
from rankbygene.errors import InputValueError
from rankbygene.metrics import pearson
from rankbygene.pp import check_panel
from rankbygene.tl.cross_validation._data import expression_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from rankbygene.base._setup import SpatialDatas
    from rankbygene.data import SpotFrame

__all__ = ["ceiling_of", "neighbour_prediction", "noise_ceiling"]


@checked
def noise_ceiling(
    sdatas: SpatialDatas,
    genes: Sequence[str],
    normalization: Normalization | None = None,
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Correlation that a perfect prediction would reach against these noisy counts.

    Every count is split into two halves by a fair coin per molecule; halves of Poisson counts are
    independent given the true rate. Both halves go through the same normalisation and smoothing.
    Their correlation :math:`r` over the spots of a slide, the mean over ``n_splits`` splits, gives
    the reliability of the full counts by Spearman-Brown, :math:`\rho = 2r / (1 + r)`, and a
    noiseless prediction correlates with the measurement by at most :math:`\sqrt{\rho}`.

    This is an estimate and no strict bound. Spearman-Brown takes the halves for weaker copies of the whole,
    and after division by the library and the logarithm they are not quite that. The ceiling is **too low**
    where the size of the library alone carries the signal: a gene with few counts per spot that hardly varies relative
    to libraries that vary much is still larger or smaller by their size, differently at half the depth. In a
    simulation with 0.5 counts per spot of 50 it was 0.00 where a perfect prediction reaches 0.14, so that a
    ``share_of_ceiling`` above 1 can be real. It is too high where a gene is a large part of its
    library (0.56 for 0.36 with two thirds), and where halves share what went wrong with a spot.

    Parameters
    ----------
    sdatas
        One SpatialData object, or a list or dict ``{slide: object}``.
    genes
        The panel.
    normalization
        How counts become the scale of the scores.
    n_splits
        Number of random splits to average over.
    seed
        Of the splits.

    Returns
    -------
    One row per slide, one column per gene, values in [0, 1]: NaN for genes that a slide lacks or
    that are constant, 0 where the halves do not agree.

    References
    ----------
    Count splitting :cite:p:`neufeld2024countsplitting`; Spearman-Brown
    :cite:p:`spearman1910correlation`.
    """
    frames = resolve_slides(sdatas, lambda item: recall_setup(item, default=SpatialSetup()))
    check_panel(genes, frames.values())
    rows = {
        slide: ceiling_of(
            frame, genes, normalization or Normalization(), n_splits=n_splits, seed=seed
        )
        for slide, frame in frames.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(genes))


def ceiling_of(
    frame: SpotFrame,
    genes: Sequence[str],
    normalization: Normalization,
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Noise ceiling of one slide ``[n_genes]``, see :func:`noise_ceiling`."""
    if n_splits < 1:
        msg = f"n_splits is {n_splits}; at least 1 is needed"
        raise InputValueError(msg)
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(
        read_matrix(count_matrix(frame.table, frame.setup.layer), frame.rows)
    )
    correlations = []
    for _ in range(n_splits):
        half = counts.copy()
        half.data = rng.binomial(counts.data.astype(np.int64), 0.5).astype(counts.dtype)
        sides = [
            expression_of(_with_counts(frame, side), list(genes), normalization)
            for side in (half, counts - half)
        ]
        correlations.append(pearson(*sides))
    known = ~np.isnan(correlations)
    total = np.where(known, correlations, 0).sum(0)
    r = np.divide(total, known.sum(0), out=np.full(len(genes), np.nan), where=known.any(0))
    r = np.maximum(r, 0)
    ceiling: NDArray[np.float64] = np.sqrt(2 * r / (1 + r))
    return ceiling


def _with_counts(frame: SpotFrame, counts: sparse.csr_matrix) -> SpotFrame:
    """Give the frame other counts, without touching its object."""
    table = AnnData(counts, var=frame.table.var[[]])
    return replace(
        frame,
        sdata=cast("SpatialData", _Tables({frame.setup.table_key: table})),
        setup=replace(frame.setup, layer=None),
        rows=np.arange(frame.n_obs),
    )


class _Tables:
    """The part of a SpatialData object that a frame reads its counts from."""

    def __init__(self, tables: dict[str, AnnData]) -> None:
        self.tables = tables


def neighbour_prediction(
    frame: SpotFrame, genes: Sequence[str], normalization: Normalization
) -> NDArray[np.float32]:
    """Mean of what was measured, unsmoothed, around each spot; the spot itself is left out.

    It uses the held-out counts and is therefore no prediction: it says how far position alone
    goes. Against smoothed expression, which shares those neighbours, it is high by construction.

    Returns
    -------
    Float32 ``[n_obs, n_genes]``; the gene's mean for spots without neighbours.
    """
    raw = replace(normalization, neighbourhood="none")
    values = expression_of(frame, list(genes), raw)
    kind = "auto" if normalization.neighbourhood == "none" else normalization.neighbourhood
    graph = neighbour_graph(frame, kind=kind, n_neighbors=normalization.n_neighbors)
    degree = np.asarray(graph.sum(axis=1)).ravel()[:, None]
    means = np.divide(graph @ values, degree, out=np.zeros_like(values), where=degree > 0)
    predicted: NDArray[np.float32] = np.where(degree > 0, means, values.mean(0))
    return predicted
