from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rankbygene as rbg

SMALL = {"tile_px": 32, "n_latent": 16, "n_hidden": 24}


@pytest.fixture(scope="module")
def nh2st(make_slides: Any, fit_tiny: Any) -> tuple[Any, list[Any]]:
    slides = make_slides()
    return fit_tiny(slides, method="nh2st", max_epochs=2, model_kwargs=SMALL), slides


def test_fit_annotates(nh2st: Any) -> None:
    model, slides = nh2st
    assert isinstance(model, rbg.model.NH2ST)
    for sdata in slides:
        table = sdata["table"]
        assert table.obsm["X_nh2st"].shape == (table.n_obs, 16)
        panel = table.var["nh2st_panel"].to_numpy()
        assert np.isfinite(table.layers["nh2st"][:, panel]).all()
        assert np.isnan(table.layers["nh2st"][:, ~panel]).all()
        assert table.uns["nh2st_params"]["method"] == "nh2st"
        assert table.uns["nh2st_params"]["training"]["group_size"] == 16
    assert {"train_query", "train_neighbour", "train_expression", "validation_pearson"} <= set(
        model.history
    )
    assert model.validation_pearson.notna().any()
    genes = model.get_latent_representation(modality="gene")
    images = model.get_latent_representation()
    assert all(genes[name].shape == images[name].shape for name in images)


def test_a_loaded_model_gives_the_same_bits(nh2st: Any, tmp_path: Path) -> None:
    model, slides = nh2st
    model.save(tmp_path / "m")
    loaded = rbg.model.load(tmp_path / "m", slides)
    assert type(loaded) is rbg.model.NH2ST
    before, after = (m.get_normalized_expression(slides) for m in (model, loaded))
    for slide, table in before.items():
        np.testing.assert_array_equal(table, after[slide])
    assert loaded.history.keys() == model.history.keys()
    assert json.loads((tmp_path / "m" / "model.json").read_text())["class"] == "NH2ST"
    with pytest.raises(ValueError, match=r"rankbygene\.model\.NH2ST\.load"):
        rbg.model.RankByGene.load(tmp_path / "m")


