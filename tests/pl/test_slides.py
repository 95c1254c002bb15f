from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pytest

import rankbygene as rbg
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.pl._outcomes import survival_curve

matplotlib.use("agg")


@pytest.fixture
def annotated(make_slides: Any) -> Any:
    sdata = make_slides(1)[0]
    n = sdata["table"].n_obs
    sdata["table"].obs["slide_classifier_attention"] = np.arange(1, n + 1) / (n * (n + 1) / 2)
    return sdata


def test_the_map_shows_every_weight_relative_to_an_equal_share(annotated: Any) -> None:
    axes = rbg.pl.attention_map(annotated)
    assert len(axes) == 2
    values = axes[1].collections[0].get_array()
    weights = annotated["table"].obs["slide_classifier_attention"].to_numpy()
    np.testing.assert_allclose(values, weights * len(weights), rtol=1e-5)
    with pytest.raises(InputKeyError, match="no column 'slide_survival_attention'"):
        rbg.pl.attention_map(annotated, key="slide_survival")
    annotated["table"].obs["slide_classifier_attention"] = np.nan
    with pytest.raises(InputValueError, match="has no weights"):
        rbg.pl.attention_map(annotated)


def test_the_map_needs_no_image() -> None:
    cohort = rbg.datasets.synthetic_cohort(2, n_tiles=20, n_features=8, max_slides=1)
    sdata = cohort.slides["slide_0"]
    n = sdata["table"].n_obs
    sdata["table"].obs["slide_survival_attention"] = np.full(n, 1 / n)
    axes = rbg.pl.attention_map(sdata, key="slide_survival")
    assert len(axes) == 1
    drawn = axes[0].collections[0]
    np.testing.assert_allclose(drawn.get_offsets(), sdata["table"].obsm["spatial"])
    np.testing.assert_allclose(drawn.get_array(), 1, rtol=1e-5)


def test_the_heaviest_and_the_lightest_tiles_are_shown(annotated: Any) -> None:
    axes = rbg.pl.top_tiles(annotated, n_tiles=3, tile_px=32)
    n = annotated["table"].n_obs
    reader = rbg.data.TileReader(
        rbg.data.resolve(annotated, counts=False)[0], tile_um=112.0, tile_px=32
    )
    for line, rows in zip(axes, ([n - 1, n - 2, n - 3], [0, 1, 2]), strict=True):
        for ax, row in zip(line, rows, strict=True):
            shown = ax.images[0].get_array()
            np.testing.assert_array_equal(shown, reader.read(np.array([row]))[0].transpose(1, 2, 0))
    with pytest.raises(InputValueError, match="n_tiles is 0"):
        rbg.pl.top_tiles(annotated, n_tiles=0)


def test_ties_and_weights_that_are_none_are_said(annotated: Any) -> None:
    obs = annotated["table"].obs
    n = len(obs)
    weights = np.full(n, 0.5 / (n - 4))
    weights[[3, 8, 12, 20]] = 0.125
    obs["slide_classifier_attention"] = weights
    axes = rbg.pl.top_tiles(annotated, n_tiles=3, tile_px=32)
    assert axes[0, 0].get_ylabel() == "largest weights\n(1 more tie)"
    assert axes[1, 0].get_ylabel() == f"smallest weights\n({n - 7} more tie)"
    assert axes[0, 0].get_title() == f"× {0.125 * n:.2g}"
    obs["slide_classifier_attention"] = 1 / n
    with pytest.raises(InputValueError, match=f"all {n} tiles.*weigh the same"):
        rbg.pl.top_tiles(annotated, tile_px=32)
    weights[3] = 0
    obs["slide_classifier_attention"] = weights
    for draw in (rbg.pl.attention_map, rbg.pl.top_tiles):
        with pytest.raises(InputValueError, match="sum to 0.875 and not to 1"):
            draw(annotated)


