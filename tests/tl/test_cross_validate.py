from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import torch
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler

import rankbygene as rbg
from rankbygene.data.counts._counts import layer_names
from rankbygene.data.expression._expression import smoother
from rankbygene.nn import color_texture_statistics
from rankbygene.tl import (
    BASELINES,
    EnsembleMethod,
    FeatureMethod,
    ModelMethod,
    NestedSelection,
)
from rankbygene.tl.cross_validation._regressors import HestRidge


def mean_of_training(train: Any) -> Callable[[Any], np.ndarray]:
    """Predict the training mean, by a function of the user's."""
    mean = np.nanmean(train.expression(), axis=0)
    return lambda test: np.tile(mean, (sum(len(rows) for rows in test.rows.values()), 1))


@pytest.fixture(scope="module")
def result(patients: Any, cross_validate: Any) -> Any:
    return cross_validate(patients, baselines=BASELINES)


# ---- what comes out -----------------------------------------------------------------------------


def test_every_score_has_baselines_and_references_beside_it(result: Any) -> None:
    assert list(result.summary.index) == ["rankbygene", *BASELINES, "neighbours", "noise ceiling"]
    scored = result.summary.drop(index="mean")["pearson"]
    assert scored.notna().all()
    assert np.isnan(result.summary.loc["mean", "pearson"])
    assert result.summary.loc["noise ceiling", "pearson"] > 0.5
    low, value, high = result.summary.loc["ridge", ["pearson_low", "pearson", "pearson_high"]]
    assert low < value < high
    assert (result.runs["seconds"] > 0).all()
    assert (result.runs["peak_memory_mb"] > 100).all()


def test_scores_are_those_of_the_predictions(result: Any) -> None:
    table = result.predictions
    own = result.per_gene.query("method == 'ridge' and fold == 'patient_1'").set_index("gene")
    rows = (table.obs["fold"] == "patient_1").to_numpy()
    genes = list(own.index)
    truth = table[rows, genes].X
    predicted = table[rows, genes].layers["ridge"]
    np.testing.assert_allclose(own["pearson"], rbg.metrics.pearson(truth, predicted), atol=1e-6)
    np.testing.assert_allclose(own["mse"], rbg.metrics.mse(truth, predicted), rtol=1e-5)
    mean = result.per_gene.query("method == 'ridge'").groupby("gene")["pearson"].mean().mean()
    assert result.summary.loc["ridge", "pearson"] == pytest.approx(mean)
    outside = [gene for gene in table.var_names if gene not in genes]
    assert np.isnan(table[rows, outside].X).all()


