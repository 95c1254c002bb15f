from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt

import rankbygene as rbg
from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.pl._patients import equal_groups


def draw(n: int = 90, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    death, censored = rng.exponential(np.exp(-0.5 * risk)), rng.exponential(2, n)
    return pd.DataFrame(
        {
            "time": np.minimum(death, censored).round(1) + 0.1,
            "event": death < censored,
            "risk": risk,
            "group": rng.choice(["a", "b", "c"], n),
        },
        index=[f"p{i}" for i in range(n)],
    )


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def p_text(p: float) -> str:
    return "log-rank " + ("p < 0.001" if p < 0.001 else f"p = {p:.2g}")


def test_series_are_joined_by_their_index() -> None:
    table = draw()
    shuffled = table.sample(frac=1, random_state=1)
    plain = rbg.pl.kaplan_meier(
        *(table[c].to_numpy() for c in ("time", "event")), risk=table["risk"].to_numpy()
    )
    for risk in (shuffled["risk"], shuffled[["risk"]]):
        ax = rbg.pl.kaplan_meier(table["time"], shuffled["event"], risk=risk)
        assert (ax.get_title(), legend(ax)) == (plain.get_title(), legend(plain))
    numbered = table.set_axis(np.arange(len(table), dtype=float), axis=0)
    named = shuffled.set_axis([name.removeprefix("p") for name in shuffled.index], axis=0)
    ax = rbg.pl.kaplan_meier(numbered["time"], numbered["event"], groups=named["group"])
    p = rbg.metrics.logrank(table["time"], table["event"], table["group"]).p_value
    assert ax.get_title() == p_text(p)
    predicted = table["risk"].rank(pct=True)
    line = rbg.pl.calibration(predicted, table["event"]).lines[1]
    other = rbg.pl.calibration(predicted, shuffled["event"]).lines[1]
    np.testing.assert_array_equal(line.get_ydata(), other.get_ydata())


def test_columns_that_cannot_be_joined_are_refused() -> None:
    table = draw()
    time, event, risk = table["time"], table["event"], table["risk"]
    for other, match in (
        (risk.to_numpy(), "risk has none"),
        (risk.iloc[1:], "1 are only in time"),
        (risk.rename({"p3": "p4"}), "repeats or lacks names"),
        (risk.rename({"p3": "other"}), r"1 only in risk \(\['other'\]\)"),
    ):
        with pytest.raises(InputValueError, match=match):
            rbg.pl.kaplan_meier(time, event, risk=other)
    reordered = risk.reset_index(drop=True).sample(frac=1, random_state=0)
    with pytest.raises(InputValueError, match="which values belong together"):
        rbg.pl.kaplan_meier(time.to_numpy(), event.to_numpy(), risk=reordered)
    for score in (rbg.metrics.concordance_index, rbg.metrics.concordance_index_ipcw):
        with pytest.raises(InputValueError, match="same in another order"):
            score(time, event, risk.iloc[::-1])
    with pytest.raises(InputValueError, match="same in another order"):
        rbg.metrics.auroc(event, risk.iloc[::-1])


def test_patients_without_a_risk_or_a_group_are_left_out_and_counted() -> None:
    statistics = pytest.importorskip("lifelines.statistics")
    table = draw()
    table.loc[table.index[:31], ["risk", "group"]] = np.nan
    known = table.iloc[31:]
    for kwargs, label in (
        ({"risk": table["risk"]}, known["risk"] > known["risk"].median()),
        ({"groups": table["group"]}, known["group"]),
        ({"groups": np.array(["nan", *"ab"])[np.r_[[0] * 31, known["group"].eq("a") + 1]]}, None),
    ):
        columns = [table["time"], table["event"]]
        if label is None:
            columns, label = [c.to_numpy() for c in columns], known["group"].eq("a")
        with pytest.warns(UserWarning, match="31 of 90 patients have no (risk|group)"):
            ax = rbg.pl.kaplan_meier(*columns, **kwargs)
        p = statistics.multivariate_logrank_test(known["time"], label, known["event"]).p_value
        assert ax.get_title() == p_text(p)
        assert "31 without" in ax.get_legend().get_title().get_text()
        assert sum(int(text.split("(")[1].split()[0]) for text in legend(ax)) == 59


def test_equal_risks_stay_together() -> None:
    table = draw().sort_values("time")
    columns = table["time"], table["event"]
    with pytest.raises(InputValueError, match="1 different value for 90 patients"):
        rbg.pl.kaplan_meier(*columns, risk=table["risk"] * 0)
    few = (table["risk"] > 0.3).astype(float)
    ax = rbg.pl.kaplan_meier(*columns, risk=few)
    n_high = int(few.sum())
    assert legend(ax)[0].startswith(f"low risk ({90 - n_high} patients")
    assert legend(ax)[1].startswith(f"high risk ({n_high} patients")
    with pytest.raises(InputValueError, match="2 different values for 90 patients"):
        rbg.pl.kaplan_meier(*columns, risk=few, n_groups=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=3, max_size=40), st.integers(2, 6), st.randoms())
def test_groups_do_not_depend_on_the_order_of_rows(
    values: list[int], n_groups: int, random: Any
) -> None:
    risk = np.array(values, float)
    groups = equal_groups(risk, n_groups)
    assert groups.min() >= 0
    assert groups.max() < n_groups
    order = list(range(len(risk)))
    random.shuffle(order)
    np.testing.assert_array_equal(equal_groups(risk[order], n_groups), groups[order])
    by_value = sorted(zip(risk, groups, strict=True))
    assert [g for _, g in by_value] == sorted(groups)
    sizes = np.bincount(equal_groups(np.arange(len(risk)) + 0.5, n_groups), minlength=n_groups)
    assert np.ptp(sizes) <= 1


