"""Kills, full disks and hostile files, a few of each; all of them with ``benchmarks/faults.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _faults.outcome import FAILURES

CAMPAIGN = Path(__file__).parents[2] / "benchmarks" / "faults.py"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def run_campaign(out: Path, *words: str) -> dict[str, Any]:
    # In a process of its own: children are forked, and threads of other tests would be missing in them.
    command = [sys.executable, str(CAMPAIGN), "--small", "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert out.exists(), done.stderr[-3000:]
    record: dict[str, Any] = json.loads(out.read_text())
    for kind, sums in record["sums"].items():
        assert sum(sums[name] for name in FAILURES) == 0, (kind, done.stderr[-3000:])
    assert done.returncode == 0
    return record


def test_a_few_faults_lose_nothing(tmp_path: Path) -> None:
    words = (
        "--kinds",
        "kills",
        "disks",
        "files",
        "--only",
        "over a model",
        "cache",
        "bag",
        "model",
    )
    record = run_campaign(tmp_path / "faults.json", *words)
    assert record["sums"]["kills"]["cases"] >= 6
    assert record["sums"]["disks"]["cases"] >= 4
    assert record["sums"]["files"]["cases"] >= 4


@pytest.mark.slow
def test_some_faults_of_every_kind_lose_nothing(tmp_path: Path) -> None:
    record = run_campaign(tmp_path / "faults.json", "--kinds", "kills", "disks", "files")
    assert len(record["rows"]["kills"]) >= 11
    assert len(record["rows"]["files"]) == 7


def test_a_command_that_is_asked_to_end_leaves_nothing(tmp_path: Path) -> None:
    code = """
import os, signal, sys, time
from pathlib import Path
from rankbygene import cli
from rankbygene.io import atomic_directory

@cli.app.command()
def hold(path: Path) -> None:
    with atomic_directory(path) as folder:
        (folder / "file").write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

sys.argv = ["rankbygene", "hold", sys.argv[1]]
cli.main()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, timeout=50).returncode == 128 + 15
    assert list(tmp_path.iterdir()) == []
