"""What is measured at one point of a curve. Run as a program, for a session of its own: CURVE X EFFORT.

It prints a line of JSON: {series: value}. EFFORT scales how often things are repeated.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import shoal
from benchmarks import processes

Found = dict[str, float]


def _small_value() -> bytes:
    return b"ok"


def _take(_argument: Any) -> bytes:
    return b"ok"


def _wait_for(fifo: str) -> bytes:
    """Keep the worker without Shoal's knowledge until somebody writes into the pipe."""
    with open(fifo, "rb") as pipe:
        return pipe.read()


class _Small:
    def small_value(self) -> bytes:
        return b"ok"

    def wait_for(self, fifo: str) -> bytes:
        return _wait_for(fifo)


def _cost(run: Callable[[], Any], work: int, repeats: int) -> tuple[float, float]:
    """Microseconds per unit of work: CPU time of all processes of the session, and by the clock. Medians."""
    cpu, wall = [], []
    run()
    for _ in range(repeats):
        pids = processes.tree(os.getpid())
        before, begun = processes.cpu_seconds(pids), time.perf_counter()
        run()
        wall.append((time.perf_counter() - begun) / work * 1e6)
        cpu.append((processes.cpu_seconds(pids) - before) / work * 1e6)
    return statistics.median(cpu), statistics.median(wall)