@pytest.mark.parametrize("n", [8, 12, 28])
def test_every_group_is_drawn_and_named(n: int) -> None:
    table = draw(160)
    sites = np.array([f"site {i % n}" for i in range(160)])
    ax = rbg.pl.kaplan_meier(*(table[c].to_numpy() for c in ("time", "event")), groups=sites)
    assert [text.split(" (")[0] for text in legend(ax)] == [f"site {i}" for i in range(n)]
    curves = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == n
    ax = rbg.pl.kaplan_meier(table["time"], table["event"], risk=table["risk"], n_groups=n)
    assert len(legend(ax)) == n


def test_too_many_groups_and_odd_ones_are_refused() -> None:
    table = draw()
    with pytest.raises(InputValueError, match="90 groups cannot be told apart; merge them to 28"):
        rbg.pl.kaplan_meier(table["time"], table["event"], groups=table.index.to_series())
    with pytest.raises(InputTypeError, match="groups hold a Timestamp"):
        rbg.pl.kaplan_meier([1.0], [1], groups=[pd.Timestamp(0)])
    with pytest.raises(InputValueError, match="groups is missing for all"):
        rbg.pl.kaplan_meier([1.0, 2.0], [1, 0], groups=[None, None])
    ordered = pd.Categorical(table["group"], ["c", "a", "b", "never"], ordered=True)
    groups = pd.Series(ordered, index=table.index)
    ax = rbg.pl.kaplan_meier(table["time"], table["event"], groups=groups)
    assert [text[0] for text in legend(ax)] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("event", "error", "match"),
    [
        ([1, 2, 1, 2], InputValueError, "such as `event == 2`"),
        ([1.0, np.nan, 0.0, 1.0], InputValueError, "event holds 1 NaN"),
        (pd.array([True, None, False, True]), InputValueError, "event holds 1 NaN"),
        (["dead", "alive", "dead", "alive"], InputTypeError, "`event == 'dead'`"),
        (["1", "0", "1", "0"], InputTypeError, "holds text"),
        ([1, 0, 1], InputValueError, "event has the shape"),
    ],
)
def test_events_are_bool_or_0_and_1(event: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        rbg.pl.kaplan_meier([1.0, 2, 3, 4], event, groups=list("abab"))
    survival: dict[str, Any] = {"time": [1.0, 2, 3, 4], "event": event, "at": 2}
    with pytest.raises(error, match=match):
        rbg.pl.calibration([0.1, 0.2, 0.3, 0.4], n_bins=1, **survival)
    if len(event) == 4:
        with pytest.raises(error, match=match.replace("event", "outcome")):
            rbg.pl.calibration([0.1, 0.2, 0.3, 0.4], event, n_bins=1)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_times_are_above_0(bad: float) -> None:
    with pytest.raises(InputValueError, match="time holds 1"):
        rbg.pl.kaplan_meier([1.0, 2.0, bad], [1, 0, 1], groups=list("aba"))
    with pytest.raises(InputValueError, match="time holds 1"):
        rbg.pl.calibration([0.5] * 3, time=[1.0, 2.0, bad], event=[1, 0, 1], at=1, n_bins=1)


def test_calibration_takes_probabilities_within_the_follow_up() -> None:
    table = draw()
    predicted = 1 - table["risk"].rank(pct=True)
    survival: dict[str, Any] = {"time": table["time"], "event": table["event"]}
    last = table["time"].max()
    for at in (last + 0.01, 0.0, np.nan, 1e4):
        with pytest.raises(InputValueError, match="not within the follow-up, which ends at"):
            rbg.pl.calibration(predicted, **survival, at=at)
    short = predicted.sort_values().index[:18]
    censored = table.assign(event=table["event"] & ~table.index.isin(short))
    censored.loc[short, "time"] = 0.1
    with pytest.raises(
        InputValueError, match="in a bin of 18 patients nobody was followed until at=1"
    ):
        rbg.pl.calibration(predicted, time=censored["time"], event=censored["event"], at=1)
    with pytest.raises(InputValueError, match=r"values outside 0 to 1 \(from .* to 1.5\)"):
        rbg.pl.calibration(predicted.where(table.index != "p3", 1.5), table["event"])
    with pytest.raises(InputValueError, match="pass either outcome"):
        rbg.pl.calibration(predicted, table["event"], at=1.0)


def test_calibration_leaves_out_who_has_no_prediction_and_keeps_ties_together() -> None:
    table = draw()
    predicted = np.where(table["risk"] > 0, 0.8, 0.2)
    order = np.argsort(table["event"].to_numpy(), kind="stable")
    shares = []
    for rows in (slice(None), order, order[::-1]):
        ax = rbg.pl.calibration(predicted[rows], table["event"].to_numpy()[rows])
        shares.append(ax.lines[1].get_ydata())
        np.testing.assert_allclose(ax.lines[1].get_xdata(), [0.2, 0.8])
    expected = table["event"].groupby(predicted).mean()
    np.testing.assert_allclose(shares, [expected] * 3)
    holed = pd.Series(predicted, table.index).where(np.arange(90) >= 7)
    with pytest.warns(UserWarning, match="7 of 90 patients have no prediction"):
        ax = rbg.pl.calibration(holed, table["event"])
    assert ax.get_title() == "7 without prediction left out"
    expected = table["event"].groupby(holed).mean()
    np.testing.assert_allclose(ax.lines[1].get_ydata(), expected)
    plt.close("all")
