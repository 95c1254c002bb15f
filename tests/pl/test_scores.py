from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

import rankbygene as rbg
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError
from rankbygene.pl._style import BLUE, GREY, ORANGE


@pytest.fixture
def summary() -> pd.DataFrame:
    table = pd.DataFrame(
        {"pearson": [0.30, 0.40, np.nan, 0.25, 0.60], "mse": [0.5, 0.4, 0.6, 0.3, np.nan]},
        index=["rankbygene", "nh2st", "mean", "ridge", "ceiling"],
    )
    for metric in ("pearson", "mse"):
        table[f"{metric}_low"] = table[metric] - 0.05
        table[f"{metric}_high"] = table[metric] + 0.10
    return table


def labels(ax: Any) -> list[str]:
    """Rows from the top of the picture."""
    ticks = sorted(zip(ax.get_yticks(), ax.get_yticklabels(), strict=True), key=lambda t: -t[0])
    return [label.get_text() for _, label in ticks]


def line(ax: Any, label: str) -> Any:
    (found,) = [artist for artist in ax.lines if artist.get_label() == label]
    return found


def test_a_summary_is_points_with_intervals_judged_methods_first(summary: pd.DataFrame) -> None:
    ax = rbg.pl.scores(summary, methods=["rankbygene", "nh2st"])
    assert labels(ax) == ["nh2st", "rankbygene", "ridge", "mean"]
    heights = dict(zip(labels(ax), sorted(ax.get_yticks(), reverse=True), strict=True))
    assert heights["rankbygene"] - heights["ridge"] > heights["nh2st"] - heights["rankbygene"]
    for name, color in {"rankbygene": BLUE, "nh2st": ORANGE, "ridge": GREY}.items():
        point = line(ax, name)
        assert point.get_xdata()[0] == summary.loc[name, "pearson"]
        assert point.get_ydata()[0] == heights[name]
        assert to_hex(point.get_color()) == color.lower()
        (interval,) = [
            artist
            for artist in ax.lines
            if len(artist.get_xdata()) == 2 and set(artist.get_ydata()) == {heights[name]}
        ]
        expected = summary.loc[name, ["pearson_low", "pearson_high"]].tolist()
        np.testing.assert_allclose(interval.get_xdata(), expected)
    assert "not defined" in [text.get_text() for text in ax.texts]
    assert line(ax, "best baseline").get_xdata()[0] == 0.25


def test_the_ceiling_is_a_line_and_a_band_where_it_exists(summary: pd.DataFrame) -> None:
    pearson, mse = rbg.pl.scores(summary, ["pearson", "mse"])
    assert line(pearson, "ceiling").get_xdata()[0] == 0.60
    (band,) = pearson.patches
    np.testing.assert_allclose(
        band.get_extents().transformed(pearson.transData.inverted()).intervalx, [0.55, 0.70]
    )
    assert not mse.patches
    assert "lower is better" in mse.get_xlabel()
    # One order of rows for all panels; for an error the best baseline is the smallest.
    assert labels(pearson) == ["rankbygene", "nh2st", "ridge", "mean"]
    np.testing.assert_array_equal(pearson.get_yticks(), mse.get_yticks())
    for row, name in enumerate(["rankbygene", "nh2st", "ridge", "mean"]):
        assert line(mse, name).get_ydata()[0] == mse.get_yticks()[row]
    assert line(mse, "best baseline").get_xdata()[0] == 0.3
    by_error = rbg.pl.scores(summary, "mse", methods=["rankbygene", "nh2st"])
    assert labels(by_error) == ["nh2st", "rankbygene", "ridge", "mean"]


@pytest.mark.parametrize("value", [None, float("inf"), {"pearson": 1}, {"pearson"}, [1]])
def test_what_is_no_result_is_refused(value: object) -> None:
    with pytest.raises(InputTypeError, match="evaluation is .*DataFrame"):
        rbg.pl.scores(value)
    if value is not None:
        with pytest.raises(InputTypeError, match="a model, its history"):
            rbg.pl.history(value)


def test_a_result_names_its_methods_and_neighbours_are_no_baseline(summary: pd.DataFrame) -> None:
    table = summary.rename(index={"ceiling": "noise ceiling", "nh2st": "neighbours"}).astype(object)
    ax = rbg.pl.scores(SimpleNamespace(summary=table, methods=("ridge", "rankbygene")))
    assert labels(ax) == ["rankbygene", "ridge", "neighbours", "mean"]
    assert line(ax, "noise ceiling").get_xdata()[0] == 0.60
    assert not [artist for artist in ax.lines if artist.get_label() == "best baseline"]


def test_intervals_are_preferred_over_genes_and_are_optional(summary: pd.DataFrame) -> None:
    per_gene = pd.DataFrame({"method": ["rankbygene"], "gene": ["A"], "pearson": [0.1]})
    result = SimpleNamespace(summary=summary, per_gene=per_gene)
    assert labels(rbg.pl.scores(result))[0] == "rankbygene"
    assert len(labels(rbg.pl.scores(result))) == 4
    plain = SimpleNamespace(summary=summary[["pearson"]], per_gene=per_gene)
    assert labels(rbg.pl.scores(plain)) == ["rankbygene"]
    bare = line(rbg.pl.scores(summary[["pearson"]]), "nh2st")
    assert bare.get_xdata()[0] == 0.40


def test_genes_of_an_evaluation_are_all_drawn_with_their_mean(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    per_gene = pd.DataFrame(
        {
            "method": np.repeat(["rankbygene", "mean", "color"], 20),
            "gene": [f"g{i}" for i in range(20)] * 3,
            "pearson": rng.normal(0.3, 0.1, 60),
        }
    )
    per_gene.loc[per_gene["method"] == "mean", "pearson"] = np.nan
    ax = rbg.pl.scores(SimpleNamespace(per_gene=per_gene), save=tmp_path / "scores.png")
    assert (tmp_path / "scores.png").stat().st_size > 5000
    assert labels(ax) == ["rankbygene", "mean", "color"]
    drawn = [np.asarray(points.get_offsets()) for points in ax.collections]
    by_height = {round(float(points[:, 1].mean())): points[:, 0] for points in drawn}
    for height, method in ((2, "rankbygene"), (0, "color")):
        values = per_gene.loc[per_gene["method"] == method, "pearson"]
        np.testing.assert_allclose(np.sort(by_height[height]), np.sort(values))
        assert f"{values.mean():.2f}" in [text.get_text() for text in ax.texts]
    assert "not defined" in [text.get_text() for text in ax.texts]


def test_what_is_missing_is_named(summary: pd.DataFrame) -> None:
    with pytest.raises(InputKeyError, match=r"no column ssim; it has pearson, mse"):
        rbg.pl.scores(summary, ["pearson", "ssim"])
    with pytest.raises(InputKeyError, match="no method triplex; it has rankbygene, nh2st"):
        rbg.pl.scores(summary, methods="triplex")
    for empty in ({"metric": []}, {"methods": ()}):
        with pytest.raises(InputValueError, match=f"{next(iter(empty))} is .*at least 1"):
            rbg.pl.scores(summary, **empty)
    _, ax = plt.subplots()
    assert rbg.pl.scores(summary, ax=ax) is ax
    with pytest.raises(InputValueError, match="this picture has 2"):
        rbg.pl.scores(summary, ["pearson", "mse"], ax=ax)
