"""What is measured of containers and of memory that changes, without the libraries: how long, with which sizes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.measure import Plan
from benchmarks.peers.increments import between

BATCH = 100  # items put or got at a time, where that is what is measured
QUEUE_ROOM = 10_000
STATE_BYTES = 100 << 20  # of the state that is published
FRAME = (84, 84, 4)  # bytes of a transition
DRAWN = 256


def transitions(plan: Plan) -> int:
    """How many the replay buffer holds."""
    return 100_000 if plan.full else 1_000


def frames(count: int, seed: int = 0) -> Any:
    """So many transitions."""
    return np.random.default_rng(seed).integers(0, 255, (count, *FRAME), np.uint8)


def table() -> Any:
    """What is read under the lock."""
    return np.arange(4096.0)


def read_all(lock: Any, array: Any, start: float, seconds: float) -> int:
    """How often the sum was read under the lock in that time."""

    def batch() -> int:
        for _ in range(20):
            with lock:
                array.sum()
        return 20

    return between(start, seconds, batch)


def flow(get: Callable[[], int], plan: Plan) -> list[float]:
    """Items per second that come out of a queue which somebody else fills all the time. `get` says how many it got."""
    clock, samples = time.perf_counter, []
    begun = clock()
    got = 0
    while clock() - begun < plan.warm_s or not got:  # the other one has begun
        got += get()
    for _ in range(plan.slices):
        got, start = 0, clock()
        while clock() - start < plan.slice_s:
            for _ in range(10):
                got += get()
        samples.append(got / (clock() - start))
    return samples


def turns(mine: Any, yours: Any, plan: Plan) -> list[float]:
    """Microseconds until a change of `mine` is seen by the other, who answers in `yours`: half of there and back.

    Both are arrays of one number, and both sides look all the time.
    """
    clock, samples, number = time.perf_counter, [], int(yours[0])
    for _ in range(plan.slices + 1):  # the first to warm up
        begun, count = clock(), 0
        while clock() - begun < plan.slice_s:
            for _ in range(100):
                number += 1
                mine[0] = number
                while yours[0] != number:
                    pass
            count += 100
        samples.append((clock() - begun) / count / 2 * 1e6)
    mine[0] = -1  # the end, for the other side
    return samples[1:]


def answer(theirs: Any, mine: Any) -> None:
    """The other side of `turns`."""
    number = 0
    while number >= 0:
        while theirs[0] == number:
            pass
        number = int(theirs[0])
        mine[0] = number


def delays(next_stamp: Callable[[], int], plan: Plan) -> list[float]:
    """Median microseconds from the moment when the other one published its clock's reading until it is here."""
    samples = []
    for _ in range(plan.slices):
        found = []
        for _ in range(100 if plan.full else 10):
            stamp = next_stamp()
            found.append((time.monotonic_ns() - stamp) / 1000)
        samples.append(statistics.median(found))
    return samples


def publish(store: Callable[[int], Any], count: int) -> None:
    """The other side of `delays`: publishes its clock's reading now and then, when the reader sleeps."""
    for _ in range(count):
        time.sleep(0.002)  # so long that a reader which first spins has gone to sleep
        store(time.monotonic_ns())


def stamps(plan: Plan) -> int:
    """More than `delays` asks for: the writer is ended when the reader has enough."""
    return plan.slices * 100 * 20
