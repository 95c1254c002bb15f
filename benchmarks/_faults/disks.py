"""Full disks: at every operation, in the middle of a file, and on a small file system."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _faults.children import Fault, copied, names_in, run_child
from _faults.kills import Unbroken, hidden, run_unbroken
from _faults.outcome import (
    FINE,
    FOREIGN,
    HALF,
    HANG,
    LITTER,
    LOST_RESULT,
    REFUSED,
    WRONG,
    Tally,
)  # fmt: skip
from _faults.scenarios import Scenario


def run_full_disks(scenario: Scenario, folder: Path, *, n: int, seed: int) -> Tally:
    """Let the disk be full at some operations, and files be limited to some lengths, half each."""
    unbroken, tally = run_unbroken(scenario, folder), Tally()
    rng = random.Random(f"{seed} {scenario.name}")
    operations = rng.sample(range(unbroken.operations), min(n - n // 2, unbroken.operations))
    faults = [Fault(full_at=i) for i in sorted(operations)]
    faults += [Fault(largest=_length(rng)) for _ in range(n // 2)]
    for fault in faults:
        with copied(scenario.pristine, folder):
            _judge(scenario, folder, unbroken, fault, tally)
    return tally


def _length(rng: random.Random) -> int:
    # Most files are small.
    return int(2 ** rng.uniform(4, 18))


def _judge(
    scenario: Scenario, folder: Path, unbroken: Unbroken, fault: Fault, tally: Tally
) -> None:
    what, names = f"{scenario.name}, {fault}", names_in(folder)
    ended = run_child(lambda: scenario.work(folder), folder, fault)
    read = run_child(lambda: scenario.read(folder), folder)
    if ended.how in ("hang", "killed"):
        tally.add(HANG, what)
    elif read.how != "done":
        tally.add(LOST_RESULT, f"{what}: {read.text[-500:]}")
    elif ended.how == "done":
        right = read.value == unbroken.after and names_in(folder) == unbroken.names
        tally.add(FINE if right else WRONG, f"{what}: done, and {read.value}")
    elif ended.how == "foreign":
        tally.add(FOREIGN, f"{what}: {ended.text[-900:]}")
    elif not _helps(ended.value, ended.text, folder):
        tally.add(FOREIGN, f"{what}: {ended.value} says {ended.text}")
    elif any(
        value not in (unbroken.before.get(key), unbroken.after.get(key))
        for key, value in read.value.items()
    ):
        tally.add(HALF, f"{what}: {read.value}")
    elif left := hidden(names_in(folder) - names):
        tally.add(LITTER, f"{what}: {sorted(left)[:4]}")
    else:
        tally.add(REFUSED)


def _helps(error: str, text: str, folder: Path) -> bool:
    """Whether an error says what was written and what can be done; a cache asks for room before."""
    remedies = {"OutputFailedError": "Free some space", "InputValueError": "on a larger disk"}
    return str(folder) in text and remedies.get(error, "nothing") in text


@contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[Path | None]:
    """Give a file system of some bytes, or None where it may not be made."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        made = False
    try:
        yield folder if made else None
    finally:
        if made:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def run_small_disks(scenario: Scenario, folder: Path, *, n: int, seed: int) -> Tally | None:
    """Do the work on file systems that are nearly full; None where none may be made."""
    tally = Tally()
    size = sum(item.stat().st_size for item in scenario.pristine.rglob("*") if item.is_file())
    rng = random.Random(f"{seed} {scenario.name}")
    place = folder.with_name("unlimited")
    unbroken = run_unbroken(scenario, place)
    for _ in range(n):
        # Blocks of a page each, and not enough for what is new.
        blocks = sum(1 for _ in scenario.pristine.rglob("*")) * 4096
        room = size + blocks + int(2 ** rng.uniform(12, 18))
        with small_disk(folder, room) as disk:
            if disk is None:
                return None
            inner = disk / "work"
            try:
                shutil.copytree(scenario.pristine, inner)
            except (OSError, shutil.Error):
                continue
            _judge(scenario, inner, unbroken, Fault(), tally)
    return tally
