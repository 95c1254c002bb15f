"""How long a block takes and how much memory the process reaches in it."""

from __future__ import annotations

import threading
import time
from typing import Self

import psutil
import torch

__all__ = ["Measure"]

_INTERVAL = 0.05


class Measure:
    """Context that notes wall time and the peak of memory.

    The resident memory of the process is looked at twenty times per second, so that a peak of a
    few milliseconds may be missed. On a GPU the peak of allocated device memory counts instead.
    """

    seconds: float
    peak_memory_mb: float

    def __enter__(self) -> Self:
        self._process = psutil.Process()
        self._done = threading.Event()
        self._peak = self._process.memory_info().rss
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begin
        self._done.set()
        self._thread.join()
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else self._peak
        self.peak_memory_mb = peak / 2**20

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            self._peak = max(self._peak, self._process.memory_info().rss)
