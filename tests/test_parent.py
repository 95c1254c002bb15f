from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
from pathlib import Path
import rankbygene as rbg

def slow(data):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(120)

slides = rbg.datasets.synthetic(n_slides=2, n_patients=2, n_spots=20, n_genes=10, seed=0)
rbg.tl.cross_validate(
    slides, {"slow": slow}, baselines=(), references=(), genes=5, backbone="test_resnet", pretrained=False,
    tile_px=32, n_jobs=2,
)
"""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def _wait(seconds: float, done: object) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not done():  # type: ignore[operator]
        time.sleep(0.1)
    return bool(done())  # type: ignore[operator]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes are killed by signals")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script, seen = tmp_path / "script.py", tmp_path / "seen"
    script.write_text(SCRIPT, encoding="utf-8")
    seen.mkdir()
    with subprocess.Popen([sys.executable, str(script), str(seen)]) as parent:
        found = _wait(240, lambda: len(list(seen.iterdir())) == 2 or parent.poll() is not None)
        parent.kill()
    workers = [int(file.name) for file in seen.iterdir()]
    assert found
    assert len(workers) == 2
    assert _wait(5, lambda: not any(map(_lives, workers)))
