"""Predicted against measured expression, spot by spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rankbygene._arguments import checked
from rankbygene._names import natural_order
from rankbygene.errors import InputValueError
from rankbygene.metrics import pearson
from rankbygene.pl._predictions import column, gene_list, measured_and_predicted, score_text
from rankbygene.pl._style import (
    GREY,
    bare,
    few_ticks,
    finish,
    is_first_column,
    legend_beside,
    open_panels,
    palette,
    root_figure,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


@checked
def gene_scatter(
    adata: AnnData,
    genes: str | Sequence[str],
    layer: str,
    *,
    measured: str | None = None,
    slide_key: str = "slide",
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> NDArray[np.object_]:
    """Draw predicted against measured values of genes, coloured by slide.

    Both axes have one scale, so that a prediction of narrower range is seen to be one; the dotted
    line is where they agree. The correlation in the title is taken within each slide and averaged,
    as in :func:`rankbygene.metrics.pearson`: a difference between slides does not enter.

    Parameters
    ----------
    adata
        Spots by genes, ``X`` measured and ``layers[layer]`` predicted on one scale, such as the
        ``predictions`` of :func:`rankbygene.tl.cross_validate`. Spots that are NaN in either are
        left out, and counted below the axis.
    genes
        One gene or several, a panel each.
    layer
        Layer with the predictions.
    measured
        Layer with the measured values, on the scale of the predictions; ``X`` by default.
    slide_key
        Column of ``obs`` that names the slides.
    ax
        Axes to draw in, for one gene; by default a new figure.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes, one per gene.

    Raises
    ------
    InputKeyError
        A gene, the layer or the column is missing.
    InputValueError
        Measured values are counts and predictions are not, a gene was predicted for no spot, a spot has
        no slide, or ``ax`` was given for several genes.
    """
    names = gene_list(adata, genes)
    slides = column(adata, slide_key)
    found = natural_order(slides.tolist())
    code = pd.Index(found).get_indexer(pd.Index(slides))
    colors = np.array(palette(len(found)))
    truth, predicted = measured_and_predicted(adata, names, layer, measured)
    known = np.isfinite(truth) & np.isfinite(predicted)
    _check_known(names, known, layer)
    scores = pearson(truth, predicted, groups=slides)
    axes = open_panels(ax, len(names), (2.9, 3.1))
    # In one order for all, but not slide by slide: the last slide must not cover the others.
    order = np.random.default_rng(0).permutation(adata.n_obs)
    for panel, gene, i in zip(axes, names, range(len(names)), strict=True):
        rows = order[known[order, i]]
        _draw_gene(panel, truth[rows, i], predicted[rows, i], colors[code[rows]])
        part = "" if len(rows) == adata.n_obs else f"\n{len(rows):,} of {adata.n_obs:,} spots"
        panel.set_xlabel(f"measured{part}")
        if is_first_column(panel):
            panel.set_ylabel("predicted")
        panel.set_title(f"{gene}\n{score_text(scores[i])} within slides", fontsize="medium")
    if len(found) > 1:
        from matplotlib.lines import Line2D

        handles = [
            Line2D([], [], marker="o", linestyle="", color=color, label=name, markersize=5)
            for name, color in zip(found, colors, strict=True)
        ]
        legend_beside(root_figure(axes[0]), handles, slide_key)
    finish(root_figure(axes[0]), show=show, save=save)
    return axes


def _check_known(genes: Sequence[str], known: NDArray[np.bool_], layer: str) -> None:
    empty = [gene for gene, rows in zip(genes, known.T, strict=True) if not rows.any()]
    if empty:
        msg = f"layer {layer!r} predicts {', '.join(empty[:5])} for no spot that was measured"
        raise InputValueError(msg)


def _draw_gene(
    ax: Axes,
    measured: NDArray[np.float64],
    predicted: NDArray[np.float64],
    colors: NDArray[np.str_],
) -> None:
    low = min(measured.min(), predicted.min())
    high = max(measured.max(), predicted.max())
    margin = 0.04 * (high - low) or 0.5
    limits = (low - margin, high + margin)
    alpha = float(np.clip(20 / np.sqrt(len(measured)), 0.15, 0.7))
    ax.plot(limits, limits, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    ax.scatter(measured, predicted, s=8, c=colors, alpha=alpha, linewidths=0, rasterized=True)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    few_ticks(ax)
    bare(ax)
