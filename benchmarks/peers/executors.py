"""concurrent.futures and joblib: pools of processes without state."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any

from benchmarks.measure import Plan, rates
from benchmarks.peers import Loop, Peer
from benchmarks.peers.multiprocess import small_value


class Futures(Peer):
    """concurrent.futures.ProcessPoolExecutor."""

    def __enter__(self) -> Futures:
        self.pool = ProcessPoolExecutor(self.cores)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def loops(self) -> dict[str, Loop]:
        return {
            "tasks_sync": lambda plan: rates(lambda: self.pool.submit(small_value).result(), 1, plan),
            "tasks_async": lambda plan: rates(self.batch, 1000, plan),
            "tasks_batch": lambda plan: rates(self.batch, 1, plan),
            "wait_1k": lambda plan: rates(self.wait_1k, 1, plan),
            "wait_call": self.wait_call,
        }

    def batch(self) -> None:
        for future in [self.pool.submit(small_value) for _ in range(1000)]:
            future.result()

    def wait_1k(self) -> None:
        """As in Ray's loop one future is taken from the list each time; `wait` itself gives all that are
        done.
        """
        left = [self.pool.submit(small_value) for _ in range(1000)]
        while left:
            done = next(iter(wait(left, return_when=FIRST_COMPLETED).done))
            left = [future for future in left if future is not done]

    def wait_call(self, plan: Plan) -> list[float]:
        futures = [self.pool.submit(small_value) for _ in range(1000)]
        wait(futures)
        return rates(lambda: wait(futures), 1, plan)


class Joblib(Peer):
    """joblib.Parallel with its default backend (loky), started once."""

    def __enter__(self) -> Joblib:
        import joblib

        self.delayed: Any = joblib.delayed(small_value)
        self.parallel: Any = joblib.Parallel(n_jobs=self.cores).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.parallel.__exit__(None, None, None)

    def loops(self) -> dict[str, Loop]:
        return {
            "tasks_sync": lambda plan: rates(lambda: self.parallel([self.delayed()]), 1, plan),
            "tasks_async": lambda plan: rates(self.batch, 1000, plan),
            "tasks_batch": lambda plan: rates(self.batch, 1, plan),
        }

    def batch(self) -> None:
        self.parallel([self.delayed() for _ in range(1000)])
