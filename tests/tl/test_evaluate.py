from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import spatialdata as sd
import torch
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge

import rankbygene as rbg
from rankbygene.data.splits._row_groups import RowGroups
from rankbygene.errors import InputValueError
from rankbygene.nn import color_statistics
from rankbygene.tl._evaluate import score_genes, summarise
from rankbygene.tl.cross_validation._regressors import GroupRidge, MeanRegressor


def test_scores_stand_beside_baselines_on_unseen_slides(model: Any, make_slides: Any) -> None:
    (new,) = make_slides(1, seed=31)
    result = rbg.tl.evaluate(model, new)
    assert list(result.summary.index) == ["rankbygene", "mean", "color", "backbone"]
    predicted = model.get_normalized_expression(new)
    frame = next(iter(model._frames_of(new, counts=True).values()))
    truth, _ = rbg.data.expression_matrix(frame, model.genes, model.normalization)
    expected = [pearsonr(truth[:, i], predicted.iloc[:, i])[0] for i in range(len(model.genes))]
    scores = result.per_gene.query("method == 'rankbygene'").set_index("gene")["pearson"]
    np.testing.assert_allclose(scores[model.genes], expected, atol=1e-6)
    assert result.summary.loc["mean", "n_genes"] == 0
    assert np.isfinite(result.summary[["mse", "mae"]].to_numpy()).all()


def test_training_spots_are_not_scored(model: Any, slides: Any, make_slides: Any) -> None:
    with pytest.raises(ValueError, match="were used in training"):
        rbg.tl.evaluate(model, slides[0])
    with pytest.raises(ValueError, match="'mean', 'color', 'backbone'"):
        rbg.tl.evaluate(model, make_slides(1, seed=31), baselines=["magic"])


def test_color_statistics_against_numpy() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    values = images.numpy().reshape(4, 3, -1) / 255
    expected = np.stack(
        [
            values.mean(2),
            values.std(2, ddof=1),
            *(np.quantile(values, q, axis=2) for q in (0.1, 0.5, 0.9)),
        ],
        axis=2,
    )
    np.testing.assert_allclose(color_statistics(images).numpy(), expected.reshape(4, 15), atol=1e-5)


def test_baselines_against_independent_computation() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    targets = (features @ rng.normal(size=(5, 3)) + 0.1 * rng.normal(size=(60, 3))).astype(
        np.float32
    )
    np.testing.assert_allclose(
        MeanRegressor().fit(features, targets).predict(features)[7], targets.mean(0), rtol=1e-6
    )
    scaled = (features - features.mean(0)) / features.std(0)
    groups = RowGroups.of_labels(np.repeat(["a", "b", "c"], 20), "slide")
    fitted = GroupRidge().fit(features, targets, groups)
    expected = Ridge(fitted.linear_.penalty).fit(scaled, targets).predict(scaled)
    np.testing.assert_allclose(fitted.predict(features), expected, atol=1e-5)


def test_scores_are_within_slides_then_averaged() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1], 200)
    truth = rng.normal(size=(400, 2)) + 10 * groups[:, None]
    slide_mean = np.repeat(truth.reshape(2, 200, 2).mean(1), 200, axis=0)
    noisy = slide_mean + 0.01 * rng.normal(size=truth.shape)
    summary = summarise(score_genes(truth, {"slide mean": noisy}, groups, ["a", "b"]))
    assert abs(summary.loc["slide mean", "pearson"]) < 0.2


def copy_of(sdata: Any, rows: Any = slice(None), genes: Any = slice(None)) -> Any:
    """A part of a slide in an object of its own, with its spots under other names."""
    table = sdata["table"][rows, genes].copy()
    table.obs_names = [f"x{i}" for i in range(table.n_obs)]
    elements = {name: element for _, name, element in sdata.gen_spatial_elements()}
    return sd.SpatialData.init_from_elements({**elements, "table": table})


def test_seen_spots_are_told_however_they_are_handed_in(
    model: Any, slides: Any, make_slides: Any, tmp_path: Any
) -> None:
    genes = slides[0]["table"].var_names.isin(model.genes)
    shuffled = np.random.default_rng(0).permutation(40)
    slides[0].write(tmp_path / "other.zarr")
    for given in (
        slides[:1],
        {"another name": slides[0]},
        slides,
        copy_of(slides[0], shuffled[:7], genes),
        sd.concatenate({"p": copy_of(slides[0]), "q": copy_of(slides[1])}, concatenate_tables=True),
        sd.read_zarr(tmp_path / "other.zarr"),
    ):
        with pytest.raises(
            InputValueError, match=r"spots of slide .* were used in training \(first"
        ):
            rbg.tl.evaluate(model, given, baselines=())
    new = make_slides(1, seed=31)[0]
    mixed = {"new": new, "old": copy_of(slides[2], shuffled[:7])}
    with pytest.raises(InputValueError, match=r"7 of 7 spots of slide 'old'.*first: x0, x1, x2"):
        rbg.tl.evaluate(model, mixed, baselines=())


