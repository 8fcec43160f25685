"""Per-stage times and their rolling percentiles, on an injectable clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

Clock = Callable[[], float]
"""Returns seconds; only differences matter."""


@dataclass(frozen=True)
class Percentiles:
    """Summary of recent durations, in seconds; `count` counts all since the start."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    longest: float


class Rolling:
    """The last `window` values and their percentiles; its memory does not grow."""

    def __init__(self, window: int = 1000) -> None:
        self._values: deque[float] = deque(maxlen=window)
        self._count = 0

    def add(self, value: float) -> None:
        self._values.append(value)
        self._count += 1

    def summary(self) -> Percentiles | None:
        """None as long as nothing was added."""
        if not self._values:
            return None
        values = np.asarray(self._values)
        p50, p95, p99 = (float(x) for x in np.percentile(values, (50, 95, 99)))
        return Percentiles(self._count, float(values.mean()), p50, p95, p99, float(values.max()))


class StageTimer:
    """Times the named stages of one frame.

    `with timer.stage('encode'): …` adds to that stage; `take()` returns the frame's times and
    starts the next frame.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            self.add(name, self._clock() - start)

    def add(self, name: str, seconds: float) -> None:
        """Adds to a stage what was timed elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        seconds, self._seconds = self._seconds, {}
        return seconds
