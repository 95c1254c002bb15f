"""Methods side by side, gene by gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rankbygene.errors import InputKeyError
from rankbygene.pl._style import BLUE, GREY, bare, finish, open_axes, root_figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

LABELS = {
    "pearson": "Pearson correlation per gene",
    "mse": "mean squared error per gene",
    "mae": "mean absolute error per gene",
}


def scores(
    evaluation: Any,
    metric: str = "pearson",
    *,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw the score of every gene under each method, and the mean.

    Parameters
    ----------
    evaluation
        Result of :func:`rankbygene.tl.evaluate`, or its ``per_gene`` table.
    metric
        Column of the table.
    ax
        Axes to draw in; by default a new figure.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes. A method without a defined score (a constant prediction has no correlation) keeps
    its row and says so.

    Raises
    ------
    InputKeyError
        The table has no such column.
    """
    table: pd.DataFrame = getattr(evaluation, "per_gene", evaluation)
    missing = {"method", metric} - set(table.columns)
    if missing:
        msg = (
            f"the table has no column {', '.join(sorted(missing))}; "
            f"it has {', '.join(map(str, table.columns))}"
        )
        raise InputKeyError(msg)
    methods = list(dict.fromkeys(table["method"]))
    ax = open_axes(ax, (5.6, 0.75 * len(methods) + 1.0))
    # The first method is the one that is judged; the others are there to compare.
    for place, method in enumerate(methods):
        values = table.loc[table["method"] == method, metric].dropna().to_numpy(float)
        _draw_method(ax, len(methods) - 1 - place, values, BLUE if place == 0 else GREY)
    ax.set_yticks(range(len(methods)), methods[::-1])
    ax.set_ylim(-0.6, len(methods) - 0.4)
    ax.set_xlabel(LABELS.get(metric, metric))
    if metric == "pearson":
        ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    bare(ax)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    finish(root_figure(ax), show=show, save=save)
    return ax


def _draw_method(ax: Axes, height: int, values: NDArray[np.float64], color: str) -> None:
    if not len(values):
        ax.annotate(
            "not defined",
            (0, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=GREY,
            fontsize="small",
        )
        return
    # Spread by rank within the row, the same on every call: no random jitter.
    offsets = ((np.argsort(np.argsort(values)) * 0.618) % 1 - 0.5) * 0.45
    ax.scatter(values, height + offsets, s=9, color=color, alpha=0.45, linewidths=0)
    mean = float(values.mean())
    ax.plot([mean, mean], [height - 0.3, height + 0.3], color="black", linewidth=2)
    ax.annotate(
        f"{mean:.2f}",
        (mean, height + 0.32),
        ha="center",
        va="bottom",
        fontsize="small",
    )
