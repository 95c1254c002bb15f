"""Every public callable refuses odd arguments by name, or works with them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

# Those whose calls need no trained model.
PACKAGES = ("metrics", "nn", "module", "train", "datasets")
CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "arguments.py"


@pytest.fixture(scope="module")
def arguments() -> ModuleType:
    spec = importlib.util.spec_from_file_location("arguments_campaign", CAMPAIGN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_public_callable_is_tried_or_left_out_with_a_reason(arguments: ModuleType) -> None:
    known = {*arguments.calls(), *arguments.LEFT_OUT}
    assert sorted(set(arguments.public()) - known) == []


def test_calls_with_nothing_odd_work_so_that_a_refusal_says_something(
    arguments: ModuleType,
) -> None:
    names = arguments.names_of(PACKAGES)
    assert set(arguments.refused_unchanged(names)) == arguments.NO_FILE & set(names)


def test_odd_arguments_are_refused_or_work(arguments: ModuleType) -> None:
    before = set(Path.cwd().iterdir())
    cases = arguments.campaign(8, PACKAGES)
    assert set(Path.cwd().iterdir()) == before
    assert len(cases) >= 1000
    wrong = [case for case in cases if case.outcome in ("foreign", "silent")]
    assert wrong == []
