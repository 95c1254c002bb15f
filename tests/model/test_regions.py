"""Several regions in one table give what the same regions give as objects of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spatialdata as sd

import rankbygene as rbg

KEY = "rankbygene"


@pytest.fixture(scope="module")
def apart(make_slides: Callable[..., list[Any]]) -> dict[str, Any]:
    """Slides by the names of their regions, of different sizes."""
    slides = [*make_slides(1, seed=3), *make_slides(2, n_spots=30, seed=4)[1:]]
    return {next(iter(slide.shapes)): slide for slide in slides}


@pytest.fixture(scope="module")
def together(apart: dict[str, Any]) -> Any:
    """One object in one coordinate system, whose table has the rows of both regions by turns."""
    joined = sd.concatenate(list(apart.values()), concatenate_tables=True)
    table = joined["table"]
    turns = np.argsort(table.obs.groupby("region", observed=True).cumcount(), kind="stable")
    del joined.tables["table"]
    joined.tables["table"] = table[turns].copy()
    return joined


def images_of(apart: dict[str, Any]) -> dict[str, str]:
    return {region: next(iter(slide.images)) for region, slide in apart.items()}


@pytest.fixture(scope="module")
def fitted(apart: dict[str, Any], together: Any, fit_tiny: Callable[..., Any]) -> tuple[Any, Any]:
    settings = {"genes": 5, "max_epochs": 2, "patient_key": "patient"}
    return fit_tiny(apart, **settings), fit_tiny(together, image_key=images_of(apart), **settings)


def results(slide: Any, region: str) -> dict[str, np.ndarray]:
    table = slide["table"]
    own = table[(table.obs["region"] == region).to_numpy()]
    return {
        "latent": own.obsm[f"X_{KEY}"],
        "expression": np.asarray(own.layers[KEY]),
        "split": own.obs[f"{KEY}_split"].astype(object).fillna("none").to_numpy(str),
        "id": own.obs["spot_id"].to_numpy(),
        "panel": own.var[f"{KEY}_panel"].to_numpy(),
        "pearson": own.var[f"{KEY}_pearson"].to_numpy(),
    }


def check(found: Any, apart: dict[str, Any]) -> None:
    for region, slide in apart.items():
        ours, theirs = results(found, region), results(slide, region)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{region} {name}")


def test_regions_of_one_table_give_the_same_through_fit_write_and_load(
    fitted: tuple[Any, Any], apart: dict[str, Any], together: Any,
    make_slides: Callable[..., list[Any]], tmp_path: Path,
) -> None:  # fmt: skip
    separate, joint = fitted
    assert joint.genes == separate.genes
    assert list(joint.frames) == list(separate.frames) == list(apart)
    for name, table in separate.history_.items():
        np.testing.assert_array_equal(joint.history_[name], table)
    check(together, apart)
    (params,) = [together["table"].uns[f"{KEY}_params"]]
    assert {name: told["image"] for name, told in params["slides"].items()} == images_of(apart)
    # Through a store: fitted results are replaced there by those of annotate.
    together.write(tmp_path / "both.zarr")
    again = sd.read_zarr(tmp_path / "both.zarr")
    check(again, apart)
    joint.save(tmp_path / "model")
    loaded = rbg.model.load(tmp_path / "model", again)
    for region in apart:
        assert loaded.split.labels[region].tolist() == separate.split.labels[region].tolist()
    loaded.annotate(key_added="second")
    rbg.io.write_results(again, key="second")
    read = sd.read_zarr(tmp_path / "both.zarr")["table"]
    for slot in ("obsm", "layers"):
        old, new = (f"X_{KEY}", "X_second") if slot == "obsm" else (KEY, "second")
        np.testing.assert_array_equal(
            getattr(read, slot)[new], getattr(together["table"], slot)[old]
        )
    assert (read.obs["second_split"].astype(str) == read.obs[f"{KEY}_split"].astype(str)).all()
    # New slides in one table, too: each region is cut from its own image.
    (fresh,) = make_slides(1, seed=77)
    (one,) = make_slides(1, seed=78)
    fresh_region, one_region = next(iter(fresh.shapes)), next(iter(one.shapes))
    assert fresh_region == one_region  # names of regions say nothing of what they hold
    got = separate.get_normalized_expression({"x": fresh, "y": one})
    for name, slide in (("x", fresh), ("y", one)):
        alone = joint.get_normalized_expression(_own_setup(slide))
        np.testing.assert_array_equal(got[name], alone)


def _own_setup(slide: Any) -> Any:
    rbg.model.RankByGene.setup_spatialdata(slide)
    return slide
