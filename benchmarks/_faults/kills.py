"""Kills at every operation on files of a write, in the middle of a file, and at random times."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _faults.children import Ended, Fault, copied, names_in, run_child
from _faults.outcome import FINE, FOREIGN, HANG, LITTER, LOST_RESULT, LOST_STORE, WRONG, Tally
from _faults.scenarios import Scenario


@dataclass(frozen=True)
class Unbroken:
    """What work gives when nothing happens: what can be read before and after, and what lies there."""

    before: dict[str, str]
    after: dict[str, str]
    value: Any
    names: set[str]
    operations: int
    seconds: float


def run_unbroken(scenario: Scenario, folder: Path) -> Unbroken:
    """Do the work once, and again, which changes nothing more."""
    with copied(scenario.pristine, folder):
        before = run_child(lambda: scenario.read(folder), folder)
        done = run_child(lambda: scenario.work(folder), folder)
        after = run_child(lambda: scenario.read(folder), folder)
        names = names_in(folder)
        for ended in (before, done, after):
            if ended.how != "done":
                msg = f"{scenario.name}, without any fault: {ended.how} {ended.text}"
                raise RuntimeError(msg)
        return Unbroken(before.value, after.value, done.value, names, done.operations, done.seconds)


def run_kills(
    scenario: Scenario, folder: Path, *, most: int, n_timed: int, seed: int
) -> tuple[Tally, dict[str, int]]:
    """Kill a scenario at its operations, at most so many of them, and at random times.

    Gives what came of it, and how many states were found between the kill and the next run.
    """
    unbroken, tally = run_unbroken(scenario, folder), Tally()
    states: dict[str, int] = {}
    rng = random.Random(f"{seed} {scenario.name}")
    for fault in _faults(scenario, unbroken, most, n_timed, rng):
        with copied(scenario.pristine, folder):
            ended = run_child(lambda: scenario.work(folder), folder, fault)
            what = f"{scenario.name}, {fault}"
            if ended.how in ("hang", "foreign", "refused") and not _was_stopped(ended, fault):
                tally.add(HANG if ended.how == "hang" else FOREIGN, f"{what}: {ended.text[-400:]}")
                continue
            # Who is asked to end cleans up; who is killed leaves that to the next one.
            left = hidden(names_in(folder)) if _was_stopped(ended, fault) else set()
            if left:
                tally.add(LITTER, f"{what}: {sorted(left)[:4]} after SIGTERM")
                continue
            _judge(scenario, folder, unbroken, what, tally, states)
    return tally, states


def hidden(names: set[str]) -> set[str]:
    """Names that no output has: of temporary files and folders.

    The journal of results that could not be moved to their places stays: the next call goes on from it.
    """
    return {
        name
        for name in names
        if ".rankbygene" not in Path(name).parts
        and (
            name.startswith("tmp/")
            or ".partial" in name
            or any(part.startswith(".") and part.count(".") > 1 for part in Path(name).parts)
        )
    }


def _was_stopped(ended: Ended, fault: Fault) -> bool:
    """Whether a child ended because it was asked to."""
    return fault.number == signal.SIGTERM and ended.value == "SystemExit"


def _faults(
    scenario: Scenario, unbroken: Unbroken, most: int, n_timed: int, rng: random.Random
) -> Iterator[Fault]:
    n = unbroken.operations
    # Kills leave the file that was written last whole, or in two.
    every = [(i, torn) for i in range(n) for torn in (False, True)]
    for i, torn in every if len(every) <= most else sorted(rng.sample(every, most)):
        yield Fault(kill_at=i, torn=torn)
    if scenario.name.startswith("command line"):
        # Workflow managers ask a step to end; it cleans up by itself.
        for i in rng.sample(range(n), min(n, n_timed)):
            yield Fault(kill_at=i, number=signal.SIGTERM)
    for i in range(n_timed):
        yield Fault(
            kill_after=rng.uniform(0, unbroken.seconds),
            number=signal.SIGTERM if i % 4 == 3 else signal.SIGKILL,
        )


def _judge(
    scenario: Scenario,
    folder: Path,
    unbroken: Unbroken,
    what: str,
    tally: Tally,
    states: dict[str, int],
) -> None:
    """Read what a killed child left, do the work again, and read once more."""
    after = run_child(lambda: _aftermath(scenario, folder, unbroken), folder)
    if after.how != "done":
        tally.add(HANG if after.how == "hang" else FOREIGN, f"{what}: {after.text[-700:]}")
        return
    outcome, text, state = after.value
    if outcome == FINE:
        more, fewer = names_in(folder) - unbroken.names, unbroken.names - names_in(folder)
        if more or fewer:
            outcome, text = LITTER, f"{sorted(more)[:4]} more, {sorted(fewer)[:4]} fewer"
    states[state] = states.get(state, 0) + 1
    tally.add(outcome, f"{what}: {text}")


def _aftermath(scenario: Scenario, folder: Path, unbroken: Unbroken) -> tuple[str, str, str]:
    """Read what is there, do the work again, and read once more: outcome, words, and what was found."""
    try:
        found, state = scenario.read(folder), ""
    except Exception as error:  # noqa: BLE001
        return LOST_STORE, f"{type(error).__name__}: {error}"[:600], "unreadable"
    outcome = _compared(found, unbroken)
    if outcome and scenario.mend is not None and not found.get("result"):
        scenario.mend(folder)
        found, state = scenario.read(folder), "complete after repair"
        outcome = _compared(found, unbroken)
    if outcome:
        return outcome, f"reads {found}, before {unbroken.before}", "another"
    state = state or ("before" if found == unbroken.before else "after")
    value = scenario.work(folder)
    after = scenario.read(folder)
    if after != unbroken.after or value != unbroken.value:
        return WRONG, f"{after}, not {unbroken.after}", state
    return FINE, "", state


def _compared(found: dict[str, str], unbroken: Unbroken) -> str:
    """Say what is wrong with what is read after a kill; each part is the old or the new one."""
    for key, value in found.items():
        if value in (unbroken.before.get(key), unbroken.after.get(key)):
            continue
        return LOST_STORE if key.startswith("own") else LOST_RESULT
    return ""
