"""Means of methods as points with intervals, against the best baseline and the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rankbygene.pl._style import GREY, MISSING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

CEILINGS = ("noise ceiling", "ceiling")
# What was measured around a spot is there for orientation; no method has to pass it.
REFERENCES = ("neighbours",)
# Between the methods that are judged and those beside them.
_GAP = 0.6


def order_rows(values: pd.Series[float], judged: Sequence[str], lower_is_better: bool) -> list[str]:
    """Sort the judged methods, then the others, best first and undefined ones last."""
    ranked = values.sort_values(ascending=lower_is_better, na_position="last", kind="stable")
    names = [str(name) for name in ranked.index]
    return [n for n in names if n in judged] + [n for n in names if n not in judged]


def draw_intervals(
    ax: Axes,
    table: pd.DataFrame,
    metric: str,
    order: Sequence[str],
    colors: Mapping[str, str],
    judged: Sequence[str],
    lower_is_better: bool,
) -> None:
    """Draw one row per method, from the top; baselines below a gap."""
    places = [-(i + _GAP * (name not in judged)) for i, name in enumerate(order)]
    values: pd.Series[float] = table[metric].astype(float)
    low, high = (
        table[f"{metric}_{end}"] if f"{metric}_{end}" in table else table[metric]
        for end in ("low", "high")
    )
    for place, name in zip(places, order, strict=True):
        value = float(values[name])
        if np.isnan(value):
            note_undefined(ax, place)
            continue
        interval = [float(low[name]), float(high[name])]
        ax.plot(interval, [place, place], color=colors[name], linewidth=2, solid_capstyle="butt")
        ax.plot(value, place, "o", color=colors[name], markersize=6, label=name)
        ax.annotate(
            f"{value:.3f}",
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colors[name],
            fontsize="small",
        )
    _draw_best_baseline(
        ax, values.reindex([n for n in order if n not in (*judged, *REFERENCES)]), lower_is_better
    )
    _draw_ceiling(ax, values, low, high)
    ax.set_yticks(places, list(order))
    ax.set_ylim(min(places) - 0.6, 0.6)


def note_undefined(ax: Axes, height: float) -> None:
    """Say in its row that a method has no score."""
    ax.annotate(
        "not defined",
        (0, height),
        xycoords=("axes fraction", "data"),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=GREY,
        fontsize="small",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _draw_best_baseline(ax: Axes, values: pd.Series[float], lower_is_better: bool) -> None:
    """Draw the line that a method has to pass."""
    known = values.dropna()
    if not len(known):
        return
    best = float(known.min() if lower_is_better else known.max())
    ax.axvline(best, color=GREY, linewidth=0.8, linestyle=":", zorder=0, label="best baseline")


def _draw_ceiling(
    ax: Axes, values: pd.Series[float], low: pd.Series[float], high: pd.Series[float]
) -> None:
    found = [name for name in CEILINGS if np.isfinite(values.get(name, np.nan))]
    if not found:
        return
    name, value = found[0], float(values[found[0]])
    ax.axvspan(low[name], high[name], color=MISSING, linewidth=0, zorder=-1)
    ax.axvline(value, color="black", linewidth=1, linestyle="--", zorder=0, label=name)
    ax.annotate(
        f"{name} {value:.3f}",
        (value, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize="small",
    )
