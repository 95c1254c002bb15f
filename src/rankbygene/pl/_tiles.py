"""A sheet of tiles as the network sees them: the quickest check of scale and alignment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rankbygene.data import TileReader
from rankbygene.errors import InputValueError
from rankbygene.pl._frames import one_frame
from rankbygene.pl._style import finish

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from rankbygene.data import TilePlan


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
    """Draw a random sample of a slide's tiles, with their scale in the title.

    Nuclei should be sharp and look equally large on every slide of a study.

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
    The axes, one per tile.
    """
    from matplotlib import pyplot as plt

    if n_tiles < 1:
        msg = f"n_tiles={n_tiles} is not a number of tiles; pass 1 or more"
        raise InputValueError(msg)
    frame = one_frame(sdata, table_key=table_key, region=region)
    reader = TileReader(frame, tile_um=tile_um, tile_px=tile_px)
    count = min(n_tiles, frame.n_obs)
    rows = np.sort(np.random.default_rng(seed).choice(frame.n_obs, count, replace=False))
    images = reader.read(rows)
    width = min(6, math.ceil(math.sqrt(count * 1.5)))
    height = math.ceil(count / width)
    figure, grid = plt.subplots(
        height,
        width,
        figsize=(1.5 * width, 1.7 * height + 0.5),
        layout="constrained",
        squeeze=False,
    )
    axes: NDArray[np.object_] = grid.ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, row, image in zip(axes, rows, images, strict=False):
        _draw_tile(ax, image, str(frame.obs_names[row]))
    figure.suptitle(_scale_text(frame.slide, reader.plan), fontsize="medium")
    finish(figure, show=show, save=save)
    return axes[:count]


def _draw_tile(ax: Axes, image: NDArray[np.uint8], name: str) -> None:
    ax.imshow(image.transpose(1, 2, 0), interpolation="antialiased")
    ax.set_title(name if len(name) <= 16 else f"{name[:15]}…", fontsize="x-small", pad=2)


def _scale_text(slide: str, plan: TilePlan) -> str:
    return (
        f"{slide}: {plan.tile_um:g} µm = {plan.tile_px} px ({plan.tile_um / plan.tile_px:.2f} µm/px)\n"
        f"read from level {plan.level} of {plan.image_key!r} at {plan.um_per_px:.2f} µm/px"
    )
