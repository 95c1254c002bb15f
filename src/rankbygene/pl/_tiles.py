"""A sheet of tiles as the network sees them: the quickest check of scale and alignment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene._arguments import checked
from rankbygene.data import TileReader, level_to_system
from rankbygene.errors import InputValueError
from rankbygene.pl._frames import one_frame
from rankbygene.pl._style import BLUE, finish, scale_bar
from rankbygene.pl._tissue import draw_tissue, tissue_aspect

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from rankbygene.data import SpotFrame, TilePlan

OVERVIEW_INCHES = 4.6


@checked
def tiles(
    sdata: SpatialData,
    *,
    n_tiles: int = 12,
    tile_um: float = 112.0,
    tile_px: int = 224,
    table_key: str = "table",
    region: str | None = None,
    seed: int = 0,
    show: bool = False,
    save: str | Path | None = None,
) -> NDArray[np.object_]:
    """Draw where tiles lie on the tissue, and a random sample of them at full resolution.

    All tiles should lie on tissue, nuclei should be sharp and look equally large on every slide
    of a study, and a tile should look like its place in the overview. Numbers link the two.

    Parameters
    ----------
    sdata
        Object that holds the slide. What ``setup_spatialdata`` was told about it is used.
    n_tiles
        How many tiles to draw.
    tile_um, tile_px
        Width of a tile in micrometres and in pixels, as for the model.
    table_key
        Table that annotates the spots.
    region
        Which of the table's regions; may be left out when there is one.
    seed
        Chooses the spots.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes, one per tile, titled with number and spot. The overview is one more axes of the
    figure, labelled ``"overview"``.
    """
    if n_tiles < 1:
        msg = f"n_tiles={n_tiles} is not a number of tiles; pass 1 or more"
        raise InputValueError(msg)
    frame = one_frame(sdata, table_key=table_key, region=region)
    reader = TileReader(frame, tile_um=tile_um, tile_px=tile_px)
    count = min(n_tiles, frame.n_obs)
    rows = np.sort(np.random.default_rng(seed).choice(frame.n_obs, count, replace=False))
    images = reader.read(rows)
    figure, overview, axes = _open_sheet(count, tissue_aspect(frame.centers))
    _draw_overview(overview, frame, reader.plan, rows)
    for number, (ax, row, image) in enumerate(zip(axes, rows, images, strict=True), 1):
        _draw_tile(ax, image, f"{number}: {frame.obs_names[row]}")
    scale_bar(axes[0], tile_um / tile_px)
    figure.suptitle(_scale_text(frame.slide, reader.plan), fontsize="medium")
    finish(figure, show=show, save=save)
    return axes


def _open_sheet(count: int, aspect: float) -> tuple[Figure, Axes, NDArray[np.object_]]:
    """Open the overview on the left and a grid of tiles of about its height on the right."""
    from matplotlib import pyplot as plt

    height = float(np.clip(OVERVIEW_INCHES * aspect, 2.6, 6.5))
    rows = max(1, round(math.sqrt(count * height / OVERVIEW_INCHES)))
    columns = math.ceil(count / rows)
    rows = math.ceil(count / columns)
    tile = height / rows
    width = OVERVIEW_INCHES + columns * tile
    figure = plt.figure(figsize=(width, height + 0.6), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(OVERVIEW_INCHES, columns * tile))
    left, right = parts
    grid = right.subplots(rows, columns, squeeze=False)
    for ax in grid.ravel():
        ax.set_axis_off()
    overview = left.subplots()
    overview.set_label("overview")
    return figure, overview, grid.ravel()[:count]


def _draw_overview(ax: Axes, frame: SpotFrame, plan: TilePlan, rows: NDArray[np.intp]) -> None:
    """Draw the outlines of all tiles on the tissue, and number the sampled ones."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patheffects import withStroke

    draw_tissue(ax, frame)
    outlines = tile_outlines(frame, plan)
    sampled = np.isin(np.arange(frame.n_obs), rows)
    # Fine where tiles overlap, so that the tissue stays in sight.
    every = PolyCollection(list(outlines), facecolor="none", edgecolor="black", alpha=0.35)
    every.set(linewidth=0.4, label="tiles")
    ax.add_collection(every)
    ax.add_collection(
        PolyCollection(list(outlines[sampled]), facecolor="none", edgecolor=BLUE, linewidth=1.6)
    )
    # Above the outline: on a large slide a tile is smaller than its number.
    tops = np.stack([outlines[:, :, 0].mean(axis=1), outlines[:, :, 1].min(axis=1)], axis=1)
    for number, row in enumerate(rows, 1):
        ax.annotate(
            str(number),
            tops[row],
            ha="center",
            va="bottom",
            color=BLUE,
            fontsize="small",
            fontweight="bold",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
    ax.set_title(f"{frame.n_obs:,} spots on {frame.image_key!r}", fontsize="small")
    scale_bar(ax, frame.um_per_unit)


def tile_outlines(frame: SpotFrame, plan: TilePlan) -> NDArray[np.float64]:
    """Corners of the tiles in the frame's coordinate system, ``[n, 4, 2]``."""
    image = frame.sdata.images[frame.image_key]
    to_system = level_to_system(image, plan.level, frame.coordinate_system)
    square = plan.side * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    corners = np.stack([plan.x0, plan.y0], axis=1)[:, None] + square
    outlines: NDArray[np.float64] = corners @ to_system[:2, :2].T + to_system[:2, 2]
    return outlines


def _draw_tile(ax: Axes, image: NDArray[np.uint8], name: str) -> None:
    ax.imshow(image.transpose(1, 2, 0), interpolation="antialiased")
    ax.set_title(name if len(name) <= 18 else f"{name[:17]}…", fontsize="x-small", pad=2)


def _scale_text(slide: str, plan: TilePlan) -> str:
    return (
        f"{slide}: {plan.tile_um:g} µm = {plan.tile_px} px ({plan.tile_um / plan.tile_px:.2f} µm/px), "
        f"read from level {plan.level} of {plan.image_key!r} at {plan.um_per_px:.2f} µm/px"
    )
