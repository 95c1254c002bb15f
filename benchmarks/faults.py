"""What kills, full disks, hostile files and odd inputs do to stores, models and results.

Every write of the package is killed at its operations on files, in the middle of a file and at random
times, and meets full disks; what it reads is damaged, or replaced by what strangers may send; odd slides
go through reading, tiles and fits. Counted is what must never happen: lost stores and old results, wrong
results, foreign tracebacks, hangs, litter after the next run.

    nice python benchmarks/faults.py --out benchmarks/results/faults.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Children are forked, and a pool of threads does not live on in them.
os.environ.update({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"})

import torch
from _faults.disks import run_full_disks, run_small_disks
from _faults.files import make_targets, run_files
from _faults.inputs import run_inputs
from _faults.kills import run_kills
from _faults.outcome import FAILURES, FINE, REFUSED, Tally
from _faults.scenarios import make_scenarios
from _machine import describe_machine, write_record

KINDS = ("kills", "disks", "files", "inputs")
# Cases of each scenario or target: in full, and in the small form of the tests.
SIZES = {
    "full": {
        "kills": 40, "timed": 12, "dear": 8, "disks": 8, "small disks": 3, "files": 170,
        "legal": 1150, "illegal": 22, "fits": 60,
    },
    "small": {
        "kills": 2, "timed": 1, "dear": 0, "disks": 2, "small disks": 0, "files": 4,
        "legal": 0, "illegal": 0, "fits": 0,
    },
}  # fmt: skip


def main() -> int:
    """Run the campaign, or some kinds of it, and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/faults.json"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--only", nargs="*", default=[], help="words in the names of scenarios")
    parser.add_argument("--small", action="store_true", help="as in the tests")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    size = SIZES["small" if arguments.small else "full"]
    rows = Rows(arguments.out, arguments.seed)
    # Memory, where there is a file system of it, syncs at once.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="faults-", dir=memory if os.access(memory, os.W_OK) else None
    ) as name:
        campaign = Campaign(Path(name).resolve(), size, rows, arguments.only, arguments.seed)
        for kind in arguments.kinds:
            getattr(campaign, kind)()
    rows.write()
    return int(any(rows.failures()))


class Rows:
    """The table, written after every row so that a stopped campaign is not lost."""

    def __init__(self, out: Path, seed: int) -> None:
        self._out = out
        # Rows of an earlier run stay until they are computed again.
        rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else {}
        self._record: dict[str, Any] = {"machine": describe_machine(), "seed": seed, "rows": rows}
        names = ("kind", "case", "cases", FINE, REFUSED, *FAILURES, "seconds")
        print("| " + " | ".join(names) + " |")
        print("| --- | --- |" + " ---: |" * (len(names) - 2), flush=True)

    def add(self, kind: str, name: str, work: Callable[[], Tally | None], **more: Any) -> None:
        """Do a part of the campaign and keep what came of it."""
        began = time.monotonic()
        tally = work()
        if tally is None:
            print(f"{kind}, {name}: not possible here", file=sys.stderr)
            return
        seconds = round(time.monotonic() - began, 1)
        record = tally.record() | {"seconds": seconds} | more
        self._record["rows"].setdefault(kind, {})[name] = record
        counts = [record[key] for key in ("cases", FINE, REFUSED, *FAILURES)]
        print(f"| {kind} | {name} | " + " | ".join(map(str, [*counts, seconds])) + " |", flush=True)
        for text in tally.failures[:5]:
            print(f"    {text}", file=sys.stderr, flush=True)
        self.write()

    def failures(self) -> list[str]:
        """All that must never happen."""
        return [
            text
            for rows in self._record["rows"].values()
            for row in rows.values()
            for text in row["first failures"]
        ]

    def write(self) -> None:
        """Write the table with its sums."""
        sums: dict[str, dict[str, int]] = {}
        for kind, rows in self._record["rows"].items():
            keys = ("cases", FINE, REFUSED, *FAILURES)
            sums[kind] = {key: sum(row[key] for row in rows.values()) for key in keys}
        write_record(self._record | {"sums": sums}, self._out)


class Campaign:
    """The parts, each by the name of its kind."""

    def __init__(
        self, folder: Path, size: dict[str, int], rows: Rows, only: list[str], seed: int
    ) -> None:
        self._folder, self._size, self._rows, self._seed = folder, size, rows, seed
        self._made: list[Any] = []
        self._only = only

    def _scenarios(self) -> list[Any]:
        if not self._made:
            self._made = make_scenarios(
                self._folder / "made",
                lambda one: self._is_wanted(one.name) and (self._size["dear"] or not one.expensive),
            )
        return self._made

    def _is_wanted(self, name: str) -> bool:
        return not self._only or any(word in name for word in self._only)

    def kills(self) -> None:
        """Kill every write."""
        for one in self._scenarios():
            most = self._size["dear" if one.expensive else "kills"]
            states: dict[str, int] = {}

            def work(one: Any = one, most: int = most, states: dict[str, int] = states) -> Tally:
                n_timed = min(self._size["timed"], most)
                tally, found = run_kills(
                    one, self._folder / "work", most=most, n_timed=n_timed, seed=self._seed
                )
                states.update(found)
                return tally

            self._rows.add("kills", one.name, work, found=states)

    def disks(self) -> None:
        """Fill the disk under every write."""
        for one in self._scenarios():
            n, n_small = self._size["disks"], self._size["small disks"]
            work = partial(run_full_disks, one, self._folder / "work", n=n, seed=self._seed)
            self._rows.add("disks", one.name, work)
            if n_small and not one.expensive:
                work = partial(
                    run_small_disks, one, self._folder / "disk", n=n_small, seed=self._seed
                )
                self._rows.add("small file systems", one.name, work)

    def files(self) -> None:
        """Put hostile files in the place of what is read."""
        self._scenarios()
        for target in make_targets(self._folder / "attacked", self._folder / "made" / "folders"):
            if self._is_wanted(target.name):
                self._rows.add(
                    "files", target.name,
                    lambda target=target: run_files(
                        target, self._folder / "work", n=self._size["files"], seed=self._seed
                    ),
                )  # fmt: skip

    def inputs(self) -> None:
        """Draw odd slides."""
        size = self._size
        began = time.monotonic()
        wanted = {
            argument: size[key] * self._is_wanted(name)
            for argument, key, name in (
                ("n_legal", "legal", "legal slides"),
                ("n_illegal", "illegal", "illegal slides"),
                ("n_fits", "fits", "fits of odd slides"),
            )
        }
        tallies = run_inputs(**wanted, start=self._seed)
        for name, tally in tallies.items():
            if not len(tally):
                continue
            self._rows.add("inputs", name, lambda tally=tally: tally)
        print(f"inputs: {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
