"""Predicted outcomes against what happened: survival of risk groups, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics import logrank
from rankbygene.metrics._censoring import read_flags
from rankbygene.pl._patients import (
    align_patients,
    equal_groups,
    leave_out,
    read_groups,
    read_numbers,
    read_survival,
)
from rankbygene.pl._style import BLUE, COLORS, GREY, bare, finish, open_axes, root_figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

# 97.5th percentile of the normal distribution
_Z = 1.959964
# The names of more groups would lie on their curves, and their bands on each other.
_IN_AXES = 5


@checked
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
        Time to event or censoring, above 0, and whether the event was seen (bool, or 1 and 0),
        ``[n]``.
    risk
        Predicted risk ``[n]``; patients are cut into ``n_groups`` groups by it, equal but for ties,
        which stay together. Use predictions for patients that the model has not seen.
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
    The axes. Ticks mark censored patients; bands, of five groups at most, are 95 % intervals on
    the scale of ``log(-log S)``.

    Raises
    ------
    InputTypeError
        Values are of the wrong type.
    InputValueError
        Neither or both of ``risk`` and ``groups`` are given, a time or an event is missing or cannot be
        one, lengths or patients differ, ties leave a group empty, or there are too many groups to tell
        apart.

    Notes
    -----
    Series are joined by their index; mixed with arrays they are refused, unless their rows are numbered.
    Patients without a risk or a group are left out, with a warning and a note in the legend.
    """
    if (risk is None) == (groups is None):
        msg = "pass either risk, to be cut into groups, or groups"
        raise InputValueError(msg)
    given = align_patients(time=time, event=event, risk=risk, groups=groups)
    times, events = read_survival(given["time"], given["event"])
    if groups is None:
        values = read_numbers(given["risk"], "risk", len(times))
        known, kinds = np.isfinite(values), _risk_names(values, n_groups)
        labels = np.full(len(values), None, dtype=object)
        labels[known] = np.array(kinds, object)[equal_groups(values[known], n_groups)]
    else:
        labels, kinds = read_groups(given["groups"], len(times))
        known = np.array([label is not None for label in labels])
    styles = _line_styles(len(kinds))
    note = leave_out(known, "risk" if groups is None else "group")
    times, events, labels = times[known], events[known], labels[known]
    ax = open_axes(ax, (5.0 if len(kinds) <= _IN_AXES else 7.6, 3.6))
    for style, name in zip(styles, kinds, strict=True):
        own = labels == name
        _draw_survival(ax, times[own], events[own], name, *style, band=len(kinds) <= _IN_AXES)
    ax.set_ylim(0, 1.02)
    ax.set_xlim(0, None)
    ax.set_xlabel("time")
    ax.set_ylabel("share without the event")
    if len(kinds) > 1:
        ax.set_title(
            f"log-rank {_p_text(logrank(times, events, labels).p_value)}", fontsize="medium"
        )
    place: dict[str, Any] = {"loc": "best"}
    if len(kinds) > _IN_AXES:
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    ax.legend(frameon=False, fontsize="small", title=note or None, title_fontsize="small", **place)
    bare(ax)
    finish(root_figure(ax), show=show, save=save)
    return ax


