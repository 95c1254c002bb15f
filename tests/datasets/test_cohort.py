from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import rankbygene as rbg
from rankbygene.errors import InputValueError


def test_outcomes_follow_the_amount_of_the_program() -> None:
    cohort = rbg.datasets.synthetic_cohort(300, kind="bags", n_tiles=40, n_features=8, seed=0)
    clinical = cohort.clinical
    assert list(cohort.slides) == clinical.index.tolist() == list(cohort.causal)
    share = pd.Series({name: mask.mean() for name, mask in cohort.causal.items()})
    assert np.corrcoef(share, clinical["burden"])[0, 1] > 0.9
    first = clinical.drop_duplicates("patient")
    assert len(first) == 300 < len(clinical)
    assert (first["label"] == "high").to_numpy()[first["burden"] > 0.5].all()
    assert 0.2 < 1 - first["event"].mean() < 0.6
    assert (clinical.groupby("patient").nunique() == 1).all(axis=None)
    again = rbg.datasets.synthetic_cohort(300, kind="bags", n_tiles=40, n_features=8, seed=0)
    np.testing.assert_array_equal(again.slides["slide_7"].read(), cohort.slides["slide_7"].read())


def test_tables_hold_the_same_features_with_their_truth() -> None:
    bags = rbg.datasets.synthetic_cohort(3, kind="bags", n_tiles=20, seed=2)
    tables = rbg.datasets.synthetic_cohort(3, n_tiles=20, seed=2)
    for name, sdata in tables.slides.items():
        table = sdata["table"]
        np.testing.assert_array_equal(table.obsm["X_features"], bags.slides[name].read())
        np.testing.assert_array_equal(table.obsm["spatial"], bags.slides[name].coords)
        np.testing.assert_array_equal(table.obs["causal"], tables.causal[name])
        assert len(sdata.shapes[f"{name}_tiles"]) == table.n_obs


def test_images_show_more_glands_where_the_burden_is_high() -> None:
    cohort = rbg.datasets.synthetic_cohort(
        6, kind="images", n_tiles=40, n_genes=20, max_slides=1, seed=0
    )
    share = [mask.mean() for mask in cohort.causal.values()]
    assert np.corrcoef(share, cohort.clinical["burden"])[0, 1] > 0.6
    sdata = cohort.slides["slide_0"]
    assert {"slide_0_image"} == set(sdata.images)
    assert sdata["table"].shape == (40, 20)
    np.testing.assert_array_equal(sdata["table"].obs["causal"], cohort.causal["slide_0"])


def test_impossible_cohorts_are_refused() -> None:
    with pytest.raises(InputValueError, match="'tables', 'bags', 'images'"):
        rbg.datasets.synthetic_cohort(2, kind="files")  # type: ignore[arg-type]
    with pytest.raises(InputValueError, match="at least 8"):
        rbg.datasets.synthetic_cohort(2, n_tiles=3)
