from __future__ import annotations

from collections.abc import Iterator

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

N, GENES, SLIDES = 49, ["A", "B", "C"], ["left", "right"]


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    """Draw without a screen, and leave no figure open."""
    mpl.use("agg", force=True)
    yield
    plt.close("all")


@pytest.fixture
def predictions() -> ad.AnnData:
    """Two slides of 49 spots, 200 um apart; gene C was predicted on the left slide only."""
    rng = np.random.default_rng(0)
    measured = rng.normal(3, 1, (2 * N, 3))
    predicted = 0.5 * measured + 0.3 * rng.normal(size=measured.shape) + 1.5
    predicted[N:, 2] = np.nan
    places = np.column_stack(np.divmod(np.arange(N), 7)) * 200.0
    return ad.AnnData(
        measured,
        obs=pd.DataFrame(
            {"slide": pd.Categorical(np.repeat(SLIDES, N))}, index=[f"s{i}" for i in range(2 * N)]
        ),
        var=pd.DataFrame(index=GENES),
        layers={"model": predicted},
        obsm={
            "spatial": np.vstack([places, places + 5000]),
            "X_image": predicted[:, :2] + 0.1 * rng.normal(size=(2 * N, 2)),
        },
    )
