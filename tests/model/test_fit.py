from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from spatialdata.transformations import get_transformation

import rankbygene as rbg

OURS = {
    "obsm": {"X_rankbygene"},
    "layers": {"rankbygene"},
    "obs": {"rankbygene_split"},
    "var": {"rankbygene_panel", "rankbygene_pearson"},
    "uns": {"rankbygene_params"},
}


def snapshot(sdata: Any) -> dict[str, Any]:
    """Everything a fit must leave alone, as comparable values."""
    table = sdata["table"]
    return {
        "X": table.X.toarray() if hasattr(table.X, "toarray") else np.array(table.X),
        "obs": table.obs.drop(columns=OURS["obs"], errors="ignore").copy(),
        "var": table.var.drop(columns=OURS["var"], errors="ignore").copy(),
        "obsm": {k: np.array(v) for k, v in table.obsm.items() if k not in OURS["obsm"]},
        "layers": sorted(k for k in table.layers if k and k not in OURS["layers"]),
        "uns": sorted(set(table.uns) - OURS["uns"]),
        "attrs": dict(sdata.attrs),
        "elements": sorted(f"{kind}/{name}" for kind, name, _ in sdata.gen_elements()),
        "pixels": {
            name: rbg.data.level_array(image, 0).compute() for name, image in sdata.images.items()
        },
        "radii": {name: shapes.radius.to_numpy().copy() for name, shapes in sdata.shapes.items()},
        "systems": {
            name: str(get_transformation(element, get_all=True))
            for _, name, element in sdata.gen_spatial_elements()
        },
    }


def assert_equal(before: Any, after: Any) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, after[key])
        elif (
            isinstance(value, dict) and value and isinstance(next(iter(value.values())), np.ndarray)
        ):
            assert value.keys() == after[key].keys()
            for name in value:
                np.testing.assert_array_equal(value[name], after[key][name])
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, after[key])
        else:
            assert value == after[key], key


def test_fit_adds_our_keys_and_nothing_else(make_slides: Any, fit_tiny: Any) -> None:
    slides = make_slides()
    before = [snapshot(sdata) for sdata in slides]
    model = fit_tiny(slides)
    for sdata, earlier in zip(slides, before, strict=True):
        assert_equal(earlier, snapshot(sdata))
        table = sdata["table"]
        for slot, keys in OURS.items():
            assert keys <= set(getattr(table, slot))
        latent = table.obsm["X_rankbygene"]
        assert latent.dtype == np.float32
        assert latent.shape == (table.n_obs, model.backbone.n_features)
        assert np.isfinite(latent).all()
        layer = table.layers["rankbygene"]
        assert layer.dtype == np.float32
        panel = table.var["rankbygene_panel"].to_numpy()
        assert sorted(table.var_names[panel]) == sorted(model.genes)
        assert np.isfinite(layer[:, panel]).all()
        assert np.isnan(layer[:, ~panel]).all()
        assert list(table.obs["rankbygene_split"].cat.categories) == ["train", "validation", "test"]
    labels = pd.concat([sdata["table"].obs["rankbygene_split"] for sdata in slides])
    assert set(labels) == {"train", "validation"}


def test_the_panel_is_chosen_on_training_spots(make_slides: Any) -> None:
    panels = []
    for poisoned in (False, True):
        slides = {f"s{i}": sdata for i, sdata in enumerate(make_slides(3))}
        table = slides["s2"]["table"]
        if poisoned:
            # What is rare elsewhere is by far the most expressed and the most variable where it is held out.
            rare = int(
                np.argmin(sum(np.asarray(s["table"].X.sum(0)).ravel() for s in slides.values()))
            )
            counts = table.X.toarray()
            counts[::2, rare] += 100_000
            table.X = type(table.X)(counts)
        rbg.model.RankByGene.setup_spatialdata(slides)
        model = rbg.model.RankByGene(
            slides,
            backbone="test_resnet",
            pretrained=False,
            tile_px=32,
            genes=5,
            validation_slides=["s2"],
        )
        panels.append(model.genes)
    assert panels[0] == panels[1]


def test_results_chain_with_scanpy_and_survive_a_store(
    tmp_path: Any, make_slides: Any, fit_tiny: Any
) -> None:
    (sdata,) = make_slides(1, n_spots=100)
    with pytest.warns(UserWarning, match="not independent"):
        fit_tiny(sdata, key_added="he")
    table = sdata["table"]
    sc.pp.neighbors(table, use_rep="X_he", n_neighbors=5)
    sc.tl.leiden(table, flavor="igraph", n_iterations=2, directed=False)
    assert table.obs["leiden"].notna().all()
    sdata.write(tmp_path / "out.zarr")
    again = type(sdata).read(tmp_path / "out.zarr")["table"]
    np.testing.assert_array_equal(again.obsm["X_he"], table.obsm["X_he"])
    np.testing.assert_array_equal(again.layers["he"], table.layers["he"])
    params = again.uns["he_params"]
    assert params["versions"]["rankbygene"] == rbg.__version__
    assert params["backbone"]["name"] == "test_resnet"
    assert params["normalization"]["target_sum"] == 10_000
    assert params["tile"]["px"] == 32
    assert params["seed"] == 1


