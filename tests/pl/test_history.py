from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import rankbygene as rbg
from rankbygene.errors import InputKeyError, NotTrainedError


def run(seed: int, n: int = 12) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    keys = ("train_loss", "validation_loss")
    return {key: pd.DataFrame({key: rng.random(n)}, index=np.arange(n)) for key in keys}


def test_one_run_is_drawn_as_logged_and_its_lowest_epoch_marked() -> None:
    logged = run(0)
    ax = rbg.pl.history(SimpleNamespace(history=logged))
    drawn = {line.get_label(): line for line in ax.lines}
    for key in logged:
        curve = drawn[key.replace("_", " ")]
        np.testing.assert_array_equal(curve.get_ydata(), logged[key].iloc[:, 0])
    lowest = int(logged["validation_loss"].iloc[:, 0].argmin())
    assert f"lowest: {lowest}" in [text.get_text() for text in ax.texts]
    assert ax.get_legend() is not None


@pytest.mark.parametrize("n_runs", [2, 12])
def test_every_run_is_drawn_in_a_colour_of_its_own(n_runs: int) -> None:
    runs = {f"fold {i}": run(i) for i in range(n_runs)}
    ax = rbg.pl.history(runs)
    curves = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert len(curves) == 2 * n_runs
    for name, logged in runs.items():
        of_run = [line for line in curves if line.get_label().startswith(f"{name} ")]
        assert len({line.get_color() for line in of_run}) == 1
        assert len({line.get_linestyle() for line in of_run}) == 2
        values = logged["validation_loss"].iloc[:, 0]
        points = [line for line in ax.lines if list(line.get_xdata()) == [int(values.argmin())]]
        assert float(values.min()) in [line.get_ydata()[0] for line in points]
    assert len({line.get_color() for line in curves}) == n_runs
    entries = [text.get_text() for text in ax.get_legend().get_texts()]
    assert entries == [*runs, "train loss", "validation loss", "lowest"]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(NotTrainedError, match="call `model.train"):
        rbg.pl.history(SimpleNamespace(history=None))
    with pytest.raises(NotTrainedError, match="history of 'b'"):
        rbg.pl.history({"a": run(0), "b": SimpleNamespace(history={})})
    with pytest.raises(InputKeyError, match="none of elbo; it holds train_loss, validation_loss"):
        rbg.pl.history(run(0), ["elbo"])
    _, ax = plt.subplots()
    assert rbg.pl.history(run(0), ["train_loss"], ax=ax) is ax
