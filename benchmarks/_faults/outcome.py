"""What came of the cases of a campaign, counted by what must never happen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# What a case may come to; all but the first two are failures.
FINE, REFUSED = "as it should be", "refused in words of ours"
LOST_STORE, LOST_RESULT, WRONG = "store lost", "old result lost", "wrong result"
FOREIGN, HANG, LITTER, HALF = "foreign traceback", "hang", "litter", "half written"
FAILURES = (LOST_STORE, LOST_RESULT, WRONG, FOREIGN, HANG, LITTER, HALF)


@dataclass
class Tally:
    """Cases of one kind, by outcome; the first failures are kept in words."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, outcome: str, text: str = "") -> None:
        """Count a case."""
        self.counts[outcome] += 1
        if outcome in FAILURES:
            self.failures.append(f"{outcome}: {text}")

    def __len__(self) -> int:
        return self.counts.total()

    def record(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            "cases": len(self),
            **{name: self.counts[name] for name in (FINE, REFUSED, *FAILURES)},
            "first failures": self.failures[:20],
        }


class WrongError(Exception):
    """A case came to a failure."""

    def __init__(self, outcome: str, text: str) -> None:
        super().__init__(outcome, text)
        self.outcome, self.text = outcome, text


@contextmanager
def judged(tally: Tally, case: str) -> Iterator[None]:
    """Count a case that says by itself when it fails."""
    try:
        yield
    except WrongError as error:
        tally.add(error.outcome, f"{case}: {error.text}")
