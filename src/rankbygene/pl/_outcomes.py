"""Predicted outcomes against what happened: survival of risk groups, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene.errors import InputValueError
from rankbygene.metrics import logrank
from rankbygene.pl._style import BLUE, COLORS, GREY, bare, finish, open_axes, root_figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

# 97.5th percentile of the normal distribution
_Z = 1.959964


def kaplan_meier(
    time: ArrayLike,
    event: ArrayLike,
    *,
    risk: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    n_groups: int = 2,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw the survival of groups of patients, with the p-value of the log-rank test.

    Parameters
    ----------
    time, event
        Time to event or censoring, and whether the event was seen, ``[n]``.
    risk
        Predicted risk ``[n]``; patients are cut into ``n_groups`` equal groups by it. Use
        predictions for patients that the model has not seen.
    groups
        Names of groups instead, ``[n]``.
    n_groups
        Number of groups.
    ax
        Axes to draw in; by default a new figure.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes. Ticks mark censored patients; bands are 95 % intervals on the scale of
    ``log(-log S)``.

    Raises
    ------
    InputValueError
        Neither or both of ``risk`` and ``groups`` are given, or lengths differ.
    """
    if (risk is None) == (groups is None):
        msg = "pass either risk, to be cut into groups, or groups"
        raise InputValueError(msg)
    times, events = np.asarray(time, np.float64), np.asarray(event, bool)
    names = _risk_groups(np.asarray(risk, np.float64), n_groups) if groups is None else groups
    labels: NDArray[Any] = np.asarray(names).astype(str)
    if not times.shape == events.shape == labels.shape or times.ndim != 1:
        msg = (
            f"time {times.shape}, event {events.shape} and groups {labels.shape} need one value per "
            "patient"
        )
        raise InputValueError(msg)
    ax = open_axes(ax, (5.0, 3.6))
    kinds = _risk_names(n_groups) if groups is None else list(dict.fromkeys(labels.tolist()))
    for color, name in zip(COLORS, kinds, strict=False):
        own = labels == name
        _draw_survival(ax, times[own], events[own], name, color)
    ax.set_ylim(0, 1.02)
    ax.set_xlim(0, None)
    ax.set_xlabel("time")
    ax.set_ylabel("share without the event")
    if len(kinds) > 1:
        ax.set_title(
            f"log-rank {_p_text(logrank(times, events, labels).p_value)}", fontsize="medium"
        )
    ax.legend(frameon=False, fontsize="small", loc="best")
    bare(ax)
    finish(root_figure(ax), show=show, save=save)
    return ax