def workers(x: int, effort: float) -> Found:
    """Tasks and calls of one actor, with x workers."""
    n = max(100, int(10_000 * effort))
    with shoal.init(num_cpus=x):
        task, actor = shoal.remote(_small_value), shoal.remote(num_cpus=0)(_Small).remote()
        shoal.get([task.remote() for _ in range(50 * x)])
        found: Found = {}

        def pipelined() -> None:
            shoal.get([task.remote() for _ in range(n)])

        def calls() -> None:
            shoal.get([actor.small_value.remote() for _ in range(n)])

        def synchronous() -> None:
            for _ in range(n // 4):
                shoal.get(task.remote())

        for name, run, work in (
            ("task, pipelined", pipelined, n),
            ("task, synchronous", synchronous, n // 4),
            ("actor call, pipelined", calls, n),
        ):
            cpu, wall = _cost(run, work, 5)
            found[f"{name}: CPU us"], found[f"{name}: us"] = cpu, wall
    return found


@contextmanager
def _gate() -> Iterator[tuple[str, Callable[[], None]]]:
    """A pipe's path, and what opens the gate for the one that waits for it."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        path = os.path.join(folder, "gate")
        os.mkfifo(path)

        def go() -> None:
            with open(path, "wb") as pipe:
                pipe.write(b"go")

        yield path, go


def queue(x: int, effort: float) -> Found:
    """x tasks in the queue, or x calls in a mailbox, before the first of them runs."""
    found: Found = {}
    with shoal.init(num_cpus=1), _gate() as (path, go):
        task, gate = shoal.remote(_small_value), shoal.remote(_wait_for)
        actor = shoal.remote(num_cpus=0)(_Small).remote()
        shoal.get([task.remote(), actor.small_value.remote()])
        times = max(1, min(5, int(20_000 * effort) // x))
        for name, close, call in (
            ("task", gate.remote, task.remote),
            ("actor call", actor.wait_for.remote, actor.small_value.remote),
        ):
            costs: list[tuple[float, float, float]] = []
            for _ in range(times):
                pids = processes.tree(os.getpid())
                start, begun = processes.cpu_seconds(pids), time.perf_counter()
                shut = close(path)
                refs = [call() for _ in range(x)]
                submitted = (time.perf_counter() - begun) / x * 1e6
                begun = time.perf_counter()
                go()
                shoal.get(shut)
                shoal.get(refs)
                drained = (time.perf_counter() - begun) / x * 1e6
                del refs
                costs.append((submitted, drained, (processes.cpu_seconds(pids) - start) / x * 1e6))
            medians = [statistics.median(cost[i] for cost in costs) for i in range(3)]
            found[f"{name}: submit, us"], found[f"{name}: run, us"], found[f"{name}: CPU us"] = medians
    return found


def objects(x: int, effort: float) -> Found:
    """x objects alive, of 100 bytes each, while others are put, got and dropped."""
    n = max(1000, int(20_000 * effort))
    with shoal.init(num_cpus=1):
        task = shoal.remote(_small_value)
        shoal.get(task.remote())
        value, put, get = b"x" * 100, shoal.put, shoal.get
        gc.disable()  # Python's own collector looks at all references: that is not Shoal's cost
        begun = time.perf_counter()
        alive = [put(value) for _ in range(x)]
        found = {"put, and kept: us": (time.perf_counter() - begun) / x * 1e6}
        last, scattered = alive[-1000:], alive[:: max(1, x // 1000)][:1000]

        def put_and_drop() -> None:
            for _ in range(n):
                put(value)

        def get_each(refs: list[Any]) -> None:
            for _ in range(n // 1000):
                for ref in refs:
                    get(ref)

        def tasks() -> None:
            get([task.remote() for _ in range(n // 4)])

        found["put, and dropped: us"] = _cost(put_and_drop, n, 3)[1]
        gets = n // 1000 * len(last)
        found["get, newest: us"] = _cost(lambda: get_each(last), gets, 3)[1]
        found["get, all over: us"] = _cost(lambda: get_each(scattered), gets, 3)[1]  # each from cold memory
        found["task: CPU us"] = _cost(tasks, n // 4, 3)[0]
        last.clear()
        scattered.clear()
        begun = time.perf_counter()
        alive.clear()
        found["drop: us"] = (time.perf_counter() - begun) / x * 1e6
    return found


def actors(x: int, effort: float) -> Found:
    """x actors that are called in turn."""
    n = max(10, int(10_000 * effort) // x) * x
    with shoal.init(num_cpus=2):
        remote = shoal.remote(num_cpus=0)(_Small)
        begun = time.perf_counter()
        crowd = [remote.remote() for _ in range(x)]
        shoal.get([actor.small_value.remote() for actor in crowd])
        found = {"creation: ms": (time.perf_counter() - begun) / x * 1e3}

        def calls() -> None:
            shoal.get([crowd[i % x].small_value.remote() for i in range(n)])

        def one() -> None:
            actor = crowd[0]
            shoal.get([actor.small_value.remote() for _ in range(1000)])

        found["call, all in turn: CPU us"], found["call, all in turn: us"] = _cost(calls, n, 3)
        found["call, always the same: CPU us"] = _cost(one, 1000, 3)[0]
        memory = processes.memory(processes.tree(os.getpid()))
        found["memory (PSS) per actor: MB"] = memory["pss"] / (x + 4)  # driver, supervisor, two workers
    return found


def arguments(x: int, effort: float) -> Found:
    """A task with an array of x bytes as its argument: put by the caller, seen by the worker."""
    often = max(10, int(5000 * effort))
    times = max(3, min(often, int(2e9 * effort) // x))
    with shoal.init(num_cpus=1):
        task = shoal.remote(_take)
        array = np.ones(x, np.uint8)
        shoal.get([task.remote(array) for _ in range(2)])

        def by_value() -> None:
            for _ in range(times):
                shoal.get(task.remote(array))

        ref = shoal.put(array)

        def by_reference() -> None:
            for _ in range(often):
                shoal.get(task.remote(ref))

        found: Found = {}
        found["by value: CPU us"], found["by value: us"] = _cost(by_value, times, 3)
        found["by reference: CPU us"], found["by reference: us"] = _cost(by_reference, often, 3)
        target = np.empty_like(array)
        target[:] = 0

        def copy() -> None:
            for _ in range(times):
                np.copyto(target, array)

        found["copied in one process: us"] = _cost(copy, times, 3)[1]
    return found


POINTS: dict[str, Callable[[int, float], Found]] = {
    "workers": workers,
    "queue": queue,
    "objects": objects,
    "actors": actors,
    "arguments": arguments,
}

if __name__ == "__main__":
    print(json.dumps(POINTS[sys.argv[1]](int(sys.argv[2]), float(sys.argv[3]))))
