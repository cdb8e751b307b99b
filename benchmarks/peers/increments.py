"""A contest of several processes that increment one counter under its lock, for the same stretch of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.measure import Plan


@dataclass
class Contest:
    """When it starts (by the monotonic clock, the same for all), how long it lasts, who got how far."""

    start: float
    seconds: float
    counts: list[int] = field(default_factory=list)

    @classmethod
    def announce(cls, plan: Plan) -> Contest:
        """A contest that starts in a moment, when everybody has been told."""
        return cls(time.monotonic() + 0.1, plan.slices * plan.slice_s)

    def finished(self, counts: Sequence[int]) -> Contest:
        self.counts = list(counts)
        return self

    def rate(self) -> list[float]:
        return [sum(self.counts) / self.seconds]

    def fairness(self) -> list[float]:
        """What the slowest process got, in percent of an equal share."""
        return [100 * min(self.counts) * len(self.counts) / sum(self.counts)]


def between(start: float, seconds: float, batch: Callable[[], int]) -> int:
    """Run `batch`, which returns how much it did, from `start` for so many seconds, at least once; returns the sum."""
    clock, end, done = time.monotonic, start + seconds, 0
    time.sleep(max(0.0, start - clock()))
    while True:
        done += batch()
        if clock() >= end:
            return done


def check(counts: Sequence[int], value: int) -> None:
    """Raises AssertionError if an increment was lost."""
    if sum(counts) != value:
        raise AssertionError(f"{sum(counts)} increments were made, but the counter says {value}")