def test_validation_scores_are_per_gene_of_the_panel(slides: Any, model: Any) -> None:
    var = slides[0]["table"].var
    scores = var["rankbygene_pearson"]
    assert scores[~var["rankbygene_panel"]].isna().all()
    np.testing.assert_allclose(scores[model.genes], model.validation_pearson)
    assert (scores.dropna().abs() <= 1 + 1e-9).all()
    assert scores[model.genes].notna().any()


def test_same_seed_gives_the_same_model_and_leaves_random_state(
    make_slides: Any, fit_tiny: Any
) -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (fit_tiny(make_slides(2)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    other = fit_tiny(make_slides(2), seed=2)
    states = [m.module.state_dict() for m in (first, second, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_scvi_seed_is_used_where_none_is_given(make_slides: Any) -> None:
    import scvi

    before = scvi.settings.seed
    try:
        scvi.settings.seed = 7
        sdata = make_slides(2)
        rbg.model.RankByGene.setup_spatialdata(sdata)
        model = rbg.model.RankByGene(
            sdata, backbone="test_resnet", pretrained=False, tile_px=32, genes=5
        )
        assert model.seed == 7
    finally:
        scvi.settings.seed = before


def test_tables_are_freed_with_the_model(make_slides: Any, fit_tiny: Any) -> None:
    slides = make_slides(2)
    model = fit_tiny(slides)
    table = weakref.ref(slides[0]["table"])
    del slides, model
    gc.collect()
    assert table() is None


def test_several_regions_of_one_table_are_several_slides(make_slides: Any, fit_tiny: Any) -> None:
    from anndata import concat
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    a, b = make_slides(2)
    tables = [sdata["table"] for sdata in (a, b)]
    merged = concat(tables, index_unique="-", merge="same")
    merged = merged[np.random.default_rng(0).permutation(merged.n_obs)].copy()
    attrs = tables[0].uns["spatialdata_attrs"]
    merged.obs[attrs["region_key"]] = merged.obs[attrs["region_key"]].astype("category")
    regions = [next(iter(sdata.shapes)) for sdata in (a, b)]
    both = SpatialData(
        images={**a.images, **b.images},
        shapes={**a.shapes, **b.shapes},
        tables={
            "table": TableModel.parse(
                merged,
                region=regions,
                region_key=attrs["region_key"],
                instance_key=attrs["instance_key"],
            )
        },
    )
    images = {region: next(iter(s.images)) for region, s in zip(regions, (a, b), strict=True)}
    model = fit_tiny(both, image_key=images)
    latent = model.get_latent_representation()
    assert set(latent) == set(regions)
    table = both["table"]
    for region in regions:
        rows = (table.obs[attrs["region_key"]] == region).to_numpy()
        np.testing.assert_array_equal(table.obsm["X_rankbygene"][rows], latent[region])


def test_a_logger_stands_beside_the_history_and_training_can_stop_early(
    make_slides: Any, fit_tiny: Any, tmp_path: Any
) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    train = {
        "batch_size": 16,
        "accelerator": "cpu",
        "precision": "32-true",
        "enable_progress_bar": False,
    }
    # A rate of zero never improves on the first epoch.
    still = {"lr": 0.0, "gene_lr": 0.0}
    checkpoint = ModelCheckpoint(tmp_path, filename="last")
    model = fit_tiny(
        make_slides(3),
        max_epochs=6,
        train_kwargs={
            **train,
            "logger": CSVLogger(tmp_path, name="logs"),
            "callbacks": [checkpoint],
            "early_stopping": True,
            "early_stopping_patience": 1,
            "plan_kwargs": still,
        },
    )
    assert 1 < len(model.history["train_loss"]) < 6
    logged = pd.read_csv(next(tmp_path.glob("logs/*/metrics.csv")))
    assert {"train_loss", "validation_loss"} <= set(logged.columns)
    assert (tmp_path / "last.ckpt").exists()
    resumed = fit_tiny(
        make_slides(3),
        max_epochs=6,
        train_kwargs={**train, "ckpt_path": tmp_path / "last.ckpt", "plan_kwargs": still},
    )
    done = len(model.history["train_loss"])
    assert list(resumed.history["train_loss"].index) == list(range(6))
    assert resumed.history["train_loss"][:done].equals(model.history["train_loss"])