@checked(at=None)
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
        Whether the patient is of the class, ``[n]`` (bool, or 1 and 0).
    time, event, at
        For survival instead: the observed share is the Kaplan-Meier estimate at ``at``.
    n_bins
        Number of bins. Equal predictions stay in one, so that there may be fewer.
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
    InputTypeError
        Values are of the wrong type.
    InputValueError
        Neither or both kinds of outcome are given, an outcome is missing or cannot be one, a probability
        is not between 0 and 1, lengths or patients differ, there are fewer patients than bins, or nobody
        of a bin was followed until ``at``.

    Notes
    -----
    Series are joined by their index; mixed with arrays they are refused, unless their rows are numbered.
    Patients without a prediction are left out, with a warning and a note in the picture.
    """
    survival = time is not None and event is not None and at is not None
    partly = any(value is not None for value in (time, event, at))
    if survival == (outcome is not None) or partly != survival:
        msg = "pass either outcome, or time, event and at"
        raise InputValueError(msg)
    given = align_patients(predicted=predicted, outcome=outcome, time=time, event=event)
    probability = read_numbers(given["predicted"], "predicted", len(given["predicted"]))
    known = np.isfinite(probability)
    _check_probabilities(probability[known])
    # Read whole before patients without a prediction leave: a faulty outcome is a fault there too.
    if survival:
        times, events = read_survival(given["time"], given["event"])
    else:
        events = read_flags(given["outcome"], "outcome", None, ("of the class", "not"))
    if len(events) != len(probability):
        msg = f"predicted holds {len(probability)} patients, the outcome {len(events)}"
        raise InputValueError(msg)
    if not 1 <= n_bins <= known.sum():
        msg = f"{known.sum()} patients cannot be cut into n_bins={n_bins}"
        raise InputValueError(msg)
    note = leave_out(known, "prediction")
    bin_of = np.full(len(probability), -1)
    bin_of[known] = equal_groups(probability[known], n_bins)
    bins = [np.flatnonzero(bin_of == i) for i in np.unique(bin_of[known])]
    if survival:
        horizon = _horizon(float(at or 0), times[known])
        points = [_survival_at(times[rows], events[rows], horizon) for rows in bins]
    else:
        points = [_share(events[rows]) for rows in bins]
    x = np.array([probability[rows].mean() for rows in bins])
    y, low, high = np.array(points).T
    ax = open_axes(ax, (3.8, 3.7))
    ax.set_title(note, fontsize="small")
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
    ax: Axes,
    time: NDArray[np.float64],
    event: NDArray[np.bool_],
    name: str,
    color: str,
    dashes: str,
    *,
    band: bool,
) -> None:
    times, survival, greenwood = survival_curve(time, event)
    low, high = _interval(survival, greenwood)
    x = np.concatenate([[0.0], times, [time.max()]])
    y = np.concatenate([[1.0], survival, survival[-1:] if len(survival) else [1.0]])
    label = f"{name} ({len(time)} patients, {int(event.sum())} events)"
    ax.step(x, y, where="post", color=color, linestyle=dashes, linewidth=1.5, label=label)
    if band:
        ends = [
            np.concatenate([[1.0], side, side[-1:] if len(side) else [1.0]]) for side in (low, high)
        ]
        ax.fill_between(x, ends[0], ends[1], step="post", color=color, alpha=0.12, linewidth=0)
    censored = time[~event]
    height = y[np.searchsorted(times, censored, side="right")]
    ax.plot(censored, height, linestyle="none", marker="|", color=color, markersize=6)


def _risk_names(risk: NDArray[np.float64], n_groups: int) -> list[str]:
    """Name the groups of a risk, all of which have patients."""
    known = risk[np.isfinite(risk)]
    if not 2 <= n_groups <= len(known):
        msg = f"{len(known)} patients cannot be cut into n_groups={n_groups}; 2 at least"
        raise InputValueError(msg)
    filled = len(np.unique(equal_groups(known, n_groups)))
    if filled < n_groups:
        n_values = len(np.unique(known))
        msg = (
            f"risk has {n_values} different value{'s' * (n_values > 1)} for {len(known)} patients, which make {filled} and not "
            f"{n_groups} groups, since equal risks stay together; pass a smaller n_groups, or groups"
        )
        raise InputValueError(msg)
    if n_groups <= 3:
        return ["low risk", *["middle risk"] * (n_groups - 2), "high risk"]
    return [f"risk {i + 1} of {n_groups}" for i in range(n_groups)]


def _line_styles(n: int) -> list[tuple[str, str]]:
    """Colours and dashes that tell ``n`` groups apart.

    Raises
    ------
    InputValueError
        There are more groups than that.
    """
    styles = [(color, dashes) for dashes in ("-", "--", ":", "-.") for color in COLORS]
    if n > len(styles):
        msg = f"{n} groups cannot be told apart; merge them to {len(styles)} at most"
        raise InputValueError(msg)
    return styles[:n]


def _p_text(p: float) -> str:
    if np.isnan(p):
        return "p is not defined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _check_probabilities(values: NDArray[np.float64]) -> None:
    outside = int(((values < 0) | (values > 1)).sum())
    if outside:
        msg = (
            f"predicted holds {outside} values outside 0 to 1 (from {values.min():g} to "
            f"{values.max():g}); pass probabilities, not risks or logits"
        )
        raise InputValueError(msg)


def _horizon(at: float, time: NDArray[np.float64]) -> float:
    """Check that the time is one at which somebody was followed."""
    if not 0 < at <= time.max():
        msg = f"at={at:g} is not within the follow-up, which ends at {time.max():g}; choose an earlier time"
        raise InputValueError(msg)
    return at


def _survival_at(
    time: NDArray[np.float64], event: NDArray[np.bool_], at: float
) -> tuple[float, float, float]:
    last = time.max()
    if last < at and not event[time == last].any():
        msg = (
            f"in a bin of {len(time)} patients nobody was followed until at={at:g} (the last until "
            f"{last:g}); choose an earlier time or fewer bins"
        )
        raise InputValueError(msg)
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
