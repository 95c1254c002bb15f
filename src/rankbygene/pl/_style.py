"""What all pictures share: colours for every eye, one way to open and to finish a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Okabe and Ito's palette without its yellow, which is too light for lines on white.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
COLORS = (BLUE, ORANGE, GREEN, PINK, "#56B4E9", "#E69F00", "#000000")
GREY = "#767676"
# A spot without a value, light enough not to be read as one.
MISSING = "#E2E2E2"


def palette(n: int) -> list[str]:
    """Give ``n`` colours: told apart by every eye up to seven, from light to dark beyond."""
    if n <= len(COLORS):
        return list(COLORS[:n])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["viridis"](np.linspace(0, 0.95, n))]


def open_axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """Return ``ax``, or the axes of a new figure."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    _, new = plt.subplots(figsize=figsize, layout="constrained")
    return new


def open_panels(
    ax: Axes | None, n: int, size: tuple[float, float], *, columns: int = 4
) -> NDArray[np.object_]:
    """Return ``n`` axes of a new figure, each of ``size`` inches, or ``ax`` for a single one.

    Raises
    ------
    InputValueError
        One axes was given for several panels.
    """
    if ax is not None and n == 1:
        return np.array([ax], dtype=object)
    if ax is not None:
        msg = f"`ax` takes one panel, and this picture has {n}; leave `ax` out or draw them one by one"
        raise InputValueError(msg)
    from matplotlib import pyplot as plt

    # Full rows where that is possible: 5 panels are 3 + 2, not 4 + 1.
    rows = math.ceil(n / columns)
    columns = math.ceil(n / rows)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(size[0] * columns, size[1] * rows),
        layout="constrained",
        squeeze=False,
    )
    axes: NDArray[np.object_] = grid.ravel()
    for spare in axes[n:]:
        figure.delaxes(spare)
    return axes[:n]


def is_first_column(ax: Axes) -> bool:
    """Tell whether nothing stands to the left of a panel."""
    place = ax.get_subplotspec()
    return place is None or place.is_first_col()


def bare(ax: Axes) -> None:
    """Leave only the lines that carry numbers."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=3, color=GREY)


def few_ticks(ax: Axes) -> None:
    """Put about four ticks on either axis, so that small panels stay readable."""
    ax.locator_params(nbins=4, min_n_ticks=3)


def scale_bar(ax: Axes, um_per_unit: float, *, color: str = "black") -> None:
    """Draw a bar of a round length, about a fifth of the width, in the lower left corner."""
    from matplotlib.font_manager import FontProperties
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    left, right = ax.get_xlim()
    length = round_length(0.25 * abs(right - left) * um_per_unit)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    bar = AnchoredSizeBar(
        ax.transData,
        length / um_per_unit,
        text,
        "lower left",
        pad=0.2,
        borderpad=0.2,
        sep=2,
        color=color,
        size_vertical=0.009 * abs(right - left),
        fill_bar=True,
        frameon=True,
        fontproperties=FontProperties(size="x-small"),
    )
    bar.patch.set(facecolor="white", edgecolor="none", alpha=0.75)
    bar.set_label("scale bar")
    ax.add_artist(bar)


def round_length(longest: float) -> float:
    """Give the largest 1, 2 or 5 times a power of ten that is not above ``longest``."""
    power = 10.0 ** math.floor(math.log10(longest))
    return power * max(step for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9))


def legend_beside(figure: Figure, handles: Sequence[object], title: str | None = None) -> None:
    """Put one legend for all panels to their right."""
    figure.legend(
        handles=list(handles),  # type: ignore[arg-type]
        title=title,
        loc="outside right upper",
        frameon=False,
        fontsize="small",
        title_fontsize="small",
    )


def finish(figure: Figure, *, show: bool, save: str | Path | None) -> None:
    """Save and show a figure when that was asked for."""
    if save is not None:
        known = figure.canvas.get_supported_filetypes()
        kind = Path(save).suffix.lower().removeprefix(".")
        if kind and kind not in known:
            msg = f"save is {str(save)!r}; a file that ends in one of {', '.join(known)} is needed"
            raise InputValueError(msg)
        figure.savefig(Path(save), dpi=150, bbox_inches="tight")
    if show:
        from matplotlib import pyplot as plt

        plt.show()


def root_figure(ax: Axes) -> Figure:
    """Return the figure that holds ``ax``, also when it sits in a subfigure."""
    figure: Figure = ax.figure.get_figure(root=True)  # type: ignore[assignment]
    return figure
