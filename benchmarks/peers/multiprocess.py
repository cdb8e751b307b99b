"""multiprocessing: Pool, Value, Manager and shared memory, each where it does the job of the row."""

from __future__ import annotations

import multiprocessing
from multiprocessing import shared_memory
from multiprocessing.managers import BaseManager
from typing import Any

import numpy as np

from benchmarks.measure import Plan, rates
from benchmarks.peers import Loop, Peer, sharing_processes
from benchmarks.peers.increments import Contest, among_processes, between, check
from benchmarks.peers.physical import large_array
from benchmarks.programs import by_hand_loops, pool_loops


def small_value() -> bytes:
    return b"ok"


class Small:
    """What a manager serves as an actor."""

    def small_value(self) -> bytes:
        return b"ok"


class SmallManager(BaseManager):
    """A process that serves one `Small`."""


SmallManager.register("Small", Small)


class Multiprocessing(Peer):
    def __enter__(self) -> Multiprocessing:
        self.pool = multiprocessing.Pool(self.cores)
        self.contests: dict[int, Contest] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.terminate()
        self.pool.join()

    def loops(self) -> dict[str, Loop]:
        return {
            "tasks_sync": lambda plan: rates(lambda: self.pool.apply(small_value), 1, plan),
            "tasks_async": lambda plan: rates(self.batch, 1000, plan),
            "tasks_batch": lambda plan: rates(self.batch, 1, plan),
            "actor_sync": self.actor_sync,
            "get": self.get,
            "put": self.put,
            "put_gb": self.put_gb,
            "put_gb_written": lambda plan: self.put_gb(plan, written=True),
            "lock_1": self.lock_1,
            "lock_2": lambda plan: self.contest(2, plan).rate(),
            "lock_2_fair": lambda plan: self.contest(2, plan).fairness(),
            "lock_4": lambda plan: self.contest(4, plan).rate(),
            "lock_4_fair": lambda plan: self.contest(4, plan).fairness(),
            "counter_1": self.lock_1,  # its Value is the lock and the number
            "counter_2": lambda plan: self.contest(2, plan).rate(),
            "counter_4": lambda plan: self.contest(4, plan).rate(),
            **sharing_processes.loops(),
            **pool_loops(self.pool, self.cores),
        }

    def batch(self) -> None:
        for result in [self.pool.apply_async(small_value) for _ in range(1000)]:
            result.get()

    def actor_sync(self, plan: Plan) -> list[float]:
        with SmallManager() as manager:
            small: Any = manager.Small()  # type: ignore[attr-defined]
            return rates(small.small_value, 1, plan)

    def get(self, plan: Plan) -> list[float]:
        with multiprocessing.Manager() as manager:
            values = manager.dict({"key": 0})
            return rates(lambda: values["key"], 1, plan)

    def put(self, plan: Plan) -> list[float]:
        with multiprocessing.Manager() as manager:
            values = manager.dict()

            def put_small() -> None:
                values["key"] = 0

            return rates(put_small, 1, plan)

    def put_gb(self, plan: Plan, written: bool = False) -> list[float]:
        """A new block of shared memory for each array, as each `put` makes a new object."""
        array = large_array(plan, written)

        def put_large() -> None:
            memory = shared_memory.SharedMemory(create=True, size=array.nbytes)
            target: Any = np.ndarray(array.shape, array.dtype, memory.buf)
            target[:] = array
            del target
            memory.close()
            memory.unlink()

        return rates(put_large, array.nbytes / 1e9, plan)

    def lock_1(self, plan: Plan) -> list[float]:
        value = multiprocessing.Value("q", 0)
        lock = value.get_lock()

        def increment() -> None:
            for _ in range(1000):
                with lock:
                    value.value += 1

        return rates(increment, 1000, plan)

    def contest(self, processes: int, plan: Plan) -> Contest:
        """Several processes increment at once; measured once for its two rows."""
        if processes not in self.contests:
            self.contests[processes] = _contend(processes, plan)
        return self.contests[processes]


def _contend(processes: int, plan: Plan) -> Contest:
    value = multiprocessing.Value("q", 0)
    contest = among_processes(_increment, value, processes, plan)
    check(contest.counts, value.value)
    return contest


def _increment(value: Any, orders: Any, results: Any) -> None:
    results.put(0)
    start, seconds = orders.get()
    lock = value.get_lock()

    def batch() -> int:
        for _ in range(100):
            with lock:
                value.value += 1
        return 100

    results.put(between(start, seconds, batch))


class ByHand(Peer):
    """What an experienced user of multiprocessing writes for the three programs."""

    def loops(self) -> dict[str, Loop]:
        return by_hand_loops(self.cores)
