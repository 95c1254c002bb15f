"""What the docstrings and the page on slides print can be run as it stands."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import inspect
import io
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

import rankbygene as rbg
from rankbygene.methods._registry import public_names

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SUBPACKAGES = sorted(set(rbg.__all__) - {"__version__"})
# Examples that train an image encoder are run elsewhere in small; others need files of the reader's.
NOT_RUN = {
    **dict.fromkeys(
        (f"rbg.model.{name}" for name in public_names("model")), "trains a ResNet-18 for 20 epochs"
    ),
    "rbg.model.pretrain": "trains a ResNet-18",
    "rbg.tl.cross_validate": "trains a model per fold",
    "rbg.tl.EnsembleMethod": "goes on from the example of cross_validate",
    "rbg.tl.NestedSelection": "goes on from the example of cross_validate",
    "rbg.tl.ModelMethod": "prints the object",
    "rbg.io.H5Bag": "needs a file",
    "rbg.io.read_wsi": "needs a file",
    "rbg.io.read_bag_h5": "needs a file",
    "rbg.io.repair_store": "needs a store",
    "rbg.datasets.tcga_clinical": "needs a table of the portal",
}


def examples() -> dict[str, list[doctest.Example]]:
    """Examples of all public things and of their methods, by name."""
    found: dict[str, list[doctest.Example]] = {}
    parser = doctest.DocTestParser()
    for package in SUBPACKAGES:
        module = importlib.import_module(f"rankbygene.{package}")
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            members = inspect.getmembers(thing, callable) if inspect.isclass(thing) else []
            own = [(f".{k}", v) for k, v in members if k[0] != "_" and _is_ours(v)]
            for suffix, value in [("", thing), *own]:
                parsed = parser.get_examples(inspect.getdoc(value) or "")
                if parsed:
                    found.setdefault(f"rbg.{package}.{name}{suffix}", parsed)
    return found


def _is_ours(member: Any) -> bool:
    return str(getattr(member, "__module__", "")).startswith("rankbygene")


EXAMPLES = examples()


def test_what_is_not_run_exists() -> None:
    assert set(NOT_RUN) <= set(EXAMPLES)
    assert {"rbg.model.SlideClassifier", "rbg.model.SlideSurvival"} <= set(EXAMPLES) - set(NOT_RUN)


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - set(NOT_RUN)))
def test_an_example_runs_and_prints_what_it_says(name: str) -> None:
    _, package, thing, *_ = name.split(".")
    module = importlib.import_module(f"rankbygene.{package}")
    names: dict[str, Any] = {"rbg": rbg, "np": np, thing: getattr(module, thing)}
    checker = doctest.OutputChecker()
    for example in EXAMPLES[name]:
        assert not example.options.get(doctest.SKIP), f"{name}: name the reason in NOT_RUN"
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(example.source, name, "single"), names)
        if example.want:
            assert checker.check_output(example.want, out.getvalue(), doctest.ELLIPSIS), name


def test_the_page_on_slides_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mpl.use("agg", force=True)
    monkeypatch.chdir(tmp_path)
    for kind in (rbg.model.SlideClassifier, rbg.model.SlideSurvival):
        plain = kind.train

        def train(model: Any, *args: Any, plain: Any = plain, **kwargs: Any) -> None:
            plain(model, max_epochs=1, enable_progress_bar=False)

        monkeypatch.setattr(kind, "train", train)
    (compare,) = (
        code
        for code in BLOCK.findall((DOCS / "user_guide/slides.md").read_text())
        if "cross_validate_slides" in code
    )
    blocks = BLOCK.findall((DOCS / "user_guide/slides.md").read_text())
    cohort = rbg.datasets.synthetic_cohort(n_patients=24, n_tiles=12, seed=1)
    new = rbg.datasets.synthetic_cohort(n_patients=30, n_tiles=12, seed=2)
    sdata = rbg.datasets.synthetic(n_slides=1, n_spots=40, n_genes=20)[0]
    n = sdata["table"].n_obs
    weights = np.arange(1, n + 1) / (n * (n + 1) / 2)
    sdata["table"].obs["slide_classifier_attention"] = weights
    names: dict[str, Any] = {
        "slides": cohort.slides,
        "clinical": cohort.clinical,
        "new_slides": new.slides,
        "new_clinical": new.clinical,
        "patient_of_slide": new.clinical["patient"],
        "sdata": sdata,
    }
    for code in blocks:
        if code == compare:
            continue  # run with its own sizes in the tests of cross_validate_slides
        if "annotate()" in code:
            names["model"] = rbg.model.SlideClassifier(cohort.slides, cohort.clinical)
            names["model"].train()
        exec(compile(code.replace("n_patients=120", "n_patients=24"), "slides.md", "exec"), names)
