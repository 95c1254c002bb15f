"""Methods side by side: gene by gene, or as means with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rankbygene._arguments import checked
from rankbygene._checks import check_instance
from rankbygene.errors import InputKeyError
from rankbygene.pl._intervals import CEILINGS, draw_intervals, note_undefined, order_rows
from rankbygene.pl._style import (
    GREY,
    bare,
    finish,
    is_first_column,
    open_panels,
    palette,
    root_figure,
)

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

LABELS = {
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "mse": "mean squared error",
    "mae": "mean absolute error",
}
LOWER_IS_BETTER = frozenset(
    {"mse", "mae", "nrmse", "relative_variation_distance", "jensen_shannon"}
)


@checked
def scores(
    evaluation: Any,
    metric: str | Sequence[str] = "pearson",
    *,
    methods: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes | NDArray[np.object_]:
    """Draw the scores of methods side by side.

    A table with one row per gene is drawn gene by gene, with the mean. A table with one row per
    method is drawn as points, with their intervals where it has the columns ``<metric>_low`` and
    ``<metric>_high``, best first. Its row ``noise ceiling`` (or ``ceiling``), the score that noise of
    the measurement leaves within reach, becomes a dashed line and a band, and the best of the
    methods that are not judged a dotted line.

    Parameters
    ----------
    evaluation
        Result of :func:`rankbygene.tl.evaluate`, drawn gene by gene; of
        :func:`rankbygene.tl.cross_validate`, whose ``summary`` has intervals; or a table: long with
        the column ``method``, or a summary whose index names the methods.
    metric
        Column of the table, or several: one panel each.
    methods
        The methods that are judged, drawn in colour; by default the ``methods`` of the result, or
        the first row of a table. The others are there to compare and are grey, in a block of their
        own in a summary.
    ax
        Axes to draw in, for one metric; by default a new figure.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes; an array of them where ``metric`` is a list. A method without a defined score (a
    constant prediction has no correlation) keeps its row and says so.

    Raises
    ------
    InputKeyError
        The table has no such column or method.
    """
    metrics = [metric] if isinstance(metric, str) else list(metric)
    table, per_gene = _table(evaluation, metrics)
    names = _methods(table, per_gene)
    judged = _judged(names, methods or getattr(evaluation, "methods", None))
    if per_gene:
        order = [name for name in names if name in judged]
        order += [name for name in names if name not in judged]
    else:
        order = order_rows(table.loc[names, metrics[0]], judged, metrics[0] in LOWER_IS_BETTER)
    colors = dict.fromkeys(order, GREY) | _colors(judged)
    size = (5.6 if len(metrics) == 1 else 3.9, (0.75 if per_gene else 0.38) * len(order) + 1.0)
    axes = open_panels(ax, len(metrics), size, columns=3)
    for panel, name in zip(axes, metrics, strict=True):
        if per_gene:
            _draw_genes(panel, table, name, order, colors)
        else:
            draw_intervals(panel, table, name, order, colors, judged, name in LOWER_IS_BETTER)
        _label(panel, name, per_gene)
        if not is_first_column(panel):
            panel.tick_params(labelleft=False)
    finish(root_figure(axes[0]), show=show, save=save)
    return axes[0] if isinstance(metric, str) else axes


def _table(evaluation: Any, metrics: Sequence[str]) -> tuple[pd.DataFrame, bool]:
    """Find the table to draw, and whether it has a row per gene."""
    table = getattr(evaluation, "per_gene", evaluation)
    summary = getattr(evaluation, "summary", None)
    if summary is not None and f"{metrics[0]}_low" in summary:
        table = summary
    check_instance(table, "evaluation", pd.DataFrame, "or a result of rankbygene.tl")
    per_gene = "method" in table
    missing = [name for name in metrics if name not in table]
    if missing:
        msg = (
            f"the table has no column {', '.join(missing)}; "
            f"it has {', '.join(map(str, table.columns))}"
        )
        raise InputKeyError(msg)
    return table, per_gene


def _methods(table: pd.DataFrame, per_gene: bool) -> list[str]:
    names = table["method"] if per_gene else table.index
    return [name for name in dict.fromkeys(names) if per_gene or name not in CEILINGS]


def _judged(names: Sequence[str], methods: str | Sequence[str] | None) -> list[str]:
    judged = [methods] if isinstance(methods, str) else list(methods or names[:1])
    missing = [name for name in judged if name not in names]
    if missing:
        msg = f"the table has no method {', '.join(missing)}; it has {', '.join(names)}"
        raise InputKeyError(msg)
    return judged


def _colors(judged: Sequence[str]) -> dict[str, str]:
    return dict(zip(judged, palette(len(judged)), strict=True))


def _label(ax: Axes, metric: str, per_gene: bool) -> None:
    text = LABELS.get(metric, metric.replace("_", " ")) + (" per gene" if per_gene else "")
    ax.set_xlabel(text + ("\n(lower is better)" if metric in LOWER_IS_BETTER else ""))
    if metric in ("pearson", "spearman"):
        ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    bare(ax)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _draw_genes(
    ax: Axes, table: pd.DataFrame, metric: str, order: Sequence[str], colors: dict[str, str]
) -> None:
    for height, method in enumerate(reversed(order)):
        values = table.loc[table["method"] == method, metric].dropna().to_numpy(float)
        _draw_method(ax, height, values, colors[method])
    ax.set_yticks(range(len(order)), order[::-1])
    ax.set_ylim(-0.6, len(order) - 0.4)


def _draw_method(ax: Axes, height: int, values: NDArray[np.float64], color: str) -> None:
    if not len(values):
        note_undefined(ax, height)
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