def test_exports_hold_what_was_found(result: Any, tmp_path: Path) -> None:
    result.save(tmp_path / "scores")
    written = tmp_path / "scores"
    summary = pd.read_csv(written / "summary.csv", index_col="method")
    np.testing.assert_allclose(summary["pearson"], result.summary["pearson"])
    record = json.loads((written / "result.json").read_text())
    assert record["summary"]["mean"]["pearson"] is None
    assert record["provenance"]["normalization"]["log_base"] == "e"
    assert record["provenance"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert [fold["fold"] for fold in record["provenance"]["folds"]] == [
        "patient_0", "patient_1", "patient_2",
    ]  # fmt: skip
    assert "| noise ceiling |" in (written / "summary.md").read_text()
    assert ad.read_h5ad(written / "predictions.h5ad").shape == result.predictions.shape
    with pytest.raises(FileExistsError):
        result.save(written)


def test_a_method_ties_with_itself(result: Any) -> None:
    same = result.compare("ridge", "ridge")
    assert same["difference"] == 0
    one, other = result.compare("ridge", "mlp"), result.compare("mlp", "ridge")
    assert one["difference"] == pytest.approx(-other["difference"])
    assert one["low"] <= one["difference"] <= one["high"]
    assert result.summary.loc["mlp", "difference"] == pytest.approx(
        result.compare("rankbygene", "mlp")["difference"]
    )
    with pytest.raises(KeyError, match=r"magic.*rankbygene"):
        result.compare("magic", "ridge")


# ---- leaks ----------------------------------------------------------------------------------------


def test_a_poisoned_test_fold_changes_nothing_that_is_fitted(
    make_slides: Any, cross_validate: Any
) -> None:
    """Panel, scaling, features, regressions, early stopping, weights: all blind to held-out counts."""
    clean, poisoned = make_slides(3, n_patients=3), make_slides(3, n_patients=3)
    rng = np.random.default_rng(0)
    table = poisoned[0]["table"]
    table.X = type(table.X)(rng.poisson(500, table.shape).astype(np.float32))
    table.obs["secret"] = rng.normal(size=table.n_obs)
    seen: dict[str, list[Any]] = {"clean": [], "poisoned": []}

    def remembers(name: str) -> Any:
        def method(train: Any) -> Any:
            seen[name].append((train.genes, train.expression()))
            return mean_of_training(train)

        return method

    settings = {
        "only_folds": ["patient_0"],
        "baselines": ("mean", "ridge", "mlp", "supervised", "retrieval"),
        "references": (),
        "max_epochs": 2,
    }
    runs = {
        name: cross_validate(
            sdatas,
            {
                "rankbygene": ModelMethod(train_kwargs={"early_stopping": True}),
                "frozen": ModelMethod(model_kwargs={"head": "frozen"}),
                "user": remembers(name),
                "nested": NestedSelection(
                    {"a": FeatureMethod(Ridge(1e-3)), "b": FeatureMethod(Ridge(1e3))}
                ),
            },
            **settings,
        )
        for name, sdatas in (("clean", clean), ("poisoned", poisoned))
    }
    one, other = (runs[name].predictions for name in ("clean", "poisoned"))
    assert not np.allclose(one.X, other.X)
    assert list(one.var_names) == list(other.var_names)
    assert list(runs["clean"].runs["note"]) == list(runs["poisoned"].runs["note"])
    layers = layer_names(one)
    assert len(layers) >= 9
    for name in layers:
        np.testing.assert_array_equal(one.layers[name], other.layers[name], err_msg=str(name))
    assert seen["clean"][0][0] == seen["poisoned"][0][0]
    np.testing.assert_array_equal(seen["clean"][0][1], seen["poisoned"][0][1])


def test_held_out_counts_never_reach_a_method(patients: Any, cross_validate: Any) -> None:
    def spy(train: Any) -> Any:
        def predict(test: Any) -> np.ndarray:
            for sdata in test.slides.values():
                table = sdata["table"]
                assert table.X.nnz == 0
                assert not table.layers
                assert not table.obsm
                link = set(table.uns["spatialdata_attrs"].values())
                assert set(table.obs) <= link | {"array_row", "array_col", "patient"}
                assert len(sdata.tables) == 1
            assert not set(train.slides) & set(test.slides)
            return mean_of_training(train)(test)

        return predict

    cross_validate(patients, spy, baselines=(), references=())


def test_leaking_splits_are_refused(make_slides: Any, cross_validate: Any) -> None:
    same = make_slides(4, n_patients=2)
    with pytest.raises(
        ValueError, match=r"patient 'patient_0' on both sides.*allow_leaks=\['patient'\]"
    ):
        cross_validate(same, groups="slide")
    with pytest.raises(ValueError, match=r"groups='spot'.*allow_leaks=\['window'\]"):
        cross_validate(same, groups="spot")
    with pytest.raises(ValueError, match="hold the same counts"):
        cross_validate({"a": same[0], "b": make_slides(4, n_patients=2)[0]}, groups="slide")
    with pytest.raises(ValueError, match=r"one group.*groups='slide'"):
        cross_validate(make_slides(2, n_patients=1))
    with pytest.raises(KeyError, match="'center' is neither"):
        cross_validate(same, groups="center")
    with pytest.raises(ValueError, match=r"allow_leaks\[0\] is 'all'; allowed are"):
        cross_validate(same, allow_leaks=["all"])
    allowed = cross_validate(same, "mean", groups="slide", allow_leaks=["patient"], baselines=())
    assert "Leaks that were allowed: patient" in allowed.to_markdown()


def test_blocks_share_neither_pixels_nor_windows(make_slides: Any, cross_validate: Any) -> None:
    (slide,) = make_slides(1, n_spots=150)
    rows: list[Any] = []

    def spy(train: Any) -> Any:
        def predict(test: Any) -> np.ndarray:
            rows.append((train, test))
            return mean_of_training(train)(test)

        return predict

    result = cross_validate(slide, spy, groups="block", baselines=(), references=(), tile_um=100)
    held_out = np.concatenate([test.rows[name] for _, test in rows for name in test.rows])
    assert sorted(held_out) == list(range(150))
    frame = next(iter(rbg.data.resolve_slides(slide).values()))
    whole = smoother(frame, rbg.data.Normalization()).toarray() > 0
    for train, test in rows:
        (ours,), (theirs,) = train.rows.values(), test.rows.values()
        gap = np.linalg.norm(frame.centers_um[ours][:, None] - frame.centers_um[theirs], axis=2)
        assert gap.min() > 100
        assert not (whole[ours].any(0) & whole[theirs].any(0)).any()
        (copy,) = train.slides.values()
        np.testing.assert_array_equal(copy["table"].X.toarray(), slide["table"].X[ours].toarray())
    assert len(result.summary) == 1


def test_a_network_of_the_user_starts_anew_in_every_fold(
    patients: Any, cross_validate: Any
) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, 4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    settings = {"backbone": network, "tile_um": 112, "baselines": (), "references": ()}
    both = cross_validate(patients, only_folds=[0, 1], **settings)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    alone = cross_validate(patients, only_folds=["patient_1"], **settings)
    rows = both.predictions.obs["fold"] == "patient_1"
    genes = list(alone.predictions.var_names)
    np.testing.assert_array_equal(
        both.predictions[rows.to_numpy(), genes].layers["rankbygene"],
        alone.predictions.layers["rankbygene"],
    )


# ---- interruption, jobs, processes ----------------------------------------------------------------


class Calls(list[str]):
    """Counts what a method does, and is no part of what the method is: pickle keeps nothing of it."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Calls, ()


def test_finished_folds_are_kept_and_joined(
    patients: Any, cross_validate: Any, tmp_path: Path
) -> None:
    calls, trap = Calls(), Calls(["on"])

    def method(train: Any) -> Any:
        calls.append(",".join(train.slides))
        if trap and len(calls) == 2:
            raise KeyboardInterrupt
        return mean_of_training(train)

    def run(**kwargs: Any) -> Any:
        return cross_validate(patients, {"user": method}, store=tmp_path / "store", **kwargs)

    with pytest.raises(KeyboardInterrupt):
        run()
    trap.clear()
    run(only_folds=[2])
    assert len(calls) == 3
    resumed = run()
    assert len(calls) == 4
    whole = cross_validate(patients, {"user": method})
    pd.testing.assert_frame_equal(resumed.per_gene, whole.per_gene)
    assert not list((tmp_path / "store").rglob("*.part"))


def test_a_store_of_another_study_is_refused(
    patients: Any, cross_validate: Any, tmp_path: Path
) -> None:
    store = tmp_path / "store"

    def run(method: Any, **kwargs: Any) -> Any:
        return cross_validate(patients, {"m": method}, store=store, baselines=(), **kwargs)

    run(FeatureMethod(Ridge(1.0)), only_folds=[0])
    with pytest.raises(ValueError, match="another study.*genes"):
        run(FeatureMethod(Ridge(1.0)), genes=9)
    with pytest.raises(ValueError, match="other settings of 'm'"):
        run(FeatureMethod(Ridge(2.0)))
    (file,) = store.rglob("m.npz")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"m\.npz is damaged.*computed again"):
        run(FeatureMethod(Ridge(1.0)), only_folds=[0])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds other files"):
        cross_validate(patients, "mean", store=tmp_path / "full")


@pytest.mark.slow
def test_processes_give_the_same_numbers(patients: Any, cross_validate: Any) -> None:
    one, two = (cross_validate(patients, n_jobs=n) for n in (1, 2))
    pd.testing.assert_frame_equal(one.per_gene, two.per_gene)


# ---- methods, references --------------------------------------------------------------------------


def test_wrong_methods_and_predictions_are_named(patients: Any, cross_validate: Any) -> None:
    with pytest.raises(ValueError, match="'magic' is not known"):
        cross_validate(patients, "magic")
    with pytest.raises(ValueError, match="baseline 'magic'"):
        cross_validate(patients, baselines=["magic"])
    with pytest.raises(TypeError, match="found int"):
        cross_validate(patients, 3)
    with pytest.raises(ValueError, match="name of a reference"):
        cross_validate(patients, {"neighbours": "ridge"})
    with pytest.raises(ValueError, match=r"no fold 7.*patient_0"):
        cross_validate(patients, only_folds=[7])
    with pytest.raises(ValueError, match=r"'f' predicted \(2, 2\)"):
        cross_validate(patients, {"f": lambda train: lambda test: np.zeros((2, 2))})
    with pytest.raises(ValueError, match="not finite"):
        cross_validate(
            patients,
            {"f": lambda train: lambda test: np.nan * mean_of_training(train)(test)},
        )


def test_estimators_see_features_of_the_encoder(patients: Any, cross_validate: Any) -> None:
    found = cross_validate(patients, LinearRegression(), baselines=(), references=())
    assert list(found.summary.index) == ["LinearRegression"]
    assert found.summary["pearson"].notna().all()


def test_hest_ridge_is_the_benchmarks_regression() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 12)), rng.normal(size=(80, 5))
    scaled = StandardScaler().fit_transform(x)
    _, _, axes = np.linalg.svd(scaled, full_matrices=False)
    parts, alpha = scaled @ axes.T, 100 / (12 * 5)
    weights = np.linalg.solve(parts.T @ parts + alpha * np.eye(12), parts.T @ (y - y.mean(0)))
    np.testing.assert_allclose(
        HestRidge().fit(x, y).predict(x), parts @ weights + y.mean(0), atol=1e-3
    )


def test_texture_tells_rough_from_smooth_at_the_same_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, 3, 32, 32), generator=generator, dtype=torch.uint8)
    rows = noise.flatten(2).sort(dim=2).values.view(1, 3, 32, 32)
    statistics = color_texture_statistics(torch.cat([noise, rows]))
    assert statistics.shape == (2, 44)
    torch.testing.assert_close(statistics[0, :15], statistics[1, :15])
    assert statistics[0, 25] > 2 * statistics[1, 25]
    flat = color_texture_statistics(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    assert torch.isfinite(flat).all()


def test_nested_selection_takes_what_is_best_inside(patients: Any, cross_validate: Any) -> None:
    # A constant prediction has no correlation; to choose by, it counts as none.
    chosen = NestedSelection({"constant": "mean", "fitted": "ridge"})
    found = cross_validate(patients, {"tuned": chosen}, references=())
    notes = found.runs.query("method == 'tuned'").set_index("fold")["note"]
    parts = notes.str.extract(r"^chose (\w+) \(constant: 0\.000, fitted: (-?0\.\d+)\)$")
    np.testing.assert_array_equal(parts[0] == "fitted", parts[1].astype(float) > 0)
    scores = found.per_gene.set_index(["method", "fold", "gene"])["pearson"]
    for fold, chosen in parts[0].items():
        taken = "ridge" if chosen == "fitted" else "mean"
        pd.testing.assert_series_equal(scores["tuned", fold], scores[taken, fold])
    with pytest.raises(ValueError, match="no candidates"):
        NestedSelection({})


def test_an_ensemble_is_the_mean_of_its_members(patients: Any, cross_validate: Any) -> None:
    members = {"colour": "ridge", "encoder": "backbone_ridge"}
    judged = {"both": EnsembleMethod(members), **members}
    layers = cross_validate(patients, judged, baselines=(), references=()).predictions.layers
    mean = (layers["colour"] + layers["encoder"]) / 2
    np.testing.assert_allclose(layers["both"], mean, rtol=1e-5, equal_nan=True)
    with pytest.raises(ValueError, match="needs members"):
        EnsembleMethod({})


def test_best_genes_are_chosen_on_other_folds(patients: Any, cross_validate: Any) -> None:
    """On pure noise an honest list scores nothing; one chosen on the test fold looks like a result."""

    def noise(train: Any) -> Any:
        rng = np.random.default_rng(len(train.expression()))
        return lambda test: rng.normal(size=mean_of_training(train)(test).shape)

    found = cross_validate(patients, {"noise": noise}, genes=30, baselines=(), references=())
    honest, oracle = found.top_k(5)["noise"], found.top_k(5, oracle=True)["noise"]
    assert oracle > 0.2
    assert abs(honest) < oracle / 2
    one = cross_validate(patients, {"noise": noise}, only_folds=[0], baselines=(), references=())
    with pytest.raises(ValueError, match="only one"):
        one.top_k(5)


def test_the_ceiling_is_what_the_true_rates_reach(make_slides: Any) -> None:
    (slide,) = make_slides(1, n_spots=200)
    table = slide["table"]
    rng = np.random.default_rng(0)
    depth, plain = 3000.0, rbg.data.Normalization(neighbourhood="none", log_base="none")
    signal = np.array([0.02, 0.1, 0.5, 1.0] * 5)
    rates = np.exp(signal * rng.normal(size=(table.n_obs, 20)))
    rates = np.c_[rates, np.full((table.n_obs, table.n_vars - 20), 5.0)]
    rates *= depth / rates.sum(1, keepdims=True)
    table.X = type(table.X)(rng.poisson(rates).astype(np.float32))
    genes = list(table.var_names[:20])
    ceiling = rbg.tl.noise_ceiling(slide, genes, plain, n_splits=10).to_numpy()[0]
    frame = next(iter(rbg.data.resolve_slides(slide).values()))
    measured, _ = rbg.data.expression_matrix(frame, genes, plain)
    reached = rbg.metrics.pearson(measured, rates[:, :20])
    for size in (0.1, 0.5, 1.0):
        own = signal == size
        assert ceiling[own].mean() == pytest.approx(reached[own].mean(), abs=0.05)
    assert ceiling[signal < 0.1].mean() < 0.5
    with pytest.raises(ValueError, match="n_splits is 0"):
        rbg.tl.noise_ceiling(slide, genes, n_splits=0)


@pytest.mark.parametrize("kind", ["whole", "shuffled", "one short", "a few", "fewer genes"])
def test_copies_under_another_patient_are_refused(
    patients: Any, cross_validate: Any, kind: str
) -> None:
    slide = patients[0]
    n = slide["table"].n_obs
    order = np.random.default_rng(0).permutation(n)
    rows = {"shuffled": order, "one short": np.arange(1, n), "a few": order[:3]}.get(
        kind, np.arange(n)
    )
    table = slide["table"][rows, : 15 if kind == "fewer genes" else None].copy()
    table.obs["patient"] = "somebody else"
    table.obs_names = [f"x{i}" for i in range(len(rows))]
    elements = {name: element for _, name, element in slide.gen_spatial_elements()}
    copy = sd.SpatialData.init_from_elements({**elements, "table": table})
    with pytest.raises(ValueError, match=f"'a' and 'c' hold the same counts: {len(rows)} spots"):
        cross_validate({"a": slide, "b": patients[1], "c": copy}, "ridge")
