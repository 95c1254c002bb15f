from __future__ import annotations

import json
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import rankbygene as rbg
from rankbygene.data import ArrayBag, BagDataModule, TableBag
from rankbygene.errors import (
    InputKeyError,
    InputTypeError,
    InputValueError,
    NotTrainedError,
    OutputExistsError,
)
from rankbygene.model import SlideClassifier, SlideSurvival

TRAIN: dict[str, Any] = {
    "accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False,
}  # fmt: skip
SMALL: dict[str, Any] = {"n_hidden": 32, "dropout": 0.1, "validation_size": 0.0, "seed": 0}
QUICK: dict[str, Any] = {"n_hidden": 8, "seed": 0}
LEARN: dict[str, Any] = {"max_epochs": 60, "plan_kwargs": {"lr": 3e-3}, **TRAIN}


@pytest.fixture(scope="module")
def cohort() -> Any:
    return rbg.datasets.synthetic_cohort(120, kind="bags", n_tiles=60, seed=0)


@pytest.fixture
def few() -> Any:
    return rbg.datasets.synthetic_cohort(12, n_tiles=20, n_features=8, seed=1)


def halves(cohort: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two thirds of the patients to learn from, the others to judge."""
    folds = rbg.data.patient_folds(cohort.clinical, 3, label_key="label", seed=0)
    unseen = cohort.clinical["patient"].map(folds) == 0
    return cohort.clinical[~unseen], cohort.clinical[unseen]


def pick(cohort: Any, rows: pd.DataFrame) -> dict[str, Any]:
    return {name: cohort.slides[name] for name in rows.index}


def c_index(time: Any, event: Any, risk: Any) -> float:
    """Share of comparable pairs in the right order; risks do not tie."""
    time, event, risk = (np.asarray(values) for values in (time, event, risk))
    pairs = (time[:, None] < time) & event[:, None].astype(bool)
    return float((risk[:, None] > risk)[pairs].mean())


def enrichment(weights: dict[str, Any], causal: dict[str, Any]) -> float:
    """How much more the causal tiles weigh than a tile on average."""
    return float(np.mean([len(w) * w[causal[name]].mean() for name, w in weights.items()]))


def classify(cohort: Any, clinical: pd.DataFrame | None = None, **kwargs: Any) -> tuple[float, Any]:
    train, test = halves(cohort)
    shown = train if clinical is None else clinical.loc[train.index]
    model = SlideClassifier(pick(cohort, train), shown, **(SMALL | kwargs))
    model.train(**LEARN)
    result = model.predict(pick(cohort, test), level="patient", patients=test["patient"])
    truth = test.drop_duplicates("patient").set_index("patient").loc[result.index, "label"]
    return float(roc_auc_score(truth == "high", result["probability_high"])), model


def survive(cohort: Any, clinical: pd.DataFrame | None = None, **kwargs: Any) -> tuple[float, Any]:
    train, test = halves(cohort)
    shown = train if clinical is None else clinical.loc[train.index]
    model = SlideSurvival(pick(cohort, train), shown, **(SMALL | kwargs))
    model.train(**LEARN)
    result = model.predict(pick(cohort, test), level="patient", patients=test["patient"])
    truth = test.drop_duplicates("patient").set_index("patient").loc[result.index]
    return c_index(truth["time"], truth["event"], result["risk"]), model


def permuted(cohort: Any) -> pd.DataFrame:
    """Give patients each other's outcomes, evenly mixed over the burden.

    A few dozen labels drawn at random may agree with the truth by chance; golden-ratio steps do not.
    """
    first = cohort.clinical.drop_duplicates("patient").set_index("patient").sort_values("burden")
    order = np.argsort(np.arange(len(first)) * 0.618034 % 1)
    shuffled = first.iloc[order].set_axis(first.index, axis=0)
    table = shuffled.loc[cohort.clinical["patient"]].reset_index()
    return table.set_axis(cohort.clinical.index, axis=0)


def test_the_class_and_its_tiles_are_found_on_unseen_patients(cohort: Any) -> None:
    auroc, model = classify(cohort)
    assert auroc >= 0.9
    _, test = halves(cohort)
    assert enrichment(model.get_attention(pick(cohort, test)), cohort.causal) > 1.5


def test_survival_is_found_on_unseen_patients(cohort: Any) -> None:
    c, model = survive(cohort)
    assert c >= 0.75
    _, test = halves(cohort)
    assert enrichment(model.get_attention(pick(cohort, test)), cohort.causal) > 1.3


@pytest.mark.slow
def test_discrete_survival_is_found_on_unseen_patients(cohort: Any) -> None:
    assert survive(cohort, loss="discrete", dropout=0.4)[0] >= 0.75


@pytest.mark.slow
def test_nothing_is_found_where_outcomes_are_permuted(cohort: Any) -> None:
    clinical = permuted(cohort)
    assert 0.3 < classify(cohort, clinical)[0] < 0.7
    assert 0.35 < survive(cohort, clinical)[0] < 0.65


@pytest.mark.parametrize("Model", [SlideClassifier, SlideSurvival])
@pytest.mark.parametrize("unit", ["patient", "slide"])
def test_a_model_is_saved_and_repeated_exactly(
    few: Any, tmp_path: Any, Model: Any, unit: str
) -> None:
    state = torch.get_rng_state()
    models = [Model(few.slides, few.clinical, unit=unit, **QUICK) for _ in range(2)]
    for model in models:
        model.train(2, **TRAIN)
    assert torch.equal(torch.get_rng_state(), state)
    first = models[0].predict(level="patient")
    pd.testing.assert_frame_equal(first, models[1].predict(level="patient"))
    assert first.index.tolist() == few.clinical["patient"].unique().tolist()
    assert set(first["split"]) == {"train", "validation"}
    assert {"train_loss", "validation_loss"} <= set(models[0].history)
    models[0].save(tmp_path / "model")
    with pytest.raises(OutputExistsError):
        models[0].save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "history.csv", "model.json", "model.safetensors",
    ]  # fmt: skip
    loaded = Model.load(tmp_path / "model")
    again = loaded.predict(few.slides, level="patient", patients=few.clinical["patient"])
    pd.testing.assert_frame_equal(again, first.drop(columns="split"))
    if Model is SlideSurvival:
        pd.testing.assert_frame_equal(
            loaded.predict_survival([5, 50], few.slides), models[0].predict_survival([5, 50])
        )
    attached = Model.load(tmp_path / "model", few.slides, few.clinical)
    pd.testing.assert_frame_equal(attached.predict(level="patient"), first)
    attached.train(1, **TRAIN)
    assert len(attached.history["train_loss"]) == 3
    with pytest.raises(InputValueError, match="without slides"):
        loaded.predict()
    other = SlideSurvival if Model is SlideClassifier else SlideClassifier
    with pytest.raises(InputValueError, match=f"holds a {Model.__name__}"):
        other.load(tmp_path / "model")


def test_attention_is_written_into_the_tables_and_nothing_else(few: Any) -> None:
    before = {name: sdata["table"].copy() for name, sdata in few.slides.items()}
    for sdata in few.slides.values():
        SlideClassifier.setup_spatialdata(sdata, feature_key="X_features")
    model = SlideClassifier(few.slides, few.clinical, **QUICK)
    with pytest.raises(NotTrainedError):
        model.annotate()
    model.train(1, **TRAIN)
    model.annotate()
    weights = model.get_attention()
    for name, sdata in few.slides.items():
        table = sdata["table"]
        column = table.obs["slide_classifier_attention"]
        np.testing.assert_array_equal(column, weights[name])
        assert column.sum() == pytest.approx(1, abs=1e-5)
        assert table.uns["slide_classifier_params"]["network"]["pooling"] == "attention"
        assert set(table.obs) - set(before[name].obs) == {"slide_classifier_attention"}
        pd.testing.assert_frame_equal(table.obs[list(before[name].obs)], before[name].obs)
    model.annotate()
    table.obs["mine_attention"] = 1.0
    with pytest.raises(InputValueError, match="not written by this package"):
        model.annotate(key_added="mine")
    with pytest.raises(InputTypeError, match="ArrayBag, which has no table"):
        model.annotate([ArrayBag("a", np.zeros((3, 8), np.float32))])


@pytest.fixture(autouse=True)
def _features_are_found(request: Any) -> None:
    if "few" in request.fixturenames:
        few = request.getfixturevalue("few")
        for sdata in few.slides.values():
            SlideClassifier.setup_spatialdata(sdata, feature_key="X_features")


def test_a_patient_is_the_pool_or_the_mean_of_its_slides(few: Any) -> None:
    patient, n = few.clinical["patient"].value_counts().index[0], 2
    names = few.clinical.index[few.clinical["patient"] == patient]
    assert len(names) == n
    for unit in ("patient", "slide"):
        model = SlideSurvival(few.slides, few.clinical, unit=unit, pooling="mean", **QUICK)
        model.train(1, **TRAIN)
        together = model.predict(level="patient").loc[patient, "risk"]
        alone = model.predict().loc[names, "risk"].to_numpy()
        sizes = np.array([TableBag(name, few.slides[name], model.setup).n_tiles for name in names])
        # With mean pooling and a linear head, pooling weighs slides by their tiles.
        weights = sizes / sizes.sum() if unit == "patient" else np.full(n, 1 / n)
        assert together == pytest.approx(alone @ weights, rel=1e-4)


def test_survival_curves_fall_from_one_and_follow_the_risk(few: Any) -> None:
    for loss in ("cox", "discrete"):
        model = SlideSurvival(few.slides, few.clinical, loss=loss, n_intervals=3, **QUICK)
        model.train(3, **TRAIN)
        curves = model.predict_survival([0.0, 5.0, 20.0, 80.0, 1e6])
        values = curves.to_numpy()
        np.testing.assert_array_equal(values[:, 0], 1)
        assert (np.diff(values, axis=1) <= 0).all()
        assert (values[:, 2] < 1).all()
        risk = model.predict()["risk"].to_numpy()
        if loss == "cox":
            order = np.argsort(risk)
            assert (np.diff(values[order, 2]) <= 0).all()
            hazard = model.baseline.numpy()[-1] * np.exp(risk.astype(float))
            np.testing.assert_allclose(-np.log(values[:, -1]), hazard, rtol=1e-5)


class Broken:
    name, n_tiles, n_features = "broken", 5, 8

    def read(self, rows: Any = None) -> Any:
        raise OSError("truncated file")


BAD: dict[str, tuple[Any, str]] = {
    "unreadable": (Broken(), "'broken' cannot be read: truncated file"),
    "empty": (ArrayBag("empty", np.zeros((0, 8), np.float32)), "'empty' has no tiles"),
    "wide": (ArrayBag("wide", np.zeros((5, 9), np.float32)), "'wide' has 9 features"),
    "nan": (ArrayBag("nan", np.full((5, 8), np.nan, np.float32)), "'nan' has 5 of 5 tiles.*NaN"),
}


def test_bad_slides_are_named_and_the_run_stops_or_goes_on(few: Any) -> None:
    slides = {**few.slides, **{name: bag for name, (bag, _) in BAD.items()}}
    rows = few.clinical.iloc[[0] * len(BAD)].set_axis(list(BAD), axis=0)
    clinical = pd.concat([few.clinical, rows])
    with pytest.raises(InputValueError) as raised:
        SlideClassifier(slides, clinical, **QUICK)
    assert "4 problems" in str(raised.value)
    with pytest.warns(UserWarning) as caught:
        model = SlideClassifier(slides, clinical, on_error="warn", **QUICK)
    texts = [str(warning.message) for warning in caught]
    assert sum("left out" in text for text in texts) == 4
    assert all(name in str(raised.value) or name == "unreadable" for name in BAD)
    assert list(model.cohort.bags) == list(few.slides)
    model.train(1, **TRAIN)
    with pytest.warns(UserWarning, match="truncated file.*not predicted"):
        result = model.predict({"unreadable": Broken(), "good": few.slides["slide_0"]})
    assert result.loc["unreadable"].isna().all()
    assert result.loc["good"].notna().all()
    strict = SlideClassifier(few.slides, few.clinical, **QUICK)
    strict.train(1, **TRAIN)
    for bag, match in BAD.values():
        with pytest.raises(InputValueError, match=match):
            strict.predict([bag])


class Failing(ArrayBag):
    """Readable until it is not."""

    reads = 0

    def read(self, rows: Any = None) -> Any:
        Failing.reads += 1
        if Failing.reads > 2:
            raise OSError("connection lost")
        return super().read(rows)


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_slide_that_breaks_while_training_is_named(few: Any, on_error: Any) -> None:
    Failing.reads = 0
    bag = Failing("late", np.zeros((30, 8), np.float32))
    clinical = few.clinical.copy()
    clinical.loc["late"] = clinical.iloc[0].where(clinical.columns != "patient", "patient_x")
    model = SlideClassifier(
        {**few.slides, "late": bag}, clinical, on_error=on_error, validation_size=0.0, **QUICK
    )
    if on_error == "raise":
        with pytest.raises(InputValueError, match="'late' cannot be read: connection lost"):
            model.train(4, **TRAIN)
        return
    with pytest.warns(UserWarning, match="connection lost.*left out from here on"):
        model.train(4, **TRAIN)
    assert len(model.history["train_loss"]) == 4


def test_clinical_tables_are_joined_by_slide(few: Any) -> None:
    table = few.clinical.sample(frac=1, random_state=0).rename_axis("id").reset_index()
    table["who"] = table.pop("patient")
    extra = pd.concat([table, table.iloc[:1].assign(id="not scanned")])
    model = SlideClassifier(few.slides, extra, slide_key="id", patient_key="who", **QUICK)
    pd.testing.assert_series_equal(
        model.cohort.clinical["patient"], few.clinical["patient"], check_names=False
    )
    pd.testing.assert_series_equal(
        model.cohort.clinical["label"].astype(object), few.clinical["label"], check_names=False
    )


def test_faulty_clinical_tables_are_refused(few: Any) -> None:
    clinical, slides = few.clinical, few.slides
    with pytest.raises(
        InputTypeError, match="clinical is dict; a DataFrame with one row per slide"
    ):
        SlideClassifier(slides, clinical.to_dict())  # type: ignore[arg-type]
    with pytest.raises(InputKeyError, match="patient_key=None"):
        SlideClassifier(slides, clinical.drop(columns="patient"))
    with pytest.raises(InputKeyError, match="'grade'"):
        SlideClassifier(slides, clinical, label_key="grade")
    with pytest.raises(InputValueError, match="1 slides have no row.*slide_3"):
        SlideClassifier(slides, clinical.drop(index="slide_3"))
    with pytest.raises(InputValueError, match="more than one row.*slide_0"):
        SlideClassifier(slides, pd.concat([clinical, clinical.iloc[:1]]))
    holed = clinical.copy()
    holed.loc["slide_2", "label"] = None
    with pytest.raises(InputValueError, match="1 slides lack one of.*slide_2"):
        SlideClassifier(slides, holed)
    with pytest.warns(UserWarning, match="slide_2.*left out"):
        model = SlideClassifier(slides, holed, on_error="warn", **QUICK)
    assert "slide_2" not in model.cohort.bags
    with pytest.raises(InputValueError, match="have 1 class"):
        SlideClassifier(slides, clinical.assign(label="high"))
    with pytest.raises(InputTypeError, match="needs True"):
        SlideSurvival(slides, clinical.assign(event="dead"))
    with pytest.raises(InputValueError, match="not a positive number"):
        SlideSurvival(slides, clinical.assign(time=-1))
    with pytest.raises(InputValueError, match="no event was seen"):
        SlideSurvival(slides, clinical.assign(event=False))
    double = few.clinical["patient"].duplicated(keep=False)
    name = few.clinical.index[double][0]
    torn = clinical.copy()
    torn.loc[name, "label"] = "low" if torn.loc[name, "label"] == "high" else "high"
    with pytest.raises(InputValueError, match="different outcomes.*unit='slide'"):
        SlideClassifier(slides, torn)
    SlideClassifier(slides, torn, unit="slide", **QUICK)


@pytest.mark.parametrize(
    ("Model", "kwargs", "match"),
    [
        (SlideClassifier, {"pooling": "median"}, "'attention', 'transformer'"),
        (SlideClassifier, {"class_weight": "equal"}, "'balanced'"),
        (SlideClassifier, {"unit": "tile"}, "'patient', 'slide'"),
        (SlideClassifier, {"on_error": "skip"}, "'raise', 'warn'"),
        (SlideClassifier, {"validation_size": 1.0}, "below 1"),
        (SlideSurvival, {"loss": "weibull"}, "'cox', 'discrete'"),
        (SlideSurvival, {"ties": "exact"}, "'efron', 'breslow'"),
        (SlideSurvival, {"n_intervals": 1}, "at least 2"),
    ],
)
def test_unknown_options_are_refused(few: Any, Model: Any, kwargs: Any, match: str) -> None:
    with pytest.raises(InputValueError, match=match):
        Model(few.slides, few.clinical, **kwargs)


def test_classes_weigh_as_asked(few: Any) -> None:
    counts = few.clinical.drop_duplicates("patient")["label"].value_counts()
    model = SlideClassifier(few.slides, few.clinical, validation_size=0.0, **QUICK)
    expected = [counts.sum() / 2 / counts[name] for name in ("high", "low")]
    assert model.class_weight == pytest.approx(expected)
    own = SlideClassifier(few.slides, few.clinical, class_weight={"low": 1, "high": 3}, **QUICK)
    assert own.class_weight == [3, 1]
    with pytest.raises(InputKeyError, match="no entry for \\['high'\\]"):
        SlideClassifier(few.slides, few.clinical, class_weight={"low": 1}, **QUICK)


@pytest.mark.parametrize("weight", [{"low": 1, "hihg": 1, "high": 1}, {"low": -1, "high": 1}])
def test_weights_of_no_class_or_no_sense_are_refused(few: Any, weight: dict[str, float]) -> None:
    with pytest.raises((InputKeyError, InputValueError), match="class_weight"):
        SlideClassifier(few.slides, few.clinical, class_weight=weight, **QUICK)


@pytest.mark.parametrize(
    ("class_weight", "shares"),
    [
        ("balanced", [1 / 3, 1 / 3, 1 / 3]),
        (None, [0.75, 0.2, 0.05]),
        ({"a": 1, "b": 2, "c": 4}, [0.75 / 1.35, 0.4 / 1.35, 0.2 / 1.35]),
    ],
)
def test_what_a_class_pulls_in_an_epoch_is_its_weight(
    class_weight: Any, shares: list[float]
) -> None:
    """Batches of 16 often lack the rare class; with equal outputs a row's gradient is its weight."""
    labels = np.repeat(["a", "b", "c"], [60, 16, 4])
    bags = [ArrayBag(f"S{i}", np.random.default_rng(i).normal(size=(2, 3))) for i in range(80)]
    clinical = pd.DataFrame({"label": labels}, index=[bag.name for bag in bags])
    options = {"patient_key": None, "validation_size": 0.0, **QUICK}
    model = SlideClassifier(bags, clinical, class_weight=class_weight, **options)
    batches = BagDataModule(
        list(model._own_cohort().units.values()),
        model._targets(model._own_cohort().outcomes),
        train=np.arange(80),
        batch_size=16,
    ).train_dataloader()
    pulled, loss = np.zeros(3), 0.0
    for batch in batches:
        outputs = torch.zeros(len(batch["label"]), 3, requires_grad=True)
        value = model._objective(outputs, batch)
        value.backward()
        rows = outputs.grad.abs().sum(1).double()
        pulled += np.bincount(batch["label"], weights=rows, minlength=3)
        loss += float(value.detach()) / len(batches)
    np.testing.assert_allclose(pulled / pulled.sum(), shares, rtol=1e-5)
    assert loss == pytest.approx(np.log(3), rel=1e-5)


def test_a_saved_model_says_what_it_is(few: Any, tmp_path: Any) -> None:
    model = SlideClassifier(few.slides, few.clinical, **QUICK)
    model.train(1, **TRAIN)
    model.save(tmp_path / "model")
    record = json.loads((tmp_path / "model" / "model.json").read_text())
    assert record["outcome"]["classes"] == ["high", "low"]
    assert record["setup"]["feature_key"] == "X_features"
    assert set(record["split"].values()) == {"train", "validation"}
    assert "SlideClassifier (trained)" in repr(model)


def test_layers_are_matched_by_gene(make_slides: Any) -> None:
    slides = make_slides(6, n_spots=15, n_genes=6)
    rng = np.random.default_rng(0)
    for i, sdata in enumerate(slides):
        table = sdata["table"]
        table.layers["rankbygene"] = rng.normal(size=table.shape).astype("f4")
        if i % 2:
            sdata["table"] = table[:, ::-1].copy()
        SlideClassifier.setup_spatialdata(sdata, layer="rankbygene")
    clinical = pd.DataFrame(
        {"patient": range(6), "label": list("ababab")}, index=[f"slide_{i}_spots" for i in range(6)]
    )
    model = SlideClassifier(slides, clinical, validation_size=0.0, **QUICK)
    model.train(1, **TRAIN)
    assert model.setup.genes == tuple(slides[0]["table"].var_names)
    turned = model.cohort.bags["slide_1_spots"]
    table = slides[1]["table"][:, list(model.setup.genes)]
    np.testing.assert_array_equal(turned.read(), table.layers["rankbygene"])
    assert isinstance(replace(turned, name="again"), TableBag)


def test_large_bags_are_sampled_and_never_read_whole() -> None:
    largest = 0

    class Watched(ArrayBag):
        def read(self, rows: Any = None) -> Any:
            nonlocal largest
            largest = max(largest, self.n_tiles if rows is None else len(rows))
            return super().read(rows)

    rng = np.random.default_rng(0)
    bags = [Watched(f"s{i}", rng.normal(size=(9000, 4)).astype("f4")) for i in range(4)]
    clinical = pd.DataFrame({"label": list("abab")}, index=[bag.name for bag in bags])
    model = SlideClassifier(bags, clinical, patient_key=None, validation_size=0.0, **QUICK)
    model.train(2, max_tiles=100, **TRAIN)
    assert largest <= 2048
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict()
    assert largest == 4096


def _numbered(few: Any, patients: Any) -> Any:
    return few.clinical.assign(patient=patients)


def test_numbers_of_patients_stay_numbers_where_one_is_missing(few: Any) -> None:
    numbers = few.clinical["patient"].str.removeprefix("patient_").astype(int)
    expected = numbers.astype(str)
    holed = numbers.astype(float)
    holed["slide_1"] = np.nan
    with pytest.raises(InputValueError, match="1 slides lack one of.*slide_1"):
        SlideClassifier(few.slides, _numbered(few, holed), **QUICK)
    with pytest.warns(UserWarning, match="slide_1.*left out"):
        model = SlideClassifier(few.slides, _numbered(few, holed), on_error="warn", **QUICK)
    assert model.cohort.clinical["patient"].tolist() == expected.drop("slide_1").tolist()
    with pytest.raises(InputValueError, match="3 slides lack one of"):
        SlideClassifier(
            few.slides,
            _numbered(few, numbers.astype(str).where(np.arange(len(numbers)) > 2, "nan")),
            **QUICK,
        )
    # rows of a table with numbers as names are the slides of these names
    bags = {str(i): sdata for i, sdata in enumerate(few.slides.values())}
    table = _numbered(few, numbers).set_axis(np.arange(len(numbers), dtype=float), axis=0)
    model = SlideClassifier(bags, table, **QUICK)
    assert list(model.cohort.bags) == list(bags)
    assert model.cohort.clinical["patient"].tolist() == expected.tolist()
    table.index = [*table.index[:-1], np.nan]
    with pytest.raises(InputValueError, match="slides in the index.*are missing"):
        SlideClassifier(bags, table, **QUICK)


def test_patients_of_new_slides_are_named_and_none_is_called_nan(few: Any) -> None:
    model = SlideClassifier(few.slides, few.clinical, **QUICK)
    model.train(1, **TRAIN)
    names = list(few.slides)[:4]
    new = {name: few.slides[name] for name in names}
    patients = pd.Series([1.0, np.nan, 1.0, 2.0], index=names)
    with pytest.raises(InputValueError, match=rf"patient of 1 slides is not known.*{names[1]}"):
        model.predict(new, level="patient", patients=patients)
    patients.iloc[1] = 2
    with pytest.raises(InputValueError, match="level='slide' does not use them"):
        model.predict(new, patients=patients)
    assert model.predict(new, level="patient", patients=patients).index.tolist() == ["1", "2"]
    with pytest.raises(InputValueError, match="1 slides more than once"):
        twice = pd.concat([patients, patients.iloc[:1]])
        model.predict(new, level="patient", patients=twice)


def test_classes_have_the_order_of_numbers_or_of_categories(few: Any) -> None:
    grades = np.where(few.clinical["label"] == "high", 10, 2)
    for labels, classes in (
        (grades, ["2", "10"]),
        (grades.astype(float), ["2", "10"]),
        (grades.astype(str), ["2", "10"]),
        (pd.Categorical(grades.astype(str), ["10", "2"], ordered=True), ["10", "2"]),
        (grades == 10, ["False", "True"]),
    ):
        model = SlideClassifier(
            few.slides, few.clinical.assign(label=labels), class_weight=None, **QUICK
        )
        assert model.classes == classes
        codes = model._targets(model.cohort.outcomes)["label"]
        expected = [classes.index(str(label)) for label in model.cohort.outcomes["label"]]
        np.testing.assert_array_equal(codes, expected)
    table = few.clinical.assign(label=grades)
    model = SlideClassifier(few.slides, table, class_weight={"10": 3.0, "2": 1.0}, **QUICK)
    assert model.class_weight == [1.0, 3.0]
    model.train(1, **TRAIN)
    assert list(model.predict())[:2] == ["probability_2", "probability_10"]


def test_a_new_slide_of_a_held_out_patient_is_held_out_too(few: Any, tmp_path: Any) -> None:
    from spatialdata import deepcopy

    model = SlideClassifier(few.slides, few.clinical, validation_size=0.3, **QUICK)
    model.save(tmp_path / "model")
    owner = few.clinical.loc[model.split.index[model.split == "validation"][0]]
    later = deepcopy(next(iter(few.slides.values())))
    SlideClassifier.setup_spatialdata(later, feature_key="X_features")
    more = {"later": later, **few.slides}
    clinical = pd.concat([owner.to_frame("later").T, few.clinical])
    loaded = SlideClassifier.load(tmp_path / "model", more, clinical)
    assert loaded.split["later"] == "validation"
    assert loaded.split.drop("later").equals(model.split)
    train = model.split.index[model.split == "train"][0]
    clinical.loc[train, "patient"] = owner["patient"]
    clinical.loc[train, "label"] = owner["label"]
    with pytest.raises(InputValueError, match="trained on and others that it held out"):
        SlideClassifier.load(tmp_path / "model", more, clinical)


@pytest.mark.parametrize("Model", [SlideClassifier, SlideSurvival])
def test_features_are_where_the_call_says_and_stay_there(
    few: Any, Model: Any, tmp_path: Any
) -> None:
    from spatialdata import deepcopy

    slides = {name: deepcopy(sdata) for name, sdata in few.slides.items()}
    with pytest.raises(InputKeyError, match=r"say where they are with feature_key=..."):
        Model(slides, few.clinical)
    for sdata in slides.values():
        sdata["table"].obsm["X_other"] = 1 - sdata["table"].obsm["X_features"]
    model = Model(slides, few.clinical, feature_key="X_features", **QUICK)
    model.train(1, **TRAIN)
    expected = model.predict().drop(columns="split")
    # What another model is told of the same objects, or of new ones, does not change this one.
    Model.setup_spatialdata(slides, feature_key="X_other")
    pd.testing.assert_frame_equal(model.predict(slides), expected)
    model.save(tmp_path / "model")
    copies = {name: deepcopy(sdata) for name, sdata in slides.items()}
    Model.setup_spatialdata(copies, feature_key="X_other")
    for found in (model, Model.load(tmp_path / "model")):
        pd.testing.assert_frame_equal(found.predict(copies), expected, rtol=1e-4)
    with pytest.raises(InputValueError, match="two places for features"):
        Model(slides, few.clinical, feature_key="X_features", layer="X")


@pytest.mark.parametrize("cls", [SlideClassifier, SlideSurvival])
def test_a_resumed_training_is_the_unbroken_one(few: Any, cls: Any, tmp_path: Any) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    def trained(**kwargs: Any) -> Any:
        model = cls(few.slides, few.clinical, dropout=0.2, **QUICK)
        model.train(max_epochs=2, batch_size=3, max_tiles=12, **TRAIN, **kwargs)
        return model

    whole = trained(callbacks=[ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1)])
    for file in tmp_path.iterdir():
        resumed = trained(ckpt_path=file)
        for name, tensor in whole.module.state_dict().items():
            assert torch.equal(resumed.module.state_dict()[name], tensor), name
        for name, table in whole.history.items():
            pd.testing.assert_frame_equal(resumed.history[name], table)


@pytest.mark.parametrize("kind", [SlideClassifier, SlideSurvival])
@pytest.mark.parametrize(
    "monitor", ["validation_auroc", "validation_pearson", "train_loss", "valid_loss"]
)
def test_a_monitor_that_no_epoch_has_is_refused_with_the_list(
    few: Any, kind: Any, monitor: str
) -> None:
    model = kind(few.slides, few.clinical, **QUICK, validation_size=0.3)
    with pytest.raises(
        InputValueError, match=r"not known.*'validation_loss'.*validation_loss \(min\)"
    ):
        model.train(max_epochs=1, monitor=monitor, **TRAIN)
    assert not model.is_trained_
    unwatched = kind(few.slides, few.clinical, **QUICK, validation_size=0.0)
    with pytest.raises(InputValueError, match="nothing is held out"):
        unwatched.train(max_epochs=1, monitor=monitor, **TRAIN)
