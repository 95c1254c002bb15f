"""The page on methods of one's own: its code runs, from a script and from a package that is installed."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rankbygene as rbg
from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.methods import _registry

PAGE = Path(__file__).parents[2] / "docs" / "user_guide" / "add_a_method.md"
TRAIN: dict[str, Any] = {
    "batch_size": 16,
    "accelerator": "cpu",
    "precision": "32-true",
    "enable_progress_bar": False,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def nothing_registered() -> Iterator[None]:
    """Leave the registry as it was, and look for installed methods anew."""
    before = dict(_registry._registered)
    _registry._installed.cache_clear()
    yield
    _registry._registered.clear()
    _registry._registered.update(before)
    _registry._installed.cache_clear()
    _registry._loaded.cache_clear()


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_registered: None
) -> Iterator[Path]:
    """A folder that Python imports from, with the page's method in it."""
    (tmp_path / "my_methods.py").write_text(blocks("python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_methods", None)


def install(folder: Path, entry: str) -> None:
    """Write what an installer leaves of a package."""
    info = folder / "my_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-methods\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{_registry.GROUP}]\n{entry}\n")
    importlib.invalidate_caches()
    _registry._installed.cache_clear()


def help_of_fit(path: list[str]) -> str:
    code = (
        f"import sys; sys.path[:] = {path}\nfrom rankbygene.cli import app\napp(['fit', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_code_of_the_page_is_a_method(
    folder: Path, make_slides: Callable[..., list[Any]], tmp_path: Path
) -> None:
    mine: Any = importlib.import_module("my_methods")
    assert _registry.class_of("huber") is mine.Huber
    assert "n_hidden" in mine.Huber.__doc__
    assert "backbone" in mine.Huber.__doc__
    slides = make_slides()
    model = rbg.model.fit(
        slides,
        method="huber",
        backbone="test_resnet",
        pretrained=False,
        genes=12,
        max_epochs=1,
        model_kwargs={"tile_px": 32, "n_hidden": 8},
        train_kwargs={**TRAIN, "plan_kwargs": {"delta": 0.5}},
    )
    assert isinstance(model, mine.Huber)
    assert model.training_params["delta"] == 0.5
    assert {"train_expression", "validation_pearson"} <= set(model.history)
    predicted = [np.asarray(slide.tables["table"].layers["huber"]) for slide in slides]
    assert all(np.isfinite(values[:, :12]).any() for values in predicted)
    model.save(tmp_path / "model")
    loaded = rbg.model.load(tmp_path / "model")
    assert type(loaded) is mine.Huber
    assert loaded.module_kwargs == {"n_hidden": 8}
    for own, again in zip(
        model.get_normalized_expression(slides).values(),
        loaded.get_normalized_expression(slides).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(own, again)
    with pytest.raises(InputValueError, match="Huber has no representation of the profile"):
        model.get_latent_representation(modality="gene")
    judged = rbg.tl.ModelMethod("huber", model_kwargs={"n_hidden": 4})
    assert judged.model_kwargs == {"n_hidden": 4}
    # Annotations are read where they were not kept as text, too.
    with pytest.raises(InputValueError, match="n_hidden.* is 0"):
        rbg.tl.ModelMethod("huber", model_kwargs={"n_hidden": 0})
    for wrong in ({"model_kwargs": {"n_hiden": 4}}, {"train_kwargs": {"plan_kwargs": {"dlta": 1}}}):
        with pytest.raises(InputTypeError, match="did you mean '(n_hidden|delta)'"):
            rbg.tl.ModelMethod("huber", **wrong)  # type: ignore[arg-type]
    _registry._registered.clear()
    with pytest.raises(InputValueError, match="holds a Huber, which is no method that is known"):
        rbg.model.load(tmp_path / "model")


def test_the_loss_of_the_page_by_hand(folder: Path) -> None:
    mine: Any = importlib.import_module("my_methods")
    scale = {"pixel_mean": (0.5, 0.5, 0.5), "pixel_std": (0.2, 0.2, 0.2)}
    module = mine.HuberModule(torch.nn.Identity(), n_features=3, n_genes=3, n_hidden=2, **scale)
    torch.nn.init.zeros_(module.predictor[2].weight)
    torch.nn.init.zeros_(module.predictor[2].bias)
    batch = {
        "expression": torch.tensor([[0.5, 3.0, torch.nan]]),
        "measured": torch.tensor([[True, True, False]]),
    }
    loss = mine.HuberPlan(module).terms(torch.ones(1, 3), batch)["expression"]
    assert float(loss.detach()) == pytest.approx((0.5**2 / 2 + (3 - 0.5)) / 2)
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.predictor.parameters())


def test_an_installed_package_is_found_without_being_imported(folder: Path) -> None:
    (snippet,) = blocks("toml")
    assert snippet.splitlines()[0] == f'[project.entry-points."{_registry.GROUP}"]'
    install(folder, snippet.splitlines()[1].replace('"', ""))
    assert _registry.names()[-1] == "huber"
    assert "my_methods" not in sys.modules
    found = _registry.known_class("Huber")
    assert found is not None
    assert found is sys.modules["my_methods"].Huber
    assert _registry.class_of("huber") is found
    assert rbg.tl.ModelMethod("huber").method == "huber"
    assert "huber" in help_of_fit(sys.path)
    assert "huber" not in help_of_fit([path for path in sys.path if path != str(folder)])


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("broken = no_such_module:Thing", "No module named 'no_such_module'"),
        ("broken = my_methods:Missing", "no attribute 'Missing'"),
        ("broken = my_methods:HuberModule", "takes a subclass of rankbygene.base.SpotModel"),
    ],
)
def test_an_entry_that_cannot_be_loaded_is_named(folder: Path, entry: str, why: str) -> None:
    install(folder, entry)
    value = entry.partition(" = ")[2]
    with pytest.raises(InputValueError, match=f"'broken' .*{re.escape(value)}.* cannot .*{why}"):
        rbg.tl.ModelMethod("broken")
    # It is in nobody else's way.
    assert _registry.class_of("stnet") is rbg.model.STNet
    assert rbg.tl.ModelMethod("stnet").method == "stnet"


def test_register_says_what_is_wrong(folder: Path) -> None:
    mine: Any = importlib.import_module("my_methods")
    register = rbg.model.register
    for other in (SimpleNamespace(method="x"), int, mine.HuberModule, "huber"):
        with pytest.raises(InputTypeError, match="takes a subclass of rankbygene"):
            register(other)  # type: ignore[type-var]

    class Bare(rbg.base.SpotModel):
        method = "bare"

        @abstractmethod
        def more(self) -> None: ...

    with pytest.raises(InputTypeError, match="Bare does not define _apply, _build_module, .*more"):
        register(Bare)

    for name in ("", "Huber2", "two words", "nine-lives", 5, None):
        cls = type("Named", (mine.Huber,), {"method": name})
        with pytest.raises(InputValueError, match=re.escape(f"Named.method is {name!r}")):
            register(cls)
    for name in ("stnet", "rankbygene", "huber"):
        cls = type("Taken", (mine.Huber,), {"method": name})
        with pytest.raises(InputValueError, match=f"named '{name}' is there already"):
            register(cls)
    # A cell of a notebook that is run again, and a script that is imported again, are no other method.
    again = importlib.reload(mine).Huber
    assert _registry.class_of("huber") is again is not mine.HuberModule
