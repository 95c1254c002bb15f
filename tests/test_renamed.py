from __future__ import annotations

import importlib
import math
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import rankbygene as rbg
from rankbygene._arguments import check_settings, checked
from rankbygene._renamed import renamed
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError
from rankbygene.methods._registry import class_of
from rankbygene.tl.cross_validation._identity import tell
from rankbygene.tl.cross_validation._methods import as_method, baseline, check_shared
from rankbygene.train import NH2STPlan, RankByGenePlan

# Of each method: its plan and network, weights by their names of before, and by those of today.
PLANS: dict[str, tuple[Any, Any, dict[str, float], dict[str, float]]] = {
    "rankbygene": (
        RankByGenePlan,
        rbg.module.RankByGeneModule,
        {"contrast": 0.5, "alpha": 3, "beta": 0.25, "gamma": 7},
        {"contrast": 0.5, "ranking": 3.0, "distillation": 0.25, "expression": 7.0},
    ),
    "nh2st": (
        NH2STPlan,
        rbg.module.NH2STModule,
        {"lambda_query": 0.5, "lambda_neighbour": 0.25, "gamma": 7},
        {"query": 0.5, "neighbour": 0.25, "expression": 7.0},
    ),
}


def make_plan(name: str, **settings: Any) -> Any:
    plan, module, _, _ = PLANS[name]
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return plan(module(network, n_features=3, n_genes=4), **settings)


def warned(call: Any) -> tuple[Any, list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = call()
    return result, [one for one in found if "later version" in str(one.message)]


@pytest.mark.parametrize("name", PLANS)
def test_weights_of_before_are_those_of_today_with_one_warning(name: str) -> None:
    _, _, before, today = PLANS[name]
    old, notes = warned(lambda: make_plan(name, **before))
    new, none = warned(lambda: make_plan(name, weights=today))
    assert old.weights == new.weights == today
    assert not none
    (note,) = notes
    assert note.category is DeprecationWarning
    assert note.filename == __file__
    assert all(term in str(note.message) for term in (*before, *today, "weights="))


@pytest.mark.parametrize("name", PLANS)
def test_weights_override_the_defaults_entry_by_entry(name: str) -> None:
    plan, _, before, _ = PLANS[name]
    assert make_plan(name).weights == make_plan(name, weights={}).weights == plan.default_weights
    for term in plan.default_weights:
        expected = {**plan.default_weights, term: 0.125}
        assert make_plan(name, weights={term: 0.125}).weights == expected
    assert set(make_plan(name).monitors()) >= {f"validation_{term}" for term in expected}
    old = next(iter(before))
    both = {"weights": {"expression": 1.0}, old: 1.0}
    with pytest.raises(InputTypeError, match=f"{old} is the name of before.*weights"):
        make_plan(name, **both)
    with pytest.raises(InputTypeError, match=f"plan_kwargs: {old} is the name of before"):
        check_settings(plan, both, "plan_kwargs")


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [
        ({"expresion": 1.0}, InputKeyError, "'expresion'.*expression.*did you mean 'expression'"),
        (
            {"expression": -1.0},
            InputValueError,
            r"\['expression'\] is -1.0; a number of at least 0",
        ),
        ({"expression": math.nan}, InputValueError, "is nan"),
        ({"expression": math.inf}, InputValueError, "is inf"),
        ({"expression": "1"}, InputTypeError, "a number"),
        ({"expression": True}, InputTypeError, "a number"),
        ([1.0], InputTypeError, "a mapping"),
    ],
)
def test_weights_that_are_none_are_refused(
    name: str, weights: Any, error: type[Exception], text: str
) -> None:
    plan, _, _, _ = PLANS[name]
    with pytest.raises(error, match=text):
        make_plan(name, weights=weights)
    with pytest.raises(error, match=text):
        check_settings(plan, {"weights": weights}, "plan_kwargs")


