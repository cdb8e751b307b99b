"""How often a loop is repeated, and what is made of the samples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Plan:
    """How long to measure one row of one peer in one round, in seconds."""

    warm_s: float = 0.1
    slice_s: float = 0.1
    slices: int = 3
    limit_s: float = 0.8  # no further slice after so long
    full: bool = True  # False: small inputs, to see that everything runs

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


QUICK = Plan(0.02, 0.05, 1, 0.2, full=False)


def rates(loop: Callable[[], Any], work: float, plan: Plan, warm: Callable[[], Any] | None = None) -> list[float]:
    """Units of work per second, a sample per slice.

    As in Ray's own `timeit`, a slice runs the loop in steps between two looks at the clock, so that the clock
    costs nothing. A call of the loop that takes longer than a slice is a slice.

    Args:
        loop: called again and again; does `work` units of work.
        warm: is called instead of `loop` to warm up, for loops that are long.
    """
    clock = time.perf_counter
    start, count, run = clock(), 0, warm or loop
    while not count or clock() - start < plan.warm_s:
        run()
        count += 1
    step = 1 if warm else max(1, int(count * plan.slice_s / (clock() - start)) // 10)
    samples: list[float] = []
    begun = clock()
    while not samples or (len(samples) < plan.slices and clock() - begun < plan.limit_s):
        start, count = clock(), 0
        while not count or clock() - start < plan.slice_s:
            for _ in range(step):
                loop()
            count += step
        samples.append(work * count / (clock() - start))
    return samples


def in_turns(loops: Sequence[Callable[[], Any]], work: float, plan: Plan) -> list[list[float]]:
    """The rates of several loops, a slice of each in turn: what is to be compared must meet the same moments of the machine."""
    turn = replace(plan, warm_s=0.0, slices=1)
    for loop in loops:
        rates(loop, work, turn)  # to warm up
    samples: list[list[float]] = [[] for _ in loops]
    for _ in range(plan.slices):
        for found, loop in zip(samples, loops, strict=True):
            found.extend(rates(loop, work, turn))
    return samples


def seconds(loop: Callable[[], Any], times: int = 1) -> list[float]:
    """The seconds that single calls take."""
    samples = []
    for _ in range(times):
        start = time.perf_counter()
        loop()
        samples.append(time.perf_counter() - start)
    return samples


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median, extremes, and as the spread half the distance of the quartiles, relative to the median."""
    median = statistics.median(samples)
    spread = 0.0
    if len(samples) > 1 and median:
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
        spread = (high - low) / 2 / abs(median)
    return {
        "median": median,
        "spread": spread,
        "low": min(samples),
        "high": max(samples),
        "samples": list(samples),
    }
