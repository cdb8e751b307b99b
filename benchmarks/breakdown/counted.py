"""Runs the steps, started by __main__.py; what it finds is a line of JSON.

With a library it is run by callgrind and makes a mark before and after each step, for callgrind to write what
it has counted; without one it takes the time.

    valgrind --tool=callgrind python -m benchmarks.breakdown.counted N LIBRARY
    python -m benchmarks.breakdown.counted N
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable

from benchmarks.breakdown.alone import Alone, Step, each

REPEATS = 9


def mark_all(library: str, n: int) -> None:
    """Steps in order, a mark before and after each."""
    mark = ctypes.CDLL(library).shoal_benchmark_mark

    def around(_step: Step, run: Callable[[], None]) -> None:
        mark()
        run()
        mark()

    each(n, around)


def time_all(n: int) -> list[float]:
    """Nanoseconds of one operation of each step: the least of several repeats, the least disturbed."""
    found: list[list[float]] = [[] for _ in names()]

    def around(_step: Step, run: Callable[[], None]) -> None:
        start = time.perf_counter_ns()
        run()
        place.append((time.perf_counter_ns() - start) / n)

    place: list[float] = []
    for _ in range(REPEATS):
        place.clear()
        each(n, around)
        for times, value in zip(found, place, strict=True):
            times.append(value)
    return [min(times) for times in found]


def names() -> list[tuple[str, str, str]]:
    """Subject and name of each step, and the subject of the step to be taken from it."""
    with Alone() as alone:
        return [(step.subject, step.name, step.less) for step in alone.steps()]


if __name__ == "__main__":
    if len(sys.argv) > 2:
        mark_all(sys.argv[2], int(sys.argv[1]))
    else:
        print(json.dumps({"steps": names(), "ns": time_all(int(sys.argv[1]))}))
