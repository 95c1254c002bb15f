"""Maps of genes on the tissue, measured beside predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rankbygene._arguments import checked
from rankbygene._keys import Keys
from rankbygene.data import Normalization, expression_matrix
from rankbygene.errors import InputKeyError
from rankbygene.metrics import pearson
from rankbygene.pl._frames import one_frame
from rankbygene.pl._predictions import score_text
from rankbygene.pl._style import finish, scale_bar
from rankbygene.pl._tissue import color_limits, colorbar, draw_spots, draw_tissue, tissue_aspect

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from rankbygene.data import SpotFrame

Panels = dict[str, "NDArray[np.float32]"]


@checked
def spatial_expression(
    sdata: SpatialData,
    genes: str | Sequence[str],
    *,
    key: str = "rankbygene",
    table_key: str = "table",
    region: str | None = None,
    shared_scale: bool = True,
    cmap: str = "viridis",
    show: bool = False,
    save: str | Path | None = None,
) -> NDArray[np.object_]:
    """Draw the tissue, and genes on it as measured and as predicted.

    Measured values are brought to the scale that the model was trained on. The correlation
    in the title leaves out spots that the model was trained on; where it was trained on all, the title
    says that instead. Scales are pointed where values lie beyond them.

    Parameters
    ----------
    sdata
        Object whose table was annotated, or to which ``predict_slide`` added a table.
    genes
        One gene or several, one row of panels each.
    key
        The prefix under which the results were written (``key_added``).
    table_key
        The table.
    region
        Which of the table's regions; may be left out when there is one.
    shared_scale
        One colour scale for measured and predicted values. False gives each its own, which
        shows the pattern of a prediction whose range is narrower.
    cmap
        Colour map.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes ``[n_genes, n_panels]``.

    Raises
    ------
    InputKeyError
        The table holds no results under ``key``, or not for one of the genes.
    """
    from matplotlib import pyplot as plt

    names = [genes] if isinstance(genes, str) else list(genes)
    frame = one_frame(sdata, table_key=table_key, region=region)
    values = _values(frame, names, Keys(key))
    columns = len(values) + 1
    figure, axes = plt.subplots(
        len(names),
        columns,
        figsize=(3.2 * columns, (2.6 * tissue_aspect(frame.centers) + 0.3) * len(names)),
        layout="constrained",
        squeeze=False,
    )
    for row, gene in enumerate(names):
        draw_tissue(axes[row, 0], frame)
        axes[row, 0].set_title("H&E")
        scale_bar(axes[row, 0], frame.um_per_unit)
        panels = {label: table[:, row] for label, table in values.items()}
        _draw_gene(axes[row, 1:], frame, gene, panels, Keys(key), shared_scale, cmap)
    finish(figure, show=show, save=save)
    return axes


def _values(frame: SpotFrame, genes: Sequence[str], keys: Keys) -> Panels:
    """Per kind of value an array ``[n_obs, n_genes]``."""
    table = frame.table
    if keys.params not in table.uns:
        msg = (
            f"table {frame.setup.table_key!r} has no results under {keys.prefix!r}; "
            "call `model.annotate()` or `model.predict_slide()` first, or pass the `key` you wrote to"
        )
        raise InputKeyError(msg)
    annotated = keys.expression in table.layers
    columns = table.var_names.get_indexer(list(genes))
    known = columns >= 0
    if annotated:
        known &= np.where(known, table.var[keys.panel].to_numpy(bool)[columns], False)
    if not known.all():
        missing = [gene for gene, found in zip(genes, known, strict=True) if not found]
        msg = (
            f"not predicted: {', '.join(missing[:5])}; the model's panel has the genes it predicts"
        )
        raise InputKeyError(msg)
    if not annotated:
        return {"predicted": np.asarray(table.X)[np.ix_(frame.rows, columns)]}
    normalization = Normalization.from_dict(table.uns[keys.params]["normalization"])
    names = list(genes)
    if normalization.library == "panel":
        # The library size is that of all genes of the model, not of those that are drawn.
        names = [str(name) for name in table.var_names[table.var[keys.panel].to_numpy(bool)]]
    values, _ = expression_matrix(frame, names, normalization)
    measured = values[:, [names.index(gene) for gene in genes]]
    predicted = np.asarray(table.layers[keys.expression])[np.ix_(frame.rows, columns)]
    return {"measured": measured, "predicted": predicted}


def _draw_gene(
    axes: Iterable[Axes],
    frame: SpotFrame,
    gene: str,
    panels: Mapping[str, NDArray[np.float32]],
    keys: Keys,
    shared_scale: bool,
    cmap: str,
) -> None:
    together = np.concatenate(list(panels.values()))
    for ax, (label, values) in zip(axes, panels.items(), strict=True):
        limits = color_limits(together if shared_scale else values)
        spots = draw_spots(ax, frame.centers, values, cmap=cmap, limits=limits)
        score = _held_out_score(frame, panels, keys) if label == "predicted" else ""
        ax.set_title(f"{gene} {label}{score}")
        colorbar(ax, spots, list(panels.values()) if shared_scale else [values])


def _held_out_score(frame: SpotFrame, panels: Mapping[str, NDArray[np.float32]], keys: Keys) -> str:
    if "measured" not in panels or keys.split not in frame.table.obs:
        return ""
    labels = frame.table.obs[keys.split].iloc[frame.rows]
    # A map of what was learnt by heart looks like a good prediction.
    if (labels == "train").all():
        return " (trained on)"
    rows = labels.isin(["validation", "test"]).to_numpy()
    if rows.sum() < 3:
        return ""
    truth, predicted = (panels[label][rows, None] for label in ("measured", "predicted"))
    return f" ({score_text(float(pearson(truth, predicted)[0]))})"