def calibration(
    predicted: ArrayLike,
    outcome: ArrayLike | None = None,
    *,
    time: ArrayLike | None = None,
    event: ArrayLike | None = None,
    at: float | None = None,
    n_bins: int = 5,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw predicted probabilities against observed shares, in bins of equal numbers of patients.

    Parameters
    ----------
    predicted
        Probability of the class, or of being without the event at time ``at``, ``[n]``.
    outcome
        Whether the patient is of the class, ``[n]``.
    time, event, at
        For survival instead: the observed share is the Kaplan-Meier estimate at ``at``.
    n_bins
        Number of bins.
    ax
        Axes to draw in; by default a new figure.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes; bars are 95 % intervals.

    Raises
    ------
    InputValueError
        Neither or both kinds of outcome are given, or there are fewer patients than bins.
    """
    probability = np.asarray(predicted, np.float64)
    survival = time is not None and event is not None and at is not None
    if survival == (outcome is not None):
        msg = "pass either outcome, or time, event and at"
        raise InputValueError(msg)
    if not 1 <= n_bins <= len(probability):
        msg = f"{len(probability)} patients cannot be cut into n_bins={n_bins}"
        raise InputValueError(msg)
    ax = open_axes(ax, (3.8, 3.7))
    bins = np.array_split(np.argsort(probability, kind="stable"), n_bins)
    if survival:
        times, events = np.asarray(time, np.float64), np.asarray(event, bool)
        points = [_survival_at(times[rows], events[rows], float(at or 0)) for rows in bins]
    else:
        points = [_share(np.asarray(outcome, bool)[rows]) for rows in bins]
    x = np.array([probability[rows].mean() for rows in bins])
    y, low, high = np.array(points).T
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    ax.errorbar(
        x, y, yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)], color=BLUE, marker="o",
        markersize=5, linewidth=1.2, elinewidth=1, capsize=0,
    )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.02, 1.02)
    ax.set_aspect("equal")
    ax.set_xlabel(f"predicted survival at {at:g}" if survival else "predicted probability")
    ax.set_ylabel("Kaplan-Meier estimate" if survival else "observed share")
    bare(ax)
    finish(root_figure(ax), show=show, save=save)
    return ax


def survival_curve(
    time: NDArray[np.float64], event: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Kaplan-Meier estimate: times of events, survival from each on, and Greenwood's sum."""
    times, deaths = np.unique(time[event], return_counts=True)
    at_risk = len(time) - np.searchsorted(np.sort(time), times, side="left")
    survival = np.cumprod(1 - deaths / at_risk, dtype=np.float64)
    with np.errstate(divide="ignore"):
        greenwood = np.cumsum(deaths / (at_risk * (at_risk - deaths)))
    return times, np.asarray(survival, np.float64), np.asarray(greenwood, np.float64)


def _interval(
    survival: NDArray[np.float64], greenwood: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % interval that stays between 0 and 1, on the scale of ``log(-log S)``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        width = _Z * np.sqrt(greenwood) / np.abs(np.log(survival))
        low, high = survival ** np.exp(width), survival ** np.exp(-width)
    return np.nan_to_num(low, nan=0.0), np.nan_to_num(high, nan=0.0)


def _draw_survival(
    ax: Axes, time: NDArray[np.float64], event: NDArray[np.bool_], name: str, color: str
) -> None:
    times, survival, greenwood = survival_curve(time, event)
    low, high = _interval(survival, greenwood)
    x = np.concatenate([[0.0], times, [time.max()]])
    y = np.concatenate([[1.0], survival, survival[-1:] if len(survival) else [1.0]])
    label = f"{name} ({len(time)} patients, {int(event.sum())} events)"
    ax.step(x, y, where="post", color=color, linewidth=1.5, label=label)
    ends = [
        np.concatenate([[1.0], side, side[-1:] if len(side) else [1.0]]) for side in (low, high)
    ]
    ax.fill_between(x, ends[0], ends[1], step="post", color=color, alpha=0.12, linewidth=0)
    censored = time[~event]
    height = y[np.searchsorted(times, censored, side="right")]
    ax.plot(censored, height, linestyle="none", marker="|", color=color, markersize=6)


def _risk_groups(risk: NDArray[np.float64], n_groups: int) -> NDArray[np.object_]:
    if not 2 <= n_groups <= len(risk):
        msg = f"{len(risk)} patients cannot be cut into n_groups={n_groups}; 2 at least"
        raise InputValueError(msg)
    rank = np.argsort(np.argsort(risk, kind="stable"), kind="stable")
    group = rank * n_groups // len(risk)
    return np.array(_risk_names(n_groups), object)[group]


def _risk_names(n_groups: int) -> list[str]:
    if n_groups <= 3:
        return ["low risk", *["middle risk"] * (n_groups - 2), "high risk"]
    return [f"risk {i + 1} of {n_groups}" for i in range(n_groups)]


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _survival_at(
    time: NDArray[np.float64], event: NDArray[np.bool_], at: float
) -> tuple[float, float, float]:
    times, survival, greenwood = survival_curve(time, event)
    place = int(np.searchsorted(times, at, side="right")) - 1
    if place < 0:
        return 1.0, 1.0, 1.0
    low, high = _interval(survival, greenwood)
    return float(survival[place]), float(low[place]), float(high[place])


def _share(outcome: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Share of True with Wilson's interval."""
    n, share = len(outcome), float(outcome.mean())
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * float(np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)))
    return share, middle - half, middle + half
