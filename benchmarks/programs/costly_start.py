"""Evaluate batches with a model that is expensive to make.

An actor makes it once; a pool, as it was used when Ray was introduced, makes it for every batch.
"""

from __future__ import annotations

import multiprocessing
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Plan
from benchmarks.peers import Checked

ROUNDS, LAYERS, BATCH = 5, 3, 256
WIDTH, SMALL_WIDTH = 2500, 250  # three square layers of this width are 150 MB of float64


class Model:
    """A network and a batch for it. The work, the same for everybody."""

    def ready(self) -> bool:
        return True

    def load(self, width: int) -> None:
        """Make the weights."""
        rng = np.random.default_rng(3)
        self.weights = [rng.standard_normal((width, width)) for _ in range(LAYERS)]
        self.batch = rng.random((BATCH, width))

    def evaluate_next_batch(self) -> NDArray[np.int64]:
        """The strongest output for each row of the batch."""
        activity: Any = self.batch
        for layer in self.weights:
            activity = np.maximum(activity @ layer, 0)
        best: NDArray[np.int64] = activity.argmax(axis=1)
        return best


def _load_and_evaluate(width: int) -> NDArray[np.int64]:
    model = Model()
    model.load(width)
    return model.evaluate_next_batch()


def _serve(width: int, orders: Any, answers: Any) -> None:
    answers.put(None)
    model = Model()
    orders.get()
    model.load(width)
    while orders.get():
        answers.put(model.evaluate_next_batch())


class Program:
    """Each core evaluates ROUNDS batches; the clock includes the making of the weights, not that of the
    processes.
    """

    def __init__(self, cores: int, plan: Plan) -> None:
        self.cores = cores
        self.width = WIDTH if plan.full else SMALL_WIDTH

    @staticmethod
    def _done(start: float, results: list[NDArray[np.int64]]) -> Checked:
        return Checked([perf_counter() - start], float(sum(int(result.sum()) for result in results)))

    def serial(self) -> Checked:
        """As the pool does it: the weights are made for every batch."""
        start = perf_counter()
        return self._done(start, [_load_and_evaluate(self.width) for _ in range(ROUNDS * self.cores)])

    def share(self, core: int) -> list[NDArray[np.int64]]:
        """A core's part of the work: the weights are made once."""
        model = Model()
        model.load(self.width)
        return [model.evaluate_next_batch() for _ in range(ROUNDS)]

    def pool(self, pool: Any) -> Checked:
        pool.map(_load_and_evaluate, [10] * self.cores, 1)
        start = perf_counter()
        results: list[Any] = []
        for _ in range(ROUNDS):
            results += pool.map(_load_and_evaluate, [self.width] * self.cores, 1)
        return self._done(start, results)

    def by_hand(self) -> Checked:
        """A process per core that makes its model once and waits for orders."""
        answers: Any = multiprocessing.SimpleQueue()
        orders: list[Any] = [multiprocessing.SimpleQueue() for _ in range(self.cores)]
        workers = [multiprocessing.Process(target=_serve, args=(self.width, queue, answers)) for queue in orders]
        for worker in workers:
            worker.start()
        for _ in workers:
            answers.get()
        start = perf_counter()
        for queue in orders:
            queue.put(True)
        results: list[Any] = []
        for _ in range(ROUNDS):
            for queue in orders:
                queue.put(True)
            results += [answers.get() for _ in workers]
        done = self._done(start, results)
        for queue in orders:
            queue.put(False)
        for worker in workers:
            worker.join()
        return done

    def remote(self, api: Any) -> Checked:
        model = api.remote(Model)
        actors = [model.remote() for _ in range(self.cores)]
        api.get([actor.ready.remote() for actor in actors])
        start = perf_counter()
        for actor in actors:
            actor.load.remote(self.width)
        results: list[Any] = []
        for _ in range(ROUNDS):
            results += api.get([actor.evaluate_next_batch.remote() for actor in actors])
        return self._done(start, results)
