"""A contest of several processes that do the same with something shared, for the same stretch of time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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


def among_processes(run: Callable[[Any, Any, Any], None], shared: Any, processes: int, plan: Plan) -> Contest:
    """A contest of processes that `run(shared, orders, results)`: each puts a 0 into `results` when it is there, gets start and
    seconds from `orders`, and puts how far it got.
    """
    context: Any = multiprocessing
    orders, results = context.SimpleQueue(), context.SimpleQueue()
    started = [multiprocessing.Process(target=run, args=(shared, orders, results), daemon=True) for _ in range(processes)]
    for process in started:
        process.start()
    for _ in started:
        results.get()
    contest = Contest.announce(plan)
    for _ in started:
        orders.put((contest.start, contest.seconds))
    counts = [results.get() for _ in started]
    for process in started:
        process.join()
    return contest.finished(counts)


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