@pytest.mark.parametrize("name", PLANS)
def test_a_loss_without_any_weight_is_refused(name: str) -> None:
    plan, _, before, _ = PLANS[name]
    with pytest.raises(InputValueError, match="nothing would be learned"):
        make_plan(name, weights=dict.fromkeys(plan.default_weights, 0))
    old = next(iter(before))
    with (
        pytest.raises(InputValueError, match="is -1"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        make_plan(name, **{old: -1})


def test_a_plan_may_hand_on_its_terms_or_declare_them() -> None:
    class Declared(rbg.train.SpotPlan):
        default_weights: ClassVar[dict[str, float]] = {"expression": 1.0, "own": 2.0}
        losses = judge = None  # type: ignore[assignment]

        def __init__(self, weights: Any = None) -> None:
            network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            module = rbg.module.RankByGeneModule(network, n_features=3, n_genes=4)
            how: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.0, "warmup": None}
            super().__init__(module, weights=weights, chunk_size=None, seed=0, **how)

    class HandedOn(Declared):
        default_weights: ClassVar[dict[str, float]] = {}

    assert Declared({"own": 3}).weights == {"expression": 1.0, "own": 3.0}
    with pytest.raises(InputKeyError, match="did you mean 'own'"):
        Declared({"owm": 3})
    assert HandedOn({"own": 3}).weights == {"own": 3.0}
    assert set(HandedOn({"own": 3}).monitors()) == {"validation_loss", "validation_own"}


@pytest.mark.parametrize("name", PLANS)
def test_methods_are_the_same_by_either_spelling(name: str) -> None:
    _, _, before, today = PLANS[name]
    old, notes = warned(
        lambda: rbg.tl.ModelMethod(name, train_kwargs={"plan_kwargs": {**before, "lr": 0.1}})
    )
    new = rbg.tl.ModelMethod(name, train_kwargs={"plan_kwargs": {"weights": today, "lr": 0.1}})
    assert old == new
    assert tell(old) == tell(new)
    assert len(notes) == 1
    assert notes[0].filename == __file__


def test_shared_weights_are_filled_in_entry_by_entry_and_warned_of_once() -> None:
    own = rbg.tl.ModelMethod(train_kwargs={"plan_kwargs": {"weights": {"ranking": 0.0}}})
    shared = {"plan_kwargs": {"contrast": 0.3, "alpha": 0.3, "lr": 0.1}, "max_epochs": 2}

    def judged() -> list[Any]:
        model, train = check_shared({}, shared)
        one = as_method({"own": own}["own"], model, train)
        return [one, as_method("rankbygene", model, train), baseline("supervised", model, train)]

    (filled, plain, supervised), notes = warned(judged)
    assert len(notes) == 1
    expected = {"weights": {"contrast": 0.3, "ranking": 0.0}, "lr": 0.1}
    assert filled.train_kwargs == {"plan_kwargs": expected, "max_epochs": 2}
    assert plain.train_kwargs["plan_kwargs"]["weights"] == {"contrast": 0.3, "ranking": 0.3}
    # The losses of one method are none of another's.
    assert supervised.method == "stnet"
    assert supervised.train_kwargs["plan_kwargs"] == {"lr": 0.1}
    filled, notes = warned(lambda: own.over({}, shared))
    assert filled.train_kwargs["plan_kwargs"] == expected
    assert len(notes) == 1


def test_a_fit_by_either_spelling_is_the_same(make_slides: Any, fit_tiny: Any) -> None:
    slides = make_slides(2)
    found = []
    for plan in ({"alpha": 0, "beta": 0}, {"weights": {"distillation": 0, "ranking": 0}}):
        train = {
            "batch_size": 16,
            "accelerator": "cpu",
            "precision": "32-true",
            "enable_progress_bar": False,
            "plan_kwargs": plan,
        }
        model, notes = warned(lambda train=train: fit_tiny(slides, train_kwargs=train))
        assert len(notes) == ("alpha" in plan)
        found.append((model.module.state_dict(), model.training_params, set(model.history)))
    (one, params, history), (other, others, _) = found
    assert params == others
    assert params["weights"] == {"ranking": 0.0, "distillation": 0.0}
    assert not {"train_ranking", "train_distillation"} & history
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", PLANS)
def test_orientations_of_before_are_those_of_today(
    name: str, make_slides: Any, tmp_path: Path
) -> None:
    cls, settings = class_of(name), {"genes": 4, "seed": 1, "tile_px": 32}
    slides = make_slides(1)
    cls.setup_spatialdata(slides)
    tiny = {"backbone": "test_resnet", "pretrained": False, **settings}
    old, notes = warned(lambda: cls(slides, **tiny, views=1))
    new, none = warned(lambda: cls(slides, **tiny, tta=1))
    assert old.module_kwargs == new.module_kwargs
    assert (len(notes), len(none), notes[0].filename) == (1, 0, __file__)
    with pytest.raises(InputTypeError, match="views is the name of before"):
        cls(slides, **tiny, views=1, tta=1)
    one, notes = warned(lambda: rbg.tl.ModelMethod(name, model_kwargs={"views": 1}))
    assert one == rbg.tl.ModelMethod(name, model_kwargs={"tta": 1})
    assert len(notes) == 1
    images = torch.rand(2, 3, 32, 32)
    call = old.module.represent if name == "rankbygene" else old.module.image_features
    found, notes = warned(lambda: call(images, views=1))
    torch.testing.assert_close(found, call(images, tta=1))
    assert len(notes) == 1
    # Saved by an earlier version.
    old.module_kwargs["views"] = old.module_kwargs.pop("tta")
    old.save(tmp_path / "m")
    loaded, notes = warned(lambda: cls.load(tmp_path / "m"))
    assert loaded.module_kwargs == new.module_kwargs
    assert not notes


@pytest.mark.parametrize(
    ("package", "today"),
    [("train", "NH2ST_RELEASED_PLAN"), ("module", "NH2ST_RELEASED_MODULE")],
)
def test_the_released_settings_of_nh2st_have_a_name_each(package: str, today: str) -> None:
    face = importlib.import_module(f"rankbygene.{package}")
    assert today in face.__all__
    assert "NH2ST_RELEASED" not in face.__all__
    old, notes = warned(lambda: face.NH2ST_RELEASED)
    assert old is getattr(face, today)
    assert [one.filename for one in notes] == [__file__]
    assert f"rankbygene.{package}.{today}" in str(notes[0].message)
    scope: dict[str, Any] = {}
    _, notes = warned(lambda: exec(f"from rankbygene.{package} import NH2ST_RELEASED", scope))
    assert scope["NH2ST_RELEASED"] is old
    assert len(notes) == 1


def test_groups_of_spots_were_called_patches() -> None:
    old, notes = warned(lambda: rbg.data.compact_patches)
    assert old is rbg.data.compact_groups
    assert len(notes) == 1
    one, notes = warned(lambda: rbg.tl.ModelMethod("nh2st", train_kwargs={"patch_size": 8}))
    assert one == rbg.tl.ModelMethod("nh2st", train_kwargs={"group_size": 8})
    assert len(notes) == 1
    size = {"batch_size": 8, "patch_size": 9}
    centers = [np.random.default_rng(0).normal(size=(16, 2))]
    bank = rbg.data.ExpressionBank(
        np.zeros((16, 2), np.float32), np.ones((1, 2), bool), np.zeros(16, int), ("a", "b"), ("s",)
    )
    tiles, split = np.zeros((16, 3, 8, 8), np.uint8), {"train": np.arange(16)}
    with pytest.raises(InputValueError, match="group_size is 9; between 1 and batch_size=8"):
        warned(lambda: rbg.data.NeighbourhoodDataModule(tiles, bank, split, centers, **size))


def test_no_two_public_things_have_one_name() -> None:
    found: dict[str, dict[int, str]] = {}
    for name in sorted(set(rbg.__all__) - {"__version__"}):
        package = getattr(rbg, name)
        for public in package.__all__:
            found.setdefault(public, {})[id(getattr(package, public))] = f"{name}.{public}"
    assert not [things for things in found.values() if len(things) > 1]


def test_a_renamed_argument_reaches_the_function_by_its_name_of_today() -> None:
    @checked
    @renamed(old="new")
    def function(*, new: int = 1) -> int:
        return new

    result, notes = warned(lambda: function(old=3))
    assert result == 3
    assert [str(one.message) for one in notes] == ["old will go in a later version; write new=3"]
    settings, notes = warned(lambda: check_settings(function, {"old": 3}, "settings"))
    assert settings == {"new": 3}
    assert str(notes[0].message).startswith("settings: old will go")
    with pytest.raises(InputTypeError, match="both are given; leave out old"):
        function(old=1, new=1)  # type: ignore[call-arg]
    with pytest.raises(InputTypeError, match="no argument 'other'; it takes new"):
        function(other=1)  # type: ignore[call-arg]
