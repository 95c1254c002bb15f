"""Odd slides: legal ones give the right tiles and values, illegal ones the right error."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from _faults.inputs import run_inputs

from rankbygene.errors import InputValueError
from rankbygene.testing import FAULTS, illegal_slides, legal_slides


@pytest.fixture(scope="module")
def tallies() -> dict[str, Any]:
    return run_inputs(n_legal=30, n_illegal=1, n_fits=2, start=0)


@pytest.mark.parametrize("kind", ["legal slides", "illegal slides", "fits of odd slides"])
def test_odd_slides_come_out_right(tallies: dict[str, Any], kind: str) -> None:
    assert len(tallies[kind]) >= {"legal slides": 25, "illegal slides": len(FAULTS)}.get(kind, 1)
    assert tallies[kind].failures == []


def test_odd_arguments_of_the_strategies_are_refused() -> None:
    with pytest.raises(InputValueError, match=r"nowhere is no folder; make it first"):
        legal_slides("nowhere")
    with pytest.raises(KeyError, match="no counts"):
        illegal_slides("no count")


def test_without_hypothesis_it_is_said_what_to_install() -> None:
    code = """
import sys
sys.modules["hypothesis"] = None
import rankbygene
try:
    rankbygene.testing
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install it with `pip install 'rankbygene[test]'`" in done.stdout
