"""Processes that end with the one that started them."""

from __future__ import annotations

import os
import threading
import time

__all__ = ["die_with_parent"]

_SECONDS = 0.5

_watching: set[int] = set()


def die_with_parent(parent: int | None = None) -> None:
    """End this process soon after the one that started it has ended, however that was.

    A parent that is killed cannot stop its workers, which would compute on for nobody. A thread looks
    every half second whether the parent is still the same; once is enough for each process.

    Parameters
    ----------
    parent
        Do nothing where another process than this one is the parent: work that was sent to a thread
        of the same process, or to another machine, ends with its own.
    """
    own = os.getpid()
    if own in _watching or parent not in (None, os.getppid()):
        return
    _watching.add(own)
    threading.Thread(
        target=_watch, args=(os.getppid(),), name="rankbygene-parent", daemon=True
    ).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)
