"""Where on a slide a model looked: a map of the weights, and the tiles behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rankbygene._arguments import checked
from rankbygene._keys import Keys
from rankbygene.data import SpatialSetup, SpotFrame, TileReader
from rankbygene.data.slides._annotation import join, read_annotation, region_rows
from rankbygene.data.slides._regions import region_centers
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.pl._frames import choose_region, one_frame
from rankbygene.pl._style import finish
from rankbygene.pl._tissue import draw_spots, draw_tissue

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from spatialdata import SpatialData


# Weights are stored in single precision.
_SUM, _EQUAL = 1e-3, 1e-5


@checked
def attention_map(
    sdata: SpatialData,
    *,
    key: str = "slide_classifier",
    table_key: str = "table",
    region: str | None = None,
    cmap: str = "magma",
    show: bool = False,
    save: str | Path | None = None,
) -> NDArray[np.object_]:
    """Draw the slide, and beside it the weight of every tile in the model's judgement.

    Weights are drawn as multiples of what each tile would have if all weighed the same.

    Parameters
    ----------
    sdata
        Object whose table was annotated by a model of slides. Without an image the weights are
        drawn alone.
    key
        The prefix under which they were written (``key_added``).
    table_key
        The table.
    region
        Which of the table's regions; may be left out when there is one.
    cmap
        Colour map.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes, one or two.

    Raises
    ------
    InputKeyError
        The table holds no weights under ``key``.
    InputValueError
        The slide has no weights, or others than a model gives.
    """
    from matplotlib import pyplot as plt

    frame = _frame(sdata, table_key, region)
    weights = _weights(frame, key)
    panels = 2 if frame.image_key else 1
    figure, axes = plt.subplots(
        1, panels, figsize=(3.7 * panels + 0.5, 3.6), layout="constrained", squeeze=False
    )
    if frame.image_key:
        draw_tissue(axes[0, 0], frame)
        axes[0, 0].set_title("H&E")
    relative = weights * len(weights)
    # A few tiles may hold all the weight: the colours end where one tile in a hundred is above.
    top = max(float(np.nanquantile(relative, 0.99)), 1.0)
    spots = draw_spots(axes[0, -1], frame.centers, relative, cmap=cmap, limits=(0.0, top))
    axes[0, -1].set_title(f"attention, {frame.slide}")
    extend = "max" if relative.max() > top else "neither"
    bar = figure.colorbar(spots, ax=axes[0, -1], shrink=0.75, aspect=25, pad=0.02, extend=extend)
    bar.set_label("times an equal share")
    finish(figure, show=show, save=save)
    shown: NDArray[np.object_] = axes[0]
    return shown


@checked
def top_tiles(
    sdata: SpatialData,
    *,
    key: str = "slide_classifier",
    n_tiles: int = 6,
    tile_um: float = 112.0,
    tile_px: int = 224,
    table_key: str = "table",
    region: str | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> NDArray[np.object_]:
    """Draw the tiles with the largest weights, and below them those with the smallest.

    Parameters
    ----------
    sdata
        Object with an image whose table was annotated by a model of slides.
    key
        The prefix under which the weights were written (``key_added``).
    n_tiles
        Tiles in a row.
    tile_um, tile_px
        Width of a tile in micrometres and in pixels.
    table_key
        The table.
    region
        Which of the table's regions; may be left out when there is one.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes ``[2, n_tiles]``, heaviest and lightest first. Where other tiles weigh as much as the last
    of a row, it says how many.

    Raises
    ------
    InputKeyError
        The table holds no weights under ``key``.
    InputValueError
        The slide has no weights, or others than a model gives, all tiles weigh the same, or none are
        asked for.
    """
    from matplotlib import pyplot as plt

    if n_tiles < 1:
        msg = f"n_tiles={n_tiles} is not a number of tiles; pass 1 or more"
        raise InputValueError(msg)
    frame = one_frame(sdata, table_key=table_key, region=region)
    weights = _weights(frame, key)
    count = min(n_tiles, len(weights))
    if weights.max() - weights.min() <= _EQUAL * weights.max():
        msg = f"all {len(weights):,} tiles of slide {frame.slide!r} weigh the same; none stands out"
        raise InputValueError(msg)
    # Ties in the order of the table, from either end.
    heaviest = np.argsort(-weights, kind="stable")[:count]
    lightest = np.argsort(weights, kind="stable")[:count]
    reader = TileReader(frame, tile_um=tile_um, tile_px=tile_px)
    figure, axes = plt.subplots(
        2, count, figsize=(1.5 * count, 3.7), layout="constrained", squeeze=False
    )
    for line, rows in zip(axes, (heaviest, lightest), strict=True):
        for ax, row, image in zip(line, rows, reader.read(rows), strict=True):
            ax.imshow(image.transpose(1, 2, 0), interpolation="antialiased")
            ax.set_title(f"× {weights[row] * len(weights):.2g}", fontsize="small", pad=2)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
    axes[0, 0].set_ylabel(f"largest weights{_tied(weights, heaviest)}")
    axes[1, 0].set_ylabel(f"smallest weights{_tied(weights, lightest)}")
    figure.suptitle(f"{frame.slide}: times an equal share", fontsize="medium")
    finish(figure, show=show, save=save)
    return axes


def _weights(frame: SpotFrame, key: str) -> NDArray[np.float32]:
    column = Keys(key).attention
    if column not in frame.table.obs:
        msg = (
            f"table {frame.setup.table_key!r} has no column {column!r}; call `annotate` of a model of "
            "slides first, or pass the `key` you wrote to"
        )
        raise InputKeyError(msg)
    weights: NDArray[np.float32] = frame.table.obs[column].to_numpy(np.float32)[frame.rows]
    if not np.isfinite(weights).all():
        msg = f"slide {frame.slide!r} has no weights in {column!r}; annotate it first"
        raise InputValueError(msg)
    total = float(weights.sum(dtype=np.float64))
    if (weights < 0).any() or abs(total - 1) > _SUM:
        msg = (
            f"the weights of slide {frame.slide!r} in {column!r} sum to {total:.4g} and not to 1: tiles were "
            "added or dropped since; annotate it again"
        )
        raise InputValueError(msg)
    return weights


def _tied(weights: NDArray[np.float32], shown: NDArray[np.intp]) -> str:
    """Say how many tiles weigh as much as the last that is shown, and are not."""
    others = int(
        (weights == weights[shown[-1]]).sum() - (weights[shown] == weights[shown[-1]]).sum()
    )
    return f"\n({others:,} more tie)" if others else ""


def _frame(sdata: SpatialData, table_key: str, region: str | None) -> SpotFrame:
    """Resolve a slide; without an image only the places of its tiles."""
    if sdata.images:
        return one_frame(sdata, table_key=table_key, region=region)
    annotation = read_annotation(sdata, table_key)
    region = choose_region(annotation.regions, table_key, region)
    rows = region_rows(annotation, region)
    ids, centers = region_centers(sdata, region)
    return SpotFrame(
        slide=region,
        sdata=sdata,
        setup=SpatialSetup(table_key),
        region=region,
        image_key="",
        coordinate_system="",
        patient=None,
        rows=rows,
        obs_names=annotation.table.obs_names.to_numpy(dtype=object)[rows],
        instances=annotation.instance_of_row[rows],
        centers=centers[join(annotation, region, rows, ids)],
        array_index=None,
        um_per_unit=1.0,
        um_source="not needed to draw",
    )
