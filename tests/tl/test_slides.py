from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import rankbygene as rbg
from rankbygene.data import ArrayBag
from rankbygene.errors import InputValueError, RankByGeneError
from rankbygene.tl.slides._baselines import CoxRidge, mean_features

TRAIN: dict[str, Any] = {"max_epochs": 4, "accelerator": "cpu", "precision": "32-true"}
SMALL: dict[str, Any] = {"n_hidden": 8, "validation_size": 0.0}
QUICK: dict[str, Any] = {
    "model_kwargs": SMALL, "train_kwargs": TRAIN, "n_folds": 3, "n_resamples": 50,
    "poolings": ("mean",),
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort() -> Any:
    return rbg.datasets.synthetic_cohort(60, kind="bags", n_tiles=30, n_features=16, seed=0)


@pytest.fixture(scope="module")
def noise(cohort: Any) -> dict[str, Any]:
    """Features that say nothing, for the same slides."""
    rng = np.random.default_rng(0)
    return {
        name: ArrayBag(name, rng.normal(size=(bag.n_tiles, 4)).astype("f4"))
        for name, bag in cohort.slides.items()
    }


def test_features_and_poolings_are_compared_on_the_same_patients(cohort: Any, noise: Any) -> None:
    result = rbg.tl.cross_validate_slides(
        cohort.slides,
        cohort.clinical,
        features={"program": cohort.slides, "noise": noise},
        **QUICK,
    )
    expected = [
        ("program", "mean"), ("program", "mean + logistic"), ("noise", "mean"),
        ("noise", "mean + logistic"), ("none", "majority class"),
    ]  # fmt: skip
    assert result.summary.index.tolist() == expected
    auroc = result.summary["auroc"]
    assert auroc["program", "mean + logistic"] > 0.85
    assert auroc["noise", "mean + logistic"] < 0.75
    assert auroc["none", "majority class"] == pytest.approx(0.5)
    assert result.summary.loc[("none", "majority class"), "balanced_accuracy"] == 0.5
    low, high = result.summary["auroc_low"], result.summary["auroc_high"]
    assert (low <= auroc).all()
    assert (auroc <= high).all()
    table = result.predictions.query("features == 'program' and method == 'mean + logistic'")
    assert sorted(table["patient"]) == sorted(cohort.clinical["patient"].unique())
    per_fold = [
        roc_auc_score(part["label"] == "low", part["probability_low"])
        for _, part in table.groupby("fold")
    ]
    assert auroc["program", "mean + logistic"] == pytest.approx(np.mean(per_fold))
    scores = result.per_fold.loc[("program", "mean + logistic"), "auroc"]
    np.testing.assert_allclose(scores, per_fold)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"model_kwargs": {"x": 1}}, "model_kwargs has no argument 'x'"),
        ({"model_kwargs": {"n_hidden": 0}}, "n_hidden"),
        ({"model_kwargs": {"seed": 1}}, "model_kwargs has no argument 'seed'"),
        ({"train_kwargs": {"max_epochs": 0}}, "max_epochs"),
        ({"features": {}}, "features is empty"),
    ],
)
def test_settings_are_checked_before_slides_are_read(kwargs: dict[str, Any], match: str) -> None:
    unread = rbg.datasets.synthetic_cohort(4, kind="bags", n_tiles=8, n_features=8)
    clinical = pd.DataFrame({"nothing": [1]})
    for poolings in ((), ("mean",)):
        with pytest.raises(RankByGeneError, match=match):
            rbg.tl.cross_validate_slides(unread.slides, clinical, poolings=poolings, **kwargs)


def test_survival_has_its_scores_and_baselines(cohort: Any) -> None:
    result = rbg.tl.cross_validate_slides(cohort.slides, cohort.clinical, task="survival", **QUICK)
    summary = result.summary
    assert summary.loc[("features", "mean + Cox ridge"), "concordance_index"] > 0.65
    assert summary.loc[("none", "same for all"), "concordance_index"] == pytest.approx(0.5)
    brier = summary["integrated_brier_score"]
    assert brier["features", "mean + Cox ridge"] < brier["none", "same for all"] < 0.3
    curves = result.predictions.filter(like="survival_").to_numpy()
    assert ((curves >= 0) & (curves <= 1)).all()
    assert (np.diff(curves, axis=1) <= 0).all()


