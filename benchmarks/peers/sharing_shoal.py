"""Shoal's containers and Versioned."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.measure import Plan, rates
from benchmarks.peers import Loop, sharing
from benchmarks.peers.increments import Contest, between, check


class _Partner:
    """The other process of each row."""

    def ready(self) -> int:
        return os.getpid()

    def fill(self, queue: Any, batch: int, singly: bool) -> None:
        items: Any = list(range(batch)) if batch else 1
        put = queue.put_batch if batch and singly else queue.put
        while True:
            put(items)

    def add(self, counter: Any, start: float, seconds: float) -> int:
        def batch() -> int:
            for _ in range(100):
                counter.add()
            return 100

        return between(start, seconds, batch)

    def read(self, refs: list[Any], start: float, seconds: float) -> int:
        import shoal

        return sharing.read_all(shoal.lock(refs[0]).shared(), shoal.get(refs[0]), start, seconds)

    def answer(self, refs: list[Any]) -> None:
        import shoal

        sharing.answer(shoal.get(refs[0]), shoal.get(refs[1]))

    def publish(self, cell: Any, count: int) -> None:
        sharing.publish(cell.set, count)

    def rewrite(self, cell: Any) -> None:
        number = 0
        while True:
            number += 1
            with cell.update() as draft:
                draft[:1000] = number


class SharingShoal:
    """The rows of the group "sharing" for a session of Shoal."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.contests: dict[int, Contest] = {}

    def loops(self) -> dict[str, Loop]:
        return {
            "counter_1": self.counter,
            "counter_2": lambda plan: self.contest(2, plan).rate(),
            "counter_4": lambda plan: self.contest(4, plan).rate(),
            "readers_1": lambda plan: self.readers(1, plan),
            "readers_2": lambda plan: self.readers(2, plan),
            "readers_4": lambda plan: self.readers(4, plan),
            "seen_spinning": self.seen,
            "seen_asleep": self.woken,
            "versioned_get": self.versioned,
            "queue_one": lambda plan: self.queue(0, True, plan),
            "queue_batch": lambda plan: self.queue(sharing.BATCH, True, plan),
            "queue_lists": lambda plan: self.queue(sharing.BATCH, False, plan),
            "dict_set": lambda plan: self.table(True, plan),
            "dict_get": lambda plan: self.table(False, plan),
            "ring": self.ring,
        }

    @contextmanager
    def partner(self) -> Any:
        actor = self.api.remote(num_cpus=0)(_Partner).remote()
        self.api.get(actor.ready.remote())
        try:
            yield actor
        finally:
            self.api.kill(actor)

    def counter(self, plan: Plan) -> list[float]:
        counter = self.api.Counter()

        def add() -> None:
            for _ in range(1000):
                counter.add()

        return rates(add, 1000, plan)

    def contest(self, processes: int, plan: Plan) -> Contest:
        if processes not in self.contests:
            counter, remote = self.api.Counter(), self.api.remote(num_cpus=0)(_Partner)
            actors = [remote.remote() for _ in range(processes)]
            self.api.get([actor.ready.remote() for actor in actors])
            contest = Contest.announce(plan)
            counts = self.api.get([actor.add.remote(counter, contest.start, contest.seconds) for actor in actors])
            check(counts, counter.value)
            self.contests[processes] = contest.finished(counts)
        return self.contests[processes]

    def readers(self, processes: int, plan: Plan) -> list[float]:
        ref, remote = self.api.put(sharing.table(), mutable=True), self.api.remote(num_cpus=0)(_Partner)
        actors = [remote.remote() for _ in range(processes)]
        self.api.get([actor.ready.remote() for actor in actors])
        contest = Contest.announce(plan)
        counts = self.api.get([actor.read.remote([ref], contest.start, contest.seconds) for actor in actors])
        return contest.finished(counts).rate()

    def seen(self, plan: Plan) -> list[float]:
        refs = [self.api.put(np.zeros(1, np.int64), mutable=True) for _ in range(2)]
        with self.partner() as actor:
            done = actor.answer.remote(refs)
            found = sharing.turns(*self.api.get(refs), plan)
            self.api.get(done)
        return found

    def woken(self, plan: Plan) -> list[float]:
        cell = self.api.Versioned(0)
        version = cell.version

        def next_stamp() -> int:
            nonlocal version
            version = cell.wait(newer_than=version)
            return int(cell.get())

        with self.partner() as actor:
            actor.publish.remote(cell, sharing.stamps(plan))
            return sharing.delays(next_stamp, plan)

    def versioned(self, plan: Plan) -> list[float]:
        cell = self.api.Versioned(np.zeros(sharing.STATE_BYTES // 8))
        with self.partner() as actor:
            actor.rewrite.remote(cell)
            before = cell.wait(newer_than=cell.version)
            found = rates(cell.get, 1, plan)
            if cell.version == before:
                raise AssertionError("nothing was published meanwhile")
            return found

    def queue(self, batch: int, singly: bool, plan: Plan) -> list[float]:
        queue = self.api.Queue(sharing.QUEUE_ROOM if singly else sharing.QUEUE_ROOM // batch)

        def get() -> int:
            if batch and singly:
                return len(queue.get_batch(batch))
            item = queue.get()
            return len(item) if batch else 1

        with self.partner() as actor:
            actor.fill.remote(queue, batch, singly)
            return sharing.flow(get, plan)

    def table(self, write: bool, plan: Plan) -> list[float]:
        values = self.api.Dict({"key": 0})

        def put_small() -> None:
            values["key"] = 0

        return rates(put_small if write else lambda: values["key"], 1, plan)

    def ring(self, plan: Plan) -> list[float]:
        count = sharing.transitions(plan)
        ring = self.api.Ring(count, {"frame": (sharing.FRAME, "uint8")}, prioritized=True)
        some = sharing.frames(1000)
        for _ in range(0, count, 1000):
            places = ring.extend(frame=some)
            ring.update_priorities(places, np.random.default_rng(1).random(1000) + 0.1)
        out = ring.sample(sharing.DRAWN, prioritized=True)
        size = out["frame"].nbytes / 1e9
        return rates(lambda: ring.sample(sharing.DRAWN, prioritized=True, out=out), size, plan)
