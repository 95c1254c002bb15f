"""Training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rankbygene.errors import InputKeyError, NotTrainedError
from rankbygene.pl._style import COLORS, GREY, bare, finish, open_axes, root_figure

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes


def history(
    model: Any,
    keys: Sequence[str] = ("train_loss", "validation_loss"),
    *,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw what was logged per epoch.

    Parameters
    ----------
    model
        A trained model, or its ``history``.
    keys
        Entries of the history. Those that this training did not log are left out.
    ax
        Axes to draw in; by default a new figure.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes.

    Raises
    ------
    NotTrainedError
        There is no history yet.
    InputKeyError
        The history holds none of ``keys``.
    """
    from matplotlib.ticker import MaxNLocator

    curves = _curves(model, keys)
    ax = open_axes(ax, (5.2, 3.4))
    for color, (key, values) in zip(COLORS, curves.items(), strict=False):
        marker = "o" if len(values) == 1 else None
        ax.plot(values.index, values.to_numpy(), color=color, label=_label(key), marker=marker)
    _mark_lowest(ax, curves)
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss" if all(key.endswith("loss") for key in curves) else "value")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    bare(ax)
    if len(curves) > 1:
        ax.legend(frameon=False)
    else:
        ax.set_ylabel(_label(next(iter(curves))))
    finish(root_figure(ax), show=show, save=save)
    return ax


def _curves(model: Any, keys: Sequence[str]) -> dict[str, pd.Series[float]]:
    logged: Mapping[str, pd.DataFrame] | None = getattr(model, "history", model)
    if not logged:
        msg = "there is no training history to draw; call `model.train()` first"
        raise NotTrainedError(msg)
    curves = {key: logged[key].iloc[:, 0].dropna() for key in keys if key in logged}
    if not curves:
        msg = f"the history has none of {', '.join(keys)}; it holds {', '.join(sorted(logged))}"
        raise InputKeyError(msg)
    return curves


def _label(key: str) -> str:
    return key.replace("_", " ")


def _mark_lowest(ax: Axes, curves: Mapping[str, pd.Series[float]]) -> None:
    """Mark the epoch of the lowest validation loss."""
    values = curves.get("validation_loss")
    if values is None or len(values) < 2:
        return
    best = int(values.index[int(values.argmin())])
    ax.axvline(best, color=GREY, linewidth=0.8, linestyle=":")
    ax.annotate(
        f"lowest: {best}",
        (best, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-3, -2),
        textcoords="offset points",
        ha="right",
        va="top",
        color=GREY,
        fontsize="small",
    )