def test_each_region_has_its_own_weights_whatever_the_order_of_rows(make_slides: Any) -> None:
    import spatialdata as sd

    first, second = make_slides(2)
    joined = sd.concatenate({"a": first, "b": second}, concatenate_tables=True)
    table = joined["table"][np.random.default_rng(0).permutation(joined["table"].n_obs)].copy()
    regions = table.obs["region"].astype(str).to_numpy()
    table.obs["slide_classifier_attention"] = 0.0
    for region in np.unique(regions):
        own = np.flatnonzero(regions == region)
        weights = np.arange(1, len(own) + 1) / (len(own) * (len(own) + 1) / 2)
        table.obs.iloc[own, -1] = weights
    joined["table"] = table
    for region in np.unique(regions):
        name = f"{region}"
        frame = next(f for f in rbg.data.resolve(joined, counts=False) if f.region == name)
        axes = rbg.pl.attention_map(joined, region=name)
        drawn = axes[1].collections[0]
        np.testing.assert_allclose(drawn.get_offsets(), frame.centers)
        own = table.obs["slide_classifier_attention"].to_numpy()[regions == region]
        np.testing.assert_allclose(drawn.get_array(), own * len(own), rtol=1e-5)
    with pytest.raises(InputValueError, match="several regions"):
        rbg.pl.attention_map(joined)


def draw(n: int = 60) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    risk = rng.normal(size=n)
    event_time, censored = rng.exponential(np.exp(-risk)), rng.exponential(2, n)
    return np.minimum(event_time, censored).round(1) + 0.1, event_time < censored, risk


def test_the_curve_and_its_interval_are_those_of_lifelines() -> None:
    lifelines = pytest.importorskip("lifelines")
    time, event, _ = draw()
    fitted = lifelines.KaplanMeierFitter().fit(time, event)
    times, survival, _ = survival_curve(time, event)
    expected = fitted.survival_function_.iloc[:, 0].loc[times]
    np.testing.assert_allclose(survival, expected, rtol=1e-6)
    ax = rbg.pl.kaplan_meier(time, event, groups=["all"] * len(time))
    band = ax.collections[0].get_paths()[0].vertices
    interval = fitted.confidence_interval_.loc[times[3]].to_numpy()
    for bound in interval:
        assert np.isclose(band[:, 1], bound, atol=1e-6).any()


def test_risk_groups_are_equal_and_compared_by_the_log_rank_test() -> None:
    statistics = pytest.importorskip("lifelines.statistics")
    time, event, risk = draw()
    ax = rbg.pl.kaplan_meier(time, event, risk=risk)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(label.split(" (")[0] for label in labels) == ["high risk", "low risk"]
    assert all("(30 patients" in label for label in labels)
    high = risk > np.median(risk)
    p = statistics.logrank_test(time[high], time[~high], event[high], event[~high]).p_value
    expected = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    assert ax.get_title() == f"log-rank {expected}"
    with pytest.raises(InputValueError, match="either risk"):
        rbg.pl.kaplan_meier(time, event)
    with pytest.raises(InputValueError, match="2 at least"):
        rbg.pl.kaplan_meier(time, event, risk=risk, n_groups=1)


def test_calibration_shows_shares_of_bins() -> None:
    predicted = np.repeat([0.1, 0.9], 50)
    outcome = np.tile([True] + [False] * 4, 20)
    ax = rbg.pl.calibration(predicted, outcome, n_bins=2)
    line = ax.lines[1]
    np.testing.assert_allclose(line.get_xdata(), [0.1, 0.9])
    np.testing.assert_allclose(line.get_ydata(), [0.2, 0.2])
    time, event, _ = draw()
    ax = rbg.pl.calibration(np.linspace(0, 1, 60), time=time, event=event, at=0.5, n_bins=1)
    times, survival, _ = survival_curve(time, event)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), survival[times <= 0.5][-1])
    with pytest.raises(InputValueError, match="either outcome"):
        rbg.pl.calibration(predicted)
    with pytest.raises(InputValueError, match="n_bins=200"):
        rbg.pl.calibration(predicted, outcome, n_bins=200)
