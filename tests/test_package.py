from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path

import pytest

import rankbygene
from rankbygene import errors

ROOT = Path(__file__).parents[1]
SUBPACKAGES = sorted(set(rankbygene.__all__) - {"__version__"})
HEAVY = {"torch", "scvi", "scanpy", "anndata", "spatialdata", "matplotlib", "timm", "lightning"}


def test_import_is_light_and_quick() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import rankbygene; rankbygene.__version__\n"
        "print(time.perf_counter() - start, *sys.modules)"
    )
    # The quickest of three: other programs on the machine must not fail this test.
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        time, *modules = done.stdout.split()
        seconds.append(float(time))
        assert not HEAVY & set(modules)
    assert min(seconds) < 0.3


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_subpackages_are_found_lazily_and_name_their_public_things(name: str) -> None:
    package = getattr(rankbygene, name)
    assert name in dir(rankbygene)
    missing = [public for public in package.__all__ if not hasattr(package, public)]
    assert not missing


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'models'"):
        rankbygene.models  # noqa: B018


def test_version_is_the_metadata_version() -> None:
    assert rankbygene.__version__ == version("rankbygene")


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        ("InputValueError", ValueError),
        ("InputKeyError", KeyError),
        ("InputTypeError", TypeError),
        ("BackboneError", RuntimeError),
        ("TrainingError", RuntimeError),
        ("NotTrainedError", RuntimeError),
        ("OutputExistsError", FileExistsError),
        ("OutputFailedError", OSError),
    ],
)
def test_errors_are_one_family_and_a_builtin_each(error: str, builtin: type[Exception]) -> None:
    kind = getattr(errors, error)
    assert issubclass(kind, errors.RankByGeneError)
    assert issubclass(kind, builtin)
    assert str(kind("two\nlines")) == "two\nlines"


def test_problems_report_everything_at_once() -> None:
    problems = errors.Problems("slide 'A'")
    for text in ("first", "second"):
        with problems.collect():
            raise errors.InputKeyError(text)
    with pytest.raises(
        errors.InputKeyError, match=r"slide 'A': 2 problems\n  1. first\n  2. second"
    ):
        problems.raise_if_any()


def test_problems_let_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), errors.Problems().collect():
        1 / 0  # noqa: B018


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_public_names_are_documented(name: str) -> None:
    written = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")]
    pages = "\n".join(page for page in written if "autosummary" in page)
    listed = set(re.findall(r"^ +([a-z_.]+\.[A-Za-z_]\w*)$", pages, re.MULTILINE))
    package = importlib.import_module(f"rankbygene.{name}")
    # What several faces show is described once.
    described = {id(attrgetter(path)(rankbygene)) for path in listed}
    things = {public: getattr(package, public) for public in package.__all__}
    wanted = {k: v for k, v in things.items() if inspect.isclass(v) or inspect.isfunction(v)}
    assert [public for public, thing in wanted.items() if id(thing) not in described] == []


def test_extras_repeat_the_dependency_groups() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    assert extras["doc"] == groups["doc"]
    assert set(groups["test"]) | set(groups["typecheck"]) <= set(extras["test"])


def test_training_needs_neither_spatialdata_nor_scvi() -> None:
    """As the benchmarks run on a machine that has PyTorch, timm and Lightning only."""
    missing = ["spatialdata", "anndata", "scanpy", "scvi", "dask", "zarr", "geopandas", "shapely"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({missing}))
sys.path.insert(0, "benchmarks")
import _spots
_spots.bare_packages()
import rankbygene.data.batches._datamodule, rankbygene.base._inference
from rankbygene import module, train
for face in (module, train):
    for name in face.__all__:
        getattr(face, name)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_glossary_says_each_word_once_and_names_what_there_is() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^([a-z][a-z, -]*)$", page, re.MULTILINE)
    assert {
        "bank",
        "part",
        "piece",
        "share",
        "block",
        "chunk",
        "tile",
        "patch",
        "view",
        "tta",
    } <= set(words)
    assert {"panel", "latent", "frame", "bag", "cohort", "group"} <= set(words)
    assert len(words) == len(set(words))
    for path in re.findall(r"\{(?:class|func|meth)\}`rankbygene\.([\w.]+)`", page):
        found: object = rankbygene
        for name in path.split("."):
            found = getattr(found, name)
