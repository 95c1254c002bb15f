"""Training curves, of one run or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from rankbygene._arguments import checked
from rankbygene._checks import shown
from rankbygene.errors import InputKeyError, InputTypeError, NotTrainedError
from rankbygene.pl._style import GREY, bare, finish, open_axes, palette, root_figure

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.typing import LineStyleType

    # In quotes: a Series cannot be subscripted where this block is executed for the documentation.
    Curves: TypeAlias = "Mapping[str, pd.Series[float]]"

# With two keys, training is dashed and validation solid, as the order of the default keys wants.
_STYLES: tuple[LineStyleType, ...] = ("--", "-", ":", "-.")


@checked
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
        A trained model, or its ``history``; or several as ``{name: model or history}``, such as
        the folds of a cross-validation: one colour each.
    keys
        Entries of the history. Those that a training did not log are left out.
    ax
        Axes to draw in; by default a new figure.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes. The epoch of the lowest validation loss of each run is marked.

    Raises
    ------
    NotTrainedError
        There is no history yet.
    InputKeyError
        A history holds none of ``keys``.
    """
    from matplotlib.ticker import MaxNLocator

    runs = {name: _curves(name, run, keys) for name, run in _runs(model).items()}
    drawn = [key for key in keys if any(key in curves for curves in runs.values())]
    ax = open_axes(ax, (5.2, 3.4) if len(runs) == 1 else (6.6, 3.8))
    if len(runs) == 1:
        _draw_one(ax, next(iter(runs.values())))
    else:
        _draw_several(ax, runs, drawn)
    ax.set_xlabel("epoch")
    one_label = _label(drawn[0]) if len(drawn) == 1 else None
    ax.set_ylabel(one_label or ("loss" if all(key.endswith("loss") for key in drawn) else "value"))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    bare(ax)
    finish(root_figure(ax), show=show, save=save)
    return ax


def _runs(model: Any) -> dict[str, Any]:
    """Tell a mapping of runs from one run; a history maps names to tables."""
    if isinstance(model, Mapping) and model:
        if not any(hasattr(value, "iloc") for value in model.values()):
            return {str(name): run for name, run in model.items()}
    return {"": model}


def _curves(name: str, run: Any, keys: Sequence[str]) -> Curves:
    of_run = f" of {name!r}" if name else ""
    logged: Mapping[str, pd.DataFrame] | None = getattr(run, "history", run)
    if logged is not None and not isinstance(logged, Mapping):
        msg = f"model{of_run} is {shown(run)}; a model, its history or a mapping of them is needed"
        raise InputTypeError(msg)
    if not logged:
        msg = f"there is no training history{of_run} to draw; call `model.train()` first"
        raise NotTrainedError(msg)
    curves = {key: logged[key].iloc[:, 0].dropna() for key in keys if key in logged}
    if not curves:
        msg = f"the history{of_run} has none of {', '.join(keys)}; it holds {', '.join(sorted(logged))}"
        raise InputKeyError(msg)
    return curves


def _draw_one(ax: Axes, curves: Curves) -> None:
    for color, (key, values) in zip(palette(len(curves)), curves.items(), strict=True):
        _draw_curve(ax, values, color, "-", _label(key))
    _note_lowest(ax, curves)
    if len(curves) > 1:
        ax.legend(frameon=False)


def _draw_several(ax: Axes, runs: Mapping[str, Curves], keys: Sequence[str]) -> None:
    """Draw a colour per run and a style per key, and name both beside the axes."""
    from matplotlib.lines import Line2D

    styles = {key: _STYLES[i % 4] if len(keys) > 1 else "-" for i, key in enumerate(keys)}
    colors = dict(zip(runs, palette(len(runs)), strict=True))
    for name, curves in runs.items():
        for key, values in curves.items():
            _draw_curve(ax, values, colors[name], styles[key], f"{name} {_label(key)}")
        best = _lowest(curves)
        if best is not None:
            ax.plot(*best, "o", color=colors[name], markersize=5)
    handles = [Line2D([], [], color=color, label=name) for name, color in colors.items()]
    if len(keys) > 1:
        handles += [
            Line2D([], [], color=GREY, linestyle=styles[key], label=_label(key)) for key in keys
        ]
    if any(_lowest(curves) for curves in runs.values()):
        handles.append(
            Line2D([], [], color=GREY, marker="o", linestyle="", markersize=5, label="lowest")
        )
    ax.legend(
        handles=handles,
        frameon=False,
        fontsize="small",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        ncols=1 + (len(handles) - 1) // 16,
    )


def _draw_curve(
    ax: Axes, values: pd.Series[float], color: str, style: LineStyleType, label: str
) -> None:
    marker = "o" if len(values) == 1 else None
    ax.plot(
        values.index,
        values.to_numpy(),
        color=color,
        linestyle=style,
        label=label,
        marker=marker,
        linewidth=1.4,
    )


def _label(key: str) -> str:
    return key.replace("_", " ")


def _lowest(curves: Curves) -> tuple[int, float] | None:
    """Epoch and value of the lowest validation loss."""
    values = curves.get("validation_loss")
    if values is None or len(values) < 2:
        return None
    return int(values.index[int(values.argmin())]), float(values.min())


def _note_lowest(ax: Axes, curves: Curves) -> None:
    best = _lowest(curves)
    if best is None:
        return
    epoch = best[0]
    # The text stands on the side that has room for it.
    left, right = ax.get_xlim()
    on_left = epoch > (left + right) / 2
    ax.axvline(epoch, color=GREY, linewidth=0.8, linestyle=":")
    ax.annotate(
        f"lowest: {epoch}",
        (epoch, 0.0),
        xycoords=("data", "axes fraction"),
        xytext=(-3 if on_left else 3, 3),
        textcoords="offset points",
        ha="right" if on_left else "left",
        va="bottom",
        color=GREY,
        fontsize="small",
    )