def test_no_patient_is_judged_by_a_model_that_saw_it(
    cohort: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], set[str]]] = []
    predict = rbg.model.SlideClassifier.predict

    def watched(self: Any, slides: Any = None, **kwargs: Any) -> Any:
        seen.append((set(self.cohort.clinical["patient"]), set(kwargs["patients"])))
        return predict(self, slides, **kwargs)

    monkeypatch.setattr(rbg.model.SlideClassifier, "predict", watched)
    rbg.tl.cross_validate_slides(cohort.slides, cohort.clinical, baselines=False, **QUICK)
    assert len(seen) == 3
    for trained, judged in seen:
        assert not trained & judged
        assert trained | judged == set(cohort.clinical["patient"])


def test_slides_that_lack_some_features_are_left_out_for_all(cohort: Any, noise: Any) -> None:
    holed = {name: bag for name, bag in noise.items() if name != "slide_1"}
    gone = cohort.clinical.loc["slide_1", "patient"]
    result = rbg.tl.cross_validate_slides(
        cohort.slides,
        cohort.clinical,
        features={"program": cohort.slides, "noise": holed},
        **{**QUICK, "poolings": ()},
    )
    lost = (cohort.clinical["patient"] == gone).sum() == 1
    assert (gone in result.folds.index) != lost
    assert result.predictions.groupby(["features", "method"]).size().nunique() == 1
    with pytest.raises(InputValueError, match="'classification', 'survival'"):
        rbg.tl.cross_validate_slides(cohort.slides, cohort.clinical, task="grading")  # type: ignore[arg-type]
    with pytest.raises(InputValueError, match="no slide has all kinds"):
        rbg.tl.cross_validate_slides(
            cohort.slides,
            cohort.clinical,
            features={
                "a": {"slide_0": noise["slide_0"]},
                "b": {"slide_1": noise["slide_1"]},
            },
        )


@pytest.mark.parametrize("rows", [slice(None), slice(None, None, -1), slice(1, None)])
@pytest.mark.parametrize("kind", ["a", "b"])
def test_copies_under_another_patient_are_refused_by_name(
    cohort: Any, noise: Any, kind: str, rows: slice
) -> None:
    other = next(
        name
        for name in cohort.slides
        if cohort.clinical.loc[name, "patient"] != cohort.clinical.loc["slide_0", "patient"]
    )
    kinds = {"a": dict(cohort.slides), "b": dict(noise)}
    copied = kinds[kind]["slide_0"].read()[rows]
    kinds[kind][other] = ArrayBag("new name", copied)
    n = len(copied)
    with pytest.raises(InputValueError, match=f"(?s)'slide_0'.*'{other}'.*{n} of {n} different"):
        rbg.tl.cross_validate_slides(cohort.slides, cohort.clinical, features=kinds, **QUICK)
    clinical = cohort.clinical.copy()
    clinical.loc[other] = clinical.loc["slide_0"]
    rbg.tl.cross_validate_slides(
        cohort.slides, clinical, features={kind: kinds[kind]}, **{**QUICK, "poolings": ()}
    )


def test_cox_ridge_finds_the_direction_of_the_hazard() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    time = rng.exponential(np.exp(-2 * x[:, 0]))
    outcomes = pd.DataFrame({"time": time, "event": rng.uniform(size=200) < 0.8})
    cox = CoxRidge().fit(x, outcomes)
    assert np.corrcoef(cox.predict(x), x[:, 0])[0, 1] > 0.95
    curves = cox.predict_survival(x, np.array([0.0, 0.5, 1.0]))
    assert (curves[:, 0] == 1).all()
    assert np.corrcoef(curves[:, 2], x[:, 0])[0, 1] < -0.8


def test_mean_features_are_those_of_all_tiles() -> None:
    features = np.random.default_rng(0).normal(size=(5000, 3)).astype("f4")
    np.testing.assert_allclose(mean_features(ArrayBag("a", features)), features.mean(0), atol=1e-6)
