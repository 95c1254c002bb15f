from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rankbygene as rbg
from rankbygene.data import TileReader, resolve
from rankbygene.errors import InputKeyError, InputValueError


def overview(axes: Any) -> Any:
    figure = axes[0].figure.get_figure(root=True)
    (found,) = [ax for ax in figure.axes if ax.get_label() == "overview"]
    return found


def test_a_tile_sheet_shows_the_tiles_and_where_they_lie(make_slides: Any, tmp_path: Path) -> None:
    (sdata,) = make_slides(1, um_per_px=2.0)
    axes = rbg.pl.tiles(sdata, n_tiles=5, tile_px=56, seed=2, save=tmp_path / "tiles.png")
    assert (tmp_path / "tiles.png").stat().st_size > 5000
    frame = resolve(sdata)[0]
    images = TileReader(frame, tile_um=112, tile_px=56).read()
    names = frame.obs_names.tolist()
    rows = [names.index(ax.get_title().split(": ")[1]) for ax in axes]
    assert [ax.get_title().split(": ")[0] for ax in axes] == list("12345")
    for ax, row in zip(axes, rows, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), images[row].transpose(1, 2, 0))
    every, sampled = overview(axes).collections
    outlines = np.array([path.vertices[:4] for path in every.get_paths()])
    # centres and widths in the slide's system: 112 um are 56 px of 2 um
    np.testing.assert_allclose(outlines.mean(axis=1), frame.centers, atol=0.5)
    np.testing.assert_allclose(np.ptp(outlines, axis=1), 56)
    np.testing.assert_allclose([path.vertices[:4] for path in sampled.get_paths()], outlines[rows])
    assert [text.get_text() for text in overview(axes).texts] == list("12345")


def test_bars_agree_with_the_scale(make_slides: Any) -> None:
    (sdata,) = make_slides(1, um_per_px=2.0)
    axes = rbg.pl.tiles(sdata, n_tiles=2, tile_px=56)
    for ax, um_per_unit in ((axes[0], 2.0), (overview(axes), 2.0)):
        (bar,) = [artist for artist in ax.artists if artist.get_label() == "scale bar"]
        length = bar.size_bar.get_children()[0].get_width() * um_per_unit
        assert bar.txt_label.get_text() == f"{length:g} µm"


def test_measured_and_predicted_panels_are_the_table(model: Any, make_slides: Any) -> None:
    (sdata,) = make_slides(1, seed=31)
    with pytest.raises(InputKeyError, match="no results under 'rankbygene'"):
        rbg.pl.spatial_expression(sdata, "gene_0")
    model.annotate(sdata)
    gene = model.genes[0]
    axes = rbg.pl.spatial_expression(sdata, gene)
    (predicted,) = axes[0, 2].collections
    np.testing.assert_allclose(
        predicted.get_array(), sdata["table"][:, gene].layers["rankbygene"][:, 0]
    )
    (measured,) = axes[0, 1].collections
    assert measured.get_clim() == predicted.get_clim()
    with pytest.raises(InputKeyError, match="not predicted: nothing_such"):
        rbg.pl.spatial_expression(sdata, "nothing_such")


def test_maps_of_spots_that_were_trained_on_say_so(make_slides: Any) -> None:
    (annotated,) = make_slides(1)
    table = annotated["table"]
    table.layers["rankbygene"] = np.random.default_rng(0).normal(3, 3, table.shape).astype("f4")
    table.var["rankbygene_panel"] = True
    table.uns["rankbygene_params"] = {"normalization": rbg.data.Normalization().to_dict()}
    for labels, text in (("train", " predicted (trained on)"), ("test", " predicted (r = ")):
        table.obs["rankbygene_split"] = pd.Categorical(
            [labels] * table.n_obs, ["train", "validation", "test"]
        )
        axes = rbg.pl.spatial_expression(annotated, table.var_names[0])
        assert text in axes[0, 2].get_title()
    # The darkest and the brightest colour stand for values beyond the scale, too.
    bar = axes[0, 1].collections[0].colorbar
    low, high = axes[0, 1].collections[0].get_clim()
    drawn = np.concatenate([axes[0, i].collections[0].get_array() for i in (1, 2)])
    assert drawn.min() < low
    assert high < drawn.max()
    assert bar.extend == "both"


def test_a_library_of_the_panel_is_that_of_all_its_genes(fit_tiny: Any, make_slides: Any) -> None:
    (sdata,) = make_slides(1)
    normalization = rbg.data.Normalization(library="panel", neighbourhood="none")
    model = fit_tiny(sdata, model_kwargs={"tile_px": 32, "normalization": normalization})
    genes = list(model.genes)
    axes = rbg.pl.spatial_expression(sdata, genes[:2])
    counts = sdata["table"][:, genes].X
    counts = counts.toarray() if hasattr(counts, "toarray") else np.asarray(counts)
    expected = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    for row in range(2):
        drawn = axes[row, 1].collections[0].get_array()
        np.testing.assert_allclose(drawn, expected[:, row], rtol=1e-5)


def test_what_is_wrong_is_named(slides: Any) -> None:
    with pytest.raises(InputValueError, match="n_tiles is 0"):
        rbg.pl.tiles(slides[0], n_tiles=0)
    with pytest.raises(InputKeyError, match="has no region 'elsewhere'"):
        rbg.pl.tiles(slides[0], region="elsewhere")


def test_nothing_is_shown_unless_asked(slides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bool] = []
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: shown.append(True))
    rbg.pl.tiles(slides[0], n_tiles=1, tile_px=32)
    assert not shown
    rbg.pl.tiles(slides[0], n_tiles=1, tile_px=32, show=True)
    assert shown == [True]


@pytest.mark.real_data
def test_outlines_have_their_size_on_real_tissue(real_data: Path) -> None:
    (sdata,) = rbg.datasets.olfactory_bulb(real_data / "stutility_mob", sections=["MOB1"]).values()
    frame = resolve(sdata)[0]
    axes = rbg.pl.tiles(sdata, n_tiles=3, tile_px=24)
    # a tile is a whole number of pixels, here of 4.4 um
    outlines = [np.ptp(p.vertices[:4], axis=0) for p in overview(axes).collections[0].get_paths()]
    np.testing.assert_allclose(np.array(outlines) * frame.um_per_unit, 112, rtol=0.03)
