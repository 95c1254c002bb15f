from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from scipy.stats import pearsonr

import rankbygene as rbg
from rankbygene.data import resolve
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.pl._style import round_length


def discs(ax: Any) -> Any:
    (drawn,) = ax.collections
    return drawn


def widths(ax: Any) -> Any:
    """Diameters of the discs on the axes."""
    return 2 * np.asarray(discs(ax)._widths)  # matplotlib keeps the half axes


def bar_length(ax: Any) -> float:
    (bar,) = [artist for artist in ax.artists if isinstance(artist, AnchoredSizeBar)]
    return float(bar.size_bar.get_children()[0].get_width())


def test_maps_are_the_data_on_shared_and_symmetric_scales(predictions: Any, tmp_path: Path) -> None:
    axes = rbg.pl.gene_maps(predictions, ["A", "B"], "model", "right", save=tmp_path / "maps.png")
    assert (tmp_path / "maps.png").stat().st_size > 5000
    assert axes.shape == (2, 3)
    slide = predictions[49:]
    for row, gene in zip(axes, ["A", "B"], strict=True):
        measured, predicted = slide[:, gene].X[:, 0], slide[:, gene].layers["model"][:, 0]
        for ax, values in zip(row, [measured, predicted, predicted - measured], strict=True):
            np.testing.assert_allclose(discs(ax).get_array(), values)
            np.testing.assert_allclose(discs(ax).get_offsets(), slide.obsm["spatial"])
            bottom, top = ax.get_ylim()
            assert bottom > top
            assert ax.get_aspect() == 1
        limits = np.quantile(np.concatenate([measured, predicted]), (0.01, 0.99))
        np.testing.assert_allclose(discs(row[0]).get_clim(), limits)
        np.testing.assert_allclose(discs(row[1]).get_clim(), limits)
        low, high = discs(row[2]).get_clim()
        assert low == -high
        assert f"(r = {pearsonr(measured, predicted)[0]:.2f})" in row[1].get_title()


def test_spots_and_the_bar_have_their_size_in_micrometres(predictions: Any) -> None:
    axes = rbg.pl.gene_maps(predictions, "A", "model", "left", spot_um=100)
    np.testing.assert_allclose(widths(axes[0, 0]), 100)
    axes = rbg.pl.gene_maps(predictions, "A", "model", "left")
    np.testing.assert_allclose(widths(axes[0, 0]), 0.95 * 200)
    assert bar_length(axes[0, 0]) == 200  # a quarter of 1,600 um, rounded down to 1, 2 or 5


def test_round_length() -> None:
    assert [round_length(value) for value in (1, 1.99, 4.9, 50, 999)] == [1, 1, 2, 50, 500]


def test_the_image_lies_under_the_spots_of_its_slide(make_slides: Any) -> None:
    sdatas = make_slides(2, um_per_px=2.0)
    frame = resolve(sdatas[0])[0]
    rng = np.random.default_rng(0)
    table = ad.AnnData(
        rng.random((40, 1)),
        obs=pd.DataFrame(index=frame.obs_names.astype(str)),
        var=pd.DataFrame(index=["A"]),
        layers={"model": rng.random((40, 1))},
        obsm={"spatial": frame.centers_um},
    )
    axes = rbg.pl.gene_maps(table, "A", "model", sdata=sdatas[0])
    assert axes.shape == (1, 4)
    assert axes[0, 0].get_xlim() == axes[0, 1].get_xlim()
    (image,) = axes[0, 0].images
    left, right, bottom, top = image.get_extent()
    to_um = image.get_transform() - axes[0, 0].transData
    pixels = next(iter(sdatas[0].images.values()))["scale0"]["image"].sizes
    np.testing.assert_allclose(to_um.transform((right, bottom)), (2 * pixels["x"], 2 * pixels["y"]))
    with pytest.raises(InputValueError, match="40 of 40 spots of the slide are not where"):
        table.obsm["spatial"] = table.obsm["spatial"] + 50
        rbg.pl.gene_maps(table, "A", "model", sdata=sdatas[0])


def test_what_is_missing_is_named(predictions: Any) -> None:
    with pytest.raises(InputValueError, match=r"2 slides; pass slide=... \(one of 'left', 'right'"):
        rbg.pl.gene_maps(predictions, "A", "model")
    with pytest.raises(InputKeyError, match="has no 'middle'; it has 'left', 'right'"):
        rbg.pl.gene_maps(predictions, "A", "model", "middle")
    with pytest.raises(InputValueError, match="predicts C for no spot of slide 'right'"):
        rbg.pl.gene_maps(predictions, "C", "model", "right")
    del predictions.obsm["spatial"]
    with pytest.raises(InputKeyError, match="obsm has no 'spatial'"):
        rbg.pl.gene_maps(predictions, "A", "model", "left")


def test_spots_without_a_prediction_are_left_blank(predictions: Any) -> None:
    predictions.layers["model"][:5, 0] = np.nan
    axes = rbg.pl.gene_maps(predictions, "A", "model", "left")
    assert not discs(axes[0, 0]).get_array().mask.any()
    for ax in axes[0, 1:]:
        np.testing.assert_array_equal(np.flatnonzero(discs(ax).get_array().mask), range(5))


def test_a_gene_that_was_not_measured_is_named(predictions: Any) -> None:
    predictions.X[:49, 1] = np.nan
    predictions.X[:9, 0] = np.nan
    axes = rbg.pl.gene_maps(predictions, ["A", "B"], "model", "left")
    assert axes[1, 0].get_title() == "B not measured here"
    assert axes[1, 1].get_title() == "B predicted"
    assert axes[1, 2].get_title() == "no difference to draw"
    assert discs(axes[1, 2]).get_array().mask.all()
    limits = np.quantile(predictions[:49, "B"].layers["model"], (0.01, 0.99))
    np.testing.assert_allclose(discs(axes[1, 1]).get_clim(), limits)
    assert axes[0, 2].get_title() == "predicted − measured (40 of 49 spots)"
