"""What all pictures share: colours for every eye, one way to open and to finish a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow, which is too light for lines on white.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
COLORS = (BLUE, ORANGE, GREEN, PINK, "#56B4E9", "#E69F00", "#000000")
GREY = "#767676"


def open_axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """Return ``ax``, or the axes of a new figure."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    _, new = plt.subplots(figsize=figsize, layout="constrained")
    return new


def bare(ax: Axes) -> None:
    """Leave only the lines that carry numbers."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=3, color=GREY)


def finish(figure: Figure, *, show: bool, save: str | Path | None) -> None:
    """Save and show a figure when that was asked for."""
    if save is not None:
        figure.savefig(Path(save), dpi=150, bbox_inches="tight")
    if show:
        from matplotlib import pyplot as plt

        plt.show()


def root_figure(ax: Axes) -> Figure:
    """Return the figure that holds ``ax``, also when it sits in a subfigure."""
    figure: Figure = ax.figure.get_figure(root=True)  # type: ignore[assignment]
    return figure
