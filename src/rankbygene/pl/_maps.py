"""Measured and predicted expression on the tissue, and what the prediction misses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics import pearson
from rankbygene.pl._frames import one_frame
from rankbygene.pl._predictions import (
    gene_list,
    measured_and_predicted,
    one_slide,
    positions,
    score_text,
)
from rankbygene.pl._style import finish, scale_bar
from rankbygene.pl._tissue import (
    color_limits,
    colorbar,
    draw_spots,
    draw_tissue,
    spot_pitch,
    tissue_aspect,
    view_spots,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from rankbygene.data import SpotFrame


# Slides may be named by numbers.
@checked(slide=None)
def gene_maps(
    adata: AnnData,
    genes: str | Sequence[str],
    layer: str,
    slide: str | None = None,
    *,
    measured: str | None = None,
    slide_key: str = "slide",
    spot_um: float | None = None,
    sdata: SpatialData | None = None,
    table_key: str = "table",
    region: str | None = None,
    cmap: str = "viridis",
    show: bool = False,
    save: str | Path | None = None,
) -> NDArray[np.object_]:
    """Draw genes on the tissue of one slide: measured, predicted, and their difference.

    As figure 5 of :cite:p:`huang2024rankbygene`, with one colour scale for measured and
    predicted values, so that a prediction which is too flat looks flat.

    Parameters
    ----------
    adata
        Spots by genes, ``X`` measured, ``layers[layer]`` predicted, ``obsm["spatial"]`` centres in
        micrometres, such as the ``predictions`` of :func:`rankbygene.tl.cross_validate`. Spots
        without a value are light grey, and a gene that was not measured there is named so.
    genes
        One gene or several, one row of panels each.
    layer
        Layer with the predictions.
    measured
        Layer with the measured values, on the scale of the predictions; ``X`` by default.
    slide
        Which slide; may be left out when there is one.
    slide_key
        Column of ``obs`` that names the slides.
    spot_um
        Diameter of a spot in micrometres (Visium 55, the first arrays of Spatial Transcriptomics
        100). By default spots nearly touch, which shows patterns better.
    sdata
        The object that holds the slide, to draw its H&E image beside the maps.
    table_key, region
        Table of ``sdata``, and which of its regions the slide is.
    cmap
        Colour map of expression. The difference, predicted minus measured, is red where the
        prediction is too high.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes ``[n_genes, n_panels]``.

    Raises
    ------
    InputKeyError
        A gene, the layer, the slide or the centres are missing.
    InputValueError
        The slide has to be named, measured values are counts and predictions are not, a gene was not
        predicted there, or the spots are not those of ``sdata``.
    """
    names = gene_list(adata, genes)
    rows = one_slide(adata, slide, slide_key)
    centers = positions(adata)[rows]
    truth, predicted = (
        values[rows] for values in measured_and_predicted(adata, names, layer, measured)
    )
    frame = None if sdata is None else one_frame(sdata, table_key=table_key, region=region)
    if frame is not None:
        _check_same_spots(centers, frame)
    for gene, values in zip(names, predicted.T, strict=True):
        if not np.isfinite(values).any():
            where = "the slide" if slide is None else f"slide {slide!r}"
            msg = f"layer {layer!r} predicts {gene} for no spot of {where}"
            raise InputValueError(msg)
    axes = _open_grid(len(names), 3 + (frame is not None), tissue_aspect(centers))
    maps = _Maps(centers, spot_um, cmap)
    for row, gene in enumerate(names):
        if frame is not None:
            draw_tissue(axes[row, 0], frame, unit=frame.um_per_unit)
            view_spots(axes[row, 0], centers)
            axes[row, 0].set_title("H&E", fontsize="medium")
        maps.gene(axes[row, -3:], gene, truth[:, row], predicted[:, row])
        scale_bar(axes[row, 0], 1.0)
    finish(axes[0, 0].figure, show=show, save=save)
    return axes


class _Maps:
    """Draws the three maps of a gene at fixed spots."""

    def __init__(self, centers: NDArray[np.float64], spot_um: float | None, cmap: str) -> None:
        self.centers, self.spot_um, self.cmap = centers, spot_um, cmap

    def gene(
        self,
        axes: NDArray[np.object_],
        gene: str,
        measured: NDArray[np.float64],
        predicted: NDArray[np.float64],
    ) -> None:
        """Draw measured and predicted values on one scale, and the residual on its own."""
        residual = predicted - measured
        known = np.isfinite(residual)
        limits = color_limits(np.concatenate([measured, predicted]))
        title = f"{gene} measured" if np.isfinite(measured).any() else f"{gene} not measured here"
        self._map(axes[0], measured, self.cmap, limits, title)
        score = f" ({score_text(float(pearson(measured, predicted)[0]))})" if known.any() else ""
        spots = self._map(axes[1], predicted, self.cmap, limits, f"{gene} predicted{score}")
        colorbar(axes[1], spots, [measured, predicted])
        if not known.any():
            self._map(axes[2], residual, "RdBu_r", (-1.0, 1.0), "no difference to draw")
            return
        reach = float(np.nanquantile(np.abs(residual), 0.99)) or 1.0
        part = "" if known.all() else f" ({known.sum():,} of {len(known):,} spots)"
        title = f"predicted − measured{part}"
        missed = self._map(axes[2], residual, "RdBu_r", (-reach, reach), title)
        colorbar(axes[2], missed, [residual])

    def _map(
        self,
        ax: Axes,
        values: NDArray[np.float64],
        cmap: str,
        limits: tuple[float, float],
        title: str,
    ) -> Any:
        ax.set_title(title, fontsize="medium")
        return draw_spots(ax, self.centers, values, cmap=cmap, limits=limits, diameter=self.spot_um)


def _open_grid(n_rows: int, n_columns: int, aspect: float) -> NDArray[np.object_]:
    from matplotlib import pyplot as plt

    width = 2.9
    height = float(np.clip(0.85 * width * aspect, 1.4, 4.5)) + 0.3
    _, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(width * n_columns, height * n_rows),
        layout="constrained",
        squeeze=False,
    )
    grid: NDArray[np.object_] = axes
    return grid


def _check_same_spots(centers: NDArray[np.float64], frame: SpotFrame) -> None:
    from scipy.spatial import cKDTree

    distances, _ = cKDTree(frame.centers_um).query(centers)
    far = int(np.sum(distances > 0.1 * spot_pitch(frame.centers_um)))
    if far:
        msg = (
            f"{far:,} of {len(centers):,} spots of the slide are not where region {frame.region!r} of "
            "sdata has one (compared in micrometres); pass the sdata and the region of this slide"
        )
        raise InputValueError(msg)