def test_every_saved_method_is_found(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    assert type(rbg.model.load(tmp_path / "m")) is rbg.model.RankByGene
    with pytest.raises(ValueError, match="not a saved model"):
        rbg.model.load(tmp_path)


def test_the_same_seed_gives_the_same_model(make_slides: Any, fit_tiny: Any) -> None:
    state = torch.get_rng_state()
    first, second, other = (
        fit_tiny(make_slides(2), method="nh2st", seed=seed, model_kwargs=SMALL)
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    states = [m.module.state_dict() for m in (first, second, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize("decode_from", ["query", "query+neighbours"])
def test_context_reaches_the_prediction_only_where_it_is_asked_for(
    make_slides: Any, fit_tiny: Any, decode_from: str
) -> None:
    (sdata,) = make_slides(1, n_spots=100)
    with pytest.warns(UserWarning, match="not independent"):
        model = fit_tiny(sdata, method="nh2st", model_kwargs={**SMALL, "decode_from": decode_from})
    whole = model.get_normalized_expression()
    table = sdata["table"]
    spot = table.n_obs // 2
    sdata.tables["table"] = table[[spot]].copy()
    alone = model.get_normalized_expression(sdata).iloc[0]
    same = np.allclose(alone, whole.iloc[spot], atol=1e-5)
    assert same is (decode_from == "query")


def test_some_rows_are_as_in_the_whole_slide(nh2st: Any) -> None:
    model, _ = nh2st
    frame = next(iter(model.frames.values()))
    rows = np.array([31, 2, 17])
    whole, some = model._run(frame), model._run(frame, rows)
    for name in ("latent", "expression"):
        np.testing.assert_allclose(some[name], whole[name][rows], atol=1e-4)


def test_prediction_does_not_depend_on_the_orientation_of_the_slide(nh2st: Any) -> None:
    model, _ = nh2st
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    neighbours = torch.arange(9)[None]
    model.module.eval()
    with torch.inference_mode():
        first = model.module.predict(images, neighbours)
        turned = model.module.predict(images.rot90(1, (-2, -1)), neighbours)
    assert torch.allclose(first, turned, atol=1e-5)


def test_a_slide_without_a_table(nh2st: Any, make_slides: Any) -> None:
    model, _ = nh2st
    (sdata,) = make_slides(1, seed=8)
    del sdata.tables["table"]
    model.predict_slide(sdata, shapes_key=next(iter(sdata.shapes)), table_key="predicted")
    table = sdata["predicted"]
    assert table.shape == (40, 12)
    assert np.isfinite(table.X).all()
    assert table.obsm["X_nh2st"].shape == (40, 16)


def test_a_slide_with_fewer_spots_than_a_neighbourhood(nh2st: Any, make_slides: Any) -> None:
    model, _ = nh2st
    (sdata,) = make_slides(1, seed=8)
    sdata.tables["table"] = sdata["table"][:3].copy()
    assert np.isfinite(model.get_normalized_expression(sdata)).all().all()


def test_another_spacing_of_spots_is_told(nh2st: Any, make_slides: Any) -> None:
    model, _ = nh2st
    (sdata,) = make_slides(1, seed=8, n_spots=100)
    obs = sdata["table"].obs
    apart = ((obs["array_row"] % 4 == 0) & (obs["array_col"] % 4 == 0)).to_numpy()
    sdata.tables["table"] = sdata["table"][apart].copy()
    with pytest.warns(UserWarning, match="um apart, those of training"):
        model.get_normalized_expression(sdata)
    assert model.training_params["spacing_um"] == pytest.approx(100, rel=0.1)


def test_it_is_evaluated_beside_baselines(nh2st: Any, make_slides: Any) -> None:
    model, _ = nh2st
    result = rbg.tl.evaluate(model, {"new": make_slides(1, seed=9)[0]})
    assert list(result.summary.index) == ["nh2st", "mean", "color", "backbone"]
    assert np.isfinite(result.summary.loc["nh2st", "mse"])


@pytest.mark.parametrize(
    ("network", "plan"),
    [
        (rbg.module.NH2ST_RELEASED_MODULE, rbg.train.NH2ST_RELEASED_PLAN),
        ({"contrast_on": "post", "tokens": "map"}, {}),
        ({"contrast_on": "post", "tokens": "vector", "activation": "relu"}, {"symmetric": True}),
        ({"decode_from": "query"}, {"weights": {"neighbour": 0.0}}),
    ],
    ids=["released", "post-map", "post-vector", "query alone"],
)
def test_every_variant_trains_and_is_kept(
    make_slides: Any, fit_tiny: Any, tmp_path: Path, network: Any, plan: Any
) -> None:
    slides = make_slides(2)
    train = {
        "batch_size": 16,
        "accelerator": "cpu",
        "precision": "32-true",
        "enable_progress_bar": False,
        "plan_kwargs": plan,
    }
    model = fit_tiny(slides, method="nh2st", model_kwargs=SMALL | network, train_kwargs=train)
    assert np.isfinite(model.history["train_loss"].to_numpy(float)).all()
    assert ("train_neighbour" in model.history) is (plan.get("weights", {}).get("neighbour") != 0)
    model.save(tmp_path / "m")
    loaded = rbg.model.NH2ST.load(tmp_path / "m")
    expected, found = (m.get_normalized_expression(slides[0]) for m in (model, loaded))
    np.testing.assert_array_equal(expected, found)


def test_wrong_settings_are_refused_before_a_tile_is_read(slides: Any, fit_tiny: Any) -> None:
    for settings, text in (
        ({"n_neighbourhood": 0}, "at least 1"),
        ({"k": 0}, "at least 1"),
        ({"tta": -1}, "tta.* is -1; a whole number of at least 1 and of at most 8"),
        ({"n_latent": 20}, "attention heads"),
        ({"decode_from": "genes"}, "'query', 'query\\+neighbours'"),
    ):
        network = {"tile_px": 32, "contrast_on": "post", **settings}
        with pytest.raises(ValueError, match=text):
            fit_tiny(slides, method="nh2st", key_added="other", model_kwargs=network)
    train = {"batch_size": 16, "group_size": 17}
    with pytest.raises(ValueError, match="group_size is 17"):
        fit_tiny(slides, method="nh2st", key_added="other", model_kwargs=SMALL, train_kwargs=train)
    with pytest.raises(ValueError, match="'rankbygene', 'nh2st'"):
        rbg.model.fit(slides, method="other")  # type: ignore[arg-type]
