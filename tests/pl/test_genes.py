from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from scipy.stats import pearsonr

import rankbygene as rbg
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.pl._style import BLUE, ORANGE


def points(ax: Any) -> Any:
    (drawn,) = ax.collections
    return drawn


def test_points_are_the_data_and_the_title_is_within_slides(
    predictions: Any, tmp_path: Path
) -> None:
    axes = rbg.pl.gene_scatter(predictions, ["A", "C"], "model", save=tmp_path / "genes.png")
    assert (tmp_path / "genes.png").stat().st_size > 5000
    for ax, gene, n_spots in zip(axes, ["A", "C"], [98, 49], strict=True):
        measured = predictions[:n_spots, gene].X[:, 0]
        predicted = predictions[:n_spots, gene].layers["model"][:, 0]
        offsets = np.asarray(points(ax).get_offsets())
        order = np.argsort(offsets[:, 0])
        np.testing.assert_allclose(offsets[order, 0], np.sort(measured))
        np.testing.assert_allclose(offsets[order, 1], predicted[np.argsort(measured)])
        slides = [slice(0, 49), slice(49, 98)][: n_spots // 49]
        expected = np.mean([pearsonr(measured[rows], predicted[rows])[0] for rows in slides])
        assert ax.get_title() == f"{gene}\nr = {expected:.2f} within slides"
        assert ax.get_xlim() == ax.get_ylim()
    colors = {to_hex(color) for color in points(axes[0]).get_facecolors()}
    assert colors == {BLUE.lower(), ORANGE.lower()}
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["left", "right"]


def test_each_point_has_the_colour_of_its_slide(predictions: Any) -> None:
    (ax,) = rbg.pl.gene_scatter(predictions, "A", "model")
    left = set(np.round(predictions[:49, "A"].X[:, 0], 9))
    offsets, colors = np.asarray(points(ax).get_offsets()), points(ax).get_facecolors()
    for (x, _), color in zip(offsets, colors, strict=True):
        assert to_hex(color) == (BLUE if round(float(x), 9) in left else ORANGE).lower()


def test_what_is_missing_is_named(predictions: Any) -> None:
    with pytest.raises(InputKeyError, match=r"var_names has no 'FASN'; it has 3 genes \(A, B, C"):
        rbg.pl.gene_scatter(predictions, ["A", "FASN"], "model")
    with pytest.raises(InputKeyError, match="layers has no 'other'; it has 'model'"):
        rbg.pl.gene_scatter(predictions, "A", "other")
    with pytest.raises(InputKeyError, match="obs has no 'section'; it has 'slide'"):
        rbg.pl.gene_scatter(predictions, "A", "model", slide_key="section")
    with pytest.raises(InputValueError, match="predicts C for no spot"):
        rbg.pl.gene_scatter(predictions[49:], "C", "model")
    with pytest.raises(InputValueError, match="`genes` is empty"):
        rbg.pl.gene_scatter(predictions, [], "model")
    _, ax = plt.subplots()
    assert rbg.pl.gene_scatter(predictions, "A", "model", ax=ax)[0] is ax


def test_counts_are_not_drawn_against_logarithms(predictions: Any) -> None:
    predictions.layers["log"] = predictions.X.copy()
    predictions.X = np.round(np.abs(predictions.X) * 7)
    for draw in (
        lambda **kwargs: rbg.pl.gene_scatter(predictions, "A", "model", **kwargs),
        lambda **kwargs: rbg.pl.gene_maps(predictions, "A", "model", "left", **kwargs),
    ):
        with pytest.raises(InputValueError, match="adata.X holds counts, layer 'model'.*measured="):
            draw()
        draw(measured="log")
    normalization = rbg.data.Normalization().to_dict()
    predictions.uns["model_params"] = {"normalization": normalization}
    predictions.X = predictions.X / 7  # some other scale, up to 30 and more
    predictions.X[0, 0] = 30.5
    with pytest.raises(InputValueError, match=r"up to 30.5, which that scale cannot reach.*log\(1"):
        rbg.pl.gene_scatter(predictions, "A", "model")


def test_an_annotated_table_of_counts_is_sent_to_the_picture_that_normalises(
    model: Any, make_slides: Any
) -> None:
    (sdata,) = make_slides(1, seed=31)
    model.annotate(sdata)
    with pytest.raises(InputValueError, match="counts per 10000. to base e, smoothed"):
        rbg.pl.gene_scatter(sdata["table"], model.genes[0], "rankbygene", slide_key="region")


def test_spots_are_counted_and_slides_named(predictions: Any) -> None:
    (ax,) = rbg.pl.gene_scatter(predictions, "C", "model")
    assert ax.get_xlabel() == "measured\n49 of 98 spots"
    predictions.obs["slide"] = np.where(np.arange(98) < 49, 10.0, 2.0)
    (ax,) = rbg.pl.gene_scatter(predictions, "A", "model")
    (legend,) = ax.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["2", "10"]
    assert rbg.pl.gene_maps(predictions, "A", "model", 10).shape == (1, 3)
    predictions.obs["slide"] = predictions.obs["slide"].where(np.arange(98) > 3)
    with pytest.raises(InputValueError, match="is missing for 4 of 98 spots"):
        rbg.pl.gene_scatter(predictions, "A", "model")
    predictions.layers["model"][:, 0] = 1.5
    predictions.obs["slide"] = "one"
    (ax,) = rbg.pl.gene_scatter(predictions, "A", "model")
    assert ax.get_title() == "A\nr not defined within slides"
