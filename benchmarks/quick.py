"""The figures of the README: `python benchmarks/quick.py` prints its table, in about fifteen seconds.

Each figure is the median of five runs of a third of a second; a start-up is that of a new interpreter. For
the comparison with Ray and other peers see the rest of this folder.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np

import shoal

RUNS, SECONDS = 5, 0.3

START = """
from time import perf_counter
begun = perf_counter()
import shoal
shoal.init()
@shoal.remote
def one():
    return 1
assert shoal.get(one.remote()) == 1
ready = perf_counter()
shoal.shutdown()
print(ready - begun, perf_counter() - ready)
"""


@shoal.remote
def nothing() -> None:
    """The smallest task."""


@shoal.remote
class Actor:
    def nothing(self) -> None:
        """The smallest call."""


def rate(step: Callable[[], object], count: int = 1) -> float:
    """How many a second, if each `step` does `count`."""
    rates = []
    for _ in range(RUNS):
        steps, begun = 0, perf_counter()
        while (took := perf_counter() - begun) < SECONDS:
            step()
            steps += 1
        rates.append(steps * count / took)
    return statistics.median(rates)


def start_and_stop() -> tuple[float, float]:
    """Seconds from the import to the first task's result, and those of the shutdown."""
    runs = []
    for _ in range(RUNS):
        ran = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
        runs.append([float(text) for text in ran.stdout.split()])
    first, last = zip(*runs, strict=True)
    return statistics.median(first), statistics.median(last)


def machine() -> str:
    """What it ran on."""
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    kernel, python = platform.release().split("-")[0], platform.python_version()
    return f"{os.cpu_count()} cores, {model}, Linux {kernel}, Python {python}"


def main() -> None:
    start, stop = start_and_stop()
    with shoal.init():
        rows = measure()
    rows += [
        ("import, `init()` and the first task", f"{start * 1000:.0f} ms"),
        ("`shutdown()`", f"{stop * 1000:.0f} ms"),
    ]
    print(f"Median of {RUNS}, on {machine()}:\n")
    print("| what | |", "|---|--:|", *(f"| {what} | {figure} |" for what, figure in rows), sep="\n")


def measure() -> list[tuple[str, str]]:
    """The rows of a running session."""
    array = np.ones(12_500_000)  # 100 MB
    small, large = shoal.put(1), shoal.put(array)
    lock = shoal.lock()
    actor = Actor.remote()
    shoal.get([actor.nothing.remote(), *(nothing.remote() for _ in range(1000))])

    def locked() -> None:
        for _ in range(1000):
            with lock:
                pass

    def put_large() -> None:
        shoal.put(array)

    return [
        ("`put` of a small value", f"{rate(lambda: shoal.put(1)):,.0f} /s"),
        ("`put` of a 100 MB array", f"{rate(put_large) * array.nbytes / 1e9:.1f} GB/s"),
        ("`get` of a small value", f"{rate(lambda: shoal.get(small)):,.0f} /s"),
        ("`get` of a 100 MB array, as a view", f"{rate(lambda: shoal.get(large)):,.0f} /s"),
        ("task, one after the other", f"{rate(lambda: shoal.get(nothing.remote())):,.0f} /s"),
        (
            "tasks, 1,000 at a time",
            f"{rate(lambda: shoal.get([nothing.remote() for _ in range(1000)]), 1000):,.0f} /s",
        ),
        ("actor call, one after the other", f"{rate(lambda: shoal.get(actor.nothing.remote())):,.0f} /s"),
        (
            "actor calls, 1,000 at a time",
            f"{rate(lambda: shoal.get([actor.nothing.remote() for _ in range(1000)]), 1000):,.0f} /s",
        ),
        ("taking and releasing a free lock", f"{rate(locked, 1000):,.0f} /s"),
    ]


if __name__ == "__main__":
    main()