def test_what_a_model_left_out_can_be_scored(make_slides: Any, fit_tiny: Any) -> None:
    (slide,) = make_slides(1, n_spots=120)
    model = fit_tiny(slide, model_kwargs={"tile_px": 32, "split_by": "block", "max_spots": 60})
    labels = next(iter(model.split.labels.values()))
    left = np.flatnonzero(np.isin(labels, ["unused", "buffer"]))
    assert rbg.tl.evaluate(model, copy_of(slide, left), baselines=()).n_spots == {
        "slide_0_spots": len(left)
    }
    one_more = np.append(left, np.flatnonzero(labels == "train")[0])
    with pytest.raises(InputValueError, match=f"1 of {len(one_more)} spots.*first: x{len(left)}"):
        rbg.tl.evaluate(model, copy_of(slide, one_more), baselines=())


def test_baselines_need_all_that_the_model_was_trained_on(
    model: Any, slides: Any, make_slides: Any, tmp_path: Any
) -> None:
    model.save(tmp_path / "m")
    new, other = make_slides(2, seed=31)
    for attached, text in ((slides[:1], "120 spots.*has 40"), (other, "120 spots.*has none")):
        loaded = rbg.model.load(tmp_path / "m", attached)
        with pytest.raises(InputValueError, match=text):
            rbg.tl.evaluate(loaded, new, baselines=("mean",))


def test_spots_that_training_went_on_with_are_seen(
    make_slides: Any, fit_tiny: Any, tmp_path: Any
) -> None:
    first, second = make_slides(2), make_slides(2, seed=31)
    fit_tiny(first).save(tmp_path / "m")
    model = rbg.model.load(tmp_path / "m", second)
    model.annotate(second)
    assert (second[0]["table"].obs["rankbygene_split"] == "test").all()
    quiet = {"precision": "32-true", "enable_progress_bar": False}
    model.train(max_epochs=1, batch_size=16, accelerator="cpu", **quiet)
    model.save(tmp_path / "again")
    again = rbg.model.load(tmp_path / "again", [*second, *first])
    for seen in (first, second):
        with pytest.raises(InputValueError, match="40 of 40 spots"):
            rbg.tl.evaluate(again, seen, baselines=())


def test_scores_over_slides_are_means_within_them(model: Any, make_slides: Any) -> None:
    """In any order of slides, as objects or as regions of one, with a gene missing from one."""
    one, two = make_slides(2, seed=31)
    lost = model.genes[0]
    short = copy_of(two, genes=two["table"].var_names != lost)
    with pytest.warns(UserWarning, match=f"lacks 1 of the 12 genes.*{lost}"):
        result = rbg.tl.evaluate(model, {"a": one, "b": short}, baselines=("mean",))
    with pytest.warns(UserWarning, match="lacks 1"):
        backwards = rbg.tl.evaluate(model, {"b": short, "a": one}, baselines=("mean",))
    scores = result.per_gene.set_index(["method", "gene"])
    np.testing.assert_allclose(
        scores, backwards.per_gene.set_index(["method", "gene"]), rtol=1e-5, atol=1e-6
    )
    predicted = model.get_normalized_expression({"a": one, "b": short})
    frames = model._frames_of({"a": one, "b": short}, counts=True)
    rs, errors = [], []
    for name, frame in frames.items():
        truth, measured = rbg.data.expression_matrix(frame, model.genes, model.normalization)
        truth[:, ~measured] = np.nan
        values = predicted[name].to_numpy()
        rs.append([pearsonr(t, p)[0] for t, p in zip(truth.T, values.T, strict=True)])
        errors.append((truth - values) ** 2)
    own = scores.loc["rankbygene"].loc[model.genes]
    np.testing.assert_allclose(own["pearson"], np.nanmean(rs, axis=0), atol=1e-5)
    np.testing.assert_allclose(own["mse"], np.nanmean(np.concatenate(errors), axis=0), rtol=1e-5)
    both = sd.concatenate({"p": one, "q": two}, concatenate_tables=True)
    joined = rbg.tl.evaluate(model, both, baselines=("mean",))
    apart = rbg.tl.evaluate(model, [one, two], baselines=("mean",))
    np.testing.assert_allclose(joined.summary, apart.summary, rtol=1e-5, atol=1e-6)
