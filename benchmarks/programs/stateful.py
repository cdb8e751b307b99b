"""Count the prefixes of the words of many documents, and keep those that are frequent.

The counts are the state: an actor keeps it, a pool must take it along with every document.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.measure import Plan
from benchmarks.peers import Checked

Document = list[bytes]
DOCUMENTS_PER_CORE = 4


class PrefixCount:
    """Counts of all prefixes, and those seen more than three times. The work, the same for everybody."""

    def __init__(self) -> None:
        self.prefix_count: dict[bytes, int] = defaultdict(int)
        self.popular_prefixes: set[bytes] = set()

    def ready(self) -> bool:
        return True

    def add_document(self, document: Document) -> None:
        for word in document:
            for i in range(1, len(word)):
                prefix = word[:i]
                self.prefix_count[prefix] += 1
                if self.prefix_count[prefix] > 3:
                    self.popular_prefixes.add(prefix)

    def get_popular(self) -> set[bytes]:
        return self.popular_prefixes


def _accumulate(arguments: tuple[PrefixCount, Document]) -> PrefixCount:
    counts, document = arguments
    counts.add_document(document)
    return counts


def _serve(orders: Any, answers: Any) -> None:
    counts = PrefixCount()
    answers.put(None)
    while (document := orders.get()) is not None:
        counts.add_document(document)
    answers.put(counts.get_popular())


class Program:
    """The input: documents of 10,000 words of 20 random bytes, made before the clock starts."""

    def __init__(self, cores: int, plan: Plan) -> None:
        rng = np.random.default_rng(2)
        words = 10_000 if plan.full else 500
        self.cores = cores
        self.documents = [[rng.bytes(20) for _ in range(words)] for _ in range(DOCUMENTS_PER_CORE * cores)]

    def serial(self) -> Checked:
        """One count per core's share, so that the result is that of the others."""
        start = perf_counter()
        counts = [PrefixCount() for _ in range(self.cores)]
        for i, document in enumerate(self.documents):
            counts[i % self.cores].add_document(document)
        return self._done(start, [count.get_popular() for count in counts])

    def share(self, core: int) -> set[bytes]:
        """A core's part of the work."""
        count = PrefixCount()
        for document in self.documents[core :: self.cores]:
            count.add_document(document)
        return count.get_popular()

    @staticmethod
    def _done(start: float, results: list[set[bytes]]) -> Checked:
        popular: set[bytes] = set()
        for prefixes in results:
            popular |= prefixes
        return Checked([perf_counter() - start], float(len(popular)))

    def pool(self, pool: Any) -> Checked:
        start = perf_counter()
        counts = [PrefixCount() for _ in range(self.cores)]
        for first in range(0, len(self.documents), self.cores):
            batch = self.documents[first : first + self.cores]
            counts = pool.map(_accumulate, zip(counts, batch, strict=True))
        return self._done(start, [count.get_popular() for count in counts])

    def by_hand(self) -> Checked:
        """A process per core that keeps its counts, fed through a queue."""
        answers: Any = multiprocessing.SimpleQueue()
        orders: list[Any] = [multiprocessing.SimpleQueue() for _ in range(self.cores)]
        workers = [multiprocessing.Process(target=_serve, args=(queue, answers)) for queue in orders]
        for worker in workers:
            worker.start()
        for _ in workers:
            answers.get()
        start = perf_counter()
        for i, document in enumerate(self.documents):
            orders[i % self.cores].put(document)
        for queue in orders:
            queue.put(None)
        result = self._done(start, [answers.get() for _ in workers])
        for worker in workers:
            worker.join()
        return result

    def remote(self, api: Any) -> Checked:
        streaming_prefix_count = api.remote(PrefixCount)
        actors = [streaming_prefix_count.remote() for _ in range(self.cores)]
        api.get([actor.ready.remote() for actor in actors])
        start = perf_counter()
        for i, document in enumerate(self.documents):
            actors[i % self.cores].add_document.remote(document)
        return self._done(start, api.get([actor.get_popular.remote() for actor in actors]))
