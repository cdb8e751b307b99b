"""What a user of Ray writes for the group "sharing": an actor that holds the state, and calls to it."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.measure import Plan, rates
from benchmarks.peers import Loop, sharing
from benchmarks.peers.increments import Contest, between


class _Holder:
    """The state: a value, the newest version of a large array, a dict, a replay buffer."""

    def __init__(self) -> None:
        self.values = {"key": 0}
        self.table = sharing.table()
        self.latest: list[Any] = []
        self.number = 0

    def ready(self) -> int:
        return os.getpid()

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value

    def get(self, key: str) -> Any:
        return self.values[key]

    def total(self) -> float:
        return float(self.table.sum())

    def publish(self, refs: list[Any]) -> None:
        self.latest = refs
        self.number += 1

    def newest(self) -> list[Any]:
        return self.latest

    def fill_ring(self, count: int) -> None:
        self.frames = np.empty((count, *sharing.FRAME), np.uint8)
        some = sharing.frames(1000)
        for start in range(0, count, 1000):
            self.frames[start : start + 1000] = some
        self.chances = np.random.default_rng(1).random(count) + 0.1
        self.chances = np.cumsum(self.chances / self.chances.sum())
        self.rng = np.random.default_rng(2)

    def sample(self, count: int) -> Any:
        places = np.searchsorted(self.chances, self.rng.random(count))
        return self.frames[np.minimum(places, len(self.frames) - 1)]


class _News:
    """Tells those who wait of a new stamp."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.stamp = 0

    async def set(self, stamp: int) -> None:
        self.stamp = stamp
        self.changed.set()

    async def next(self) -> int:
        await self.changed.wait()
        self.changed.clear()
        return self.stamp


class _Partner:
    """The other process of each row."""

    def fill(self, queue: Any, batch: int, singly: bool) -> None:
        from ray.util.queue import Full

        items: Any = list(range(batch)) if batch else 1
        while True:
            if not batch or not singly:
                queue.put(items)
                continue
            try:
                queue.put_nowait_batch(items)
            except Full:
                pass

    def ready(self) -> int:
        return os.getpid()

    def read(self, holder: Any, start: float, seconds: float) -> int:
        import ray

        def once() -> int:
            ray.get(holder.total.remote())
            return 1

        return between(start, seconds, once)

    def rewrite(self, holder: Any) -> None:
        import ray

        state = np.zeros(sharing.STATE_BYTES // 8)
        while True:
            state[:1000] += 1
            ray.get(holder.publish.remote([ray.put(state)]))

    def publish(self, news: Any, count: int) -> None:
        sharing.publish(news.set.remote, count)


class SharingRay:
    """The rows of the group "sharing" for a session of Ray."""

    def __init__(self, api: Any) -> None:
        self.api = api

    def loops(self) -> dict[str, Loop]:
        return {
            "readers_1": lambda plan: self.readers(1, plan),
            "readers_2": lambda plan: self.readers(2, plan),
            "readers_4": lambda plan: self.readers(4, plan),
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
    def actor(self, cls: Any) -> Any:
        actor = self.api.remote(num_cpus=0)(cls).remote()
        try:
            yield actor
        finally:
            self.api.kill(actor)

    def readers(self, processes: int, plan: Plan) -> list[float]:
        api = self.api
        with self.actor(_Holder) as holder:
            remote = api.remote(num_cpus=0)(_Partner)
            actors = [remote.remote() for _ in range(processes)]
            api.get([actor.ready.remote() for actor in actors])
            contest = Contest.announce(plan)
            counts = api.get([actor.read.remote(holder, contest.start, contest.seconds) for actor in actors])
            for actor in actors:
                api.kill(actor)
            return contest.finished(counts).rate()

    def woken(self, plan: Plan) -> list[float]:
        with self.actor(_News) as news, self.actor(_Partner) as partner:
            partner.publish.remote(news, sharing.stamps(plan))
            return sharing.delays(lambda: int(self.api.get(news.next.remote())), plan)

    def versioned(self, plan: Plan) -> list[float]:
        api = self.api
        with self.actor(_Holder) as holder, self.actor(_Partner) as partner:
            partner.rewrite.remote(holder)
            while not api.get(holder.newest.remote()):
                pass
            return rates(lambda: api.get(api.get(holder.newest.remote())[0]), 1, plan)

    def queue(self, batch: int, singly: bool, plan: Plan) -> list[float]:
        from ray.util.queue import Empty, Queue

        queue = Queue(maxsize=sharing.QUEUE_ROOM if singly else sharing.QUEUE_ROOM // batch, actor_options={"num_cpus": 0})

        def get() -> int:
            if batch and singly:
                try:
                    return len(queue.get_nowait_batch(batch))
                except Empty:
                    return 0
            item = queue.get()
            return len(item) if batch else 1

        with self.actor(_Partner) as partner:
            partner.fill.remote(queue, batch, singly)
            try:
                return sharing.flow(get, plan)
            finally:
                queue.shutdown(force=True)

    def table(self, write: bool, plan: Plan) -> list[float]:
        api = self.api
        with self.actor(_Holder) as holder:
            return rates(lambda: api.get(holder.set.remote("key", 0) if write else holder.get.remote("key")), 1, plan)

    def ring(self, plan: Plan) -> list[float]:
        api = self.api
        with self.actor(_Holder) as holder:
            api.get(holder.fill_ring.remote(sharing.transitions(plan)))
            size = api.get(holder.sample.remote(sharing.DRAWN)).nbytes / 1e9
            return rates(lambda: api.get(holder.sample.remote(sharing.DRAWN)), size, plan)
