"""Shoal and Ray: the loops of `ray microbenchmark` (python/ray/_private/ray_perf.py), with the module passed
in.

Everything remote is defined in a function, so that it travels by value and both libraries see the same code.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

from benchmarks.measure import Plan, in_turns, rates
from benchmarks.peers import Beside, Checked, Loop, Peer
from benchmarks.peers.increments import Contest, check
from benchmarks.peers.physical import copier, large_array
from benchmarks.peers.sharing_ray import SharingRay
from benchmarks.peers.sharing_shoal import SharingShoal
from benchmarks.programs import numerical, remote_loops
from benchmarks.rows import MEMCPY, MEMCPY_WRITTEN

CLIENTS, CALLS_EACH = 4, 5_000  # of "n:n actor calls async": m and n in Ray's program


class Remote:
    """The remote functions and classes of Ray's program, for one library."""

    def __init__(self, api: Any) -> None:
        def small_value() -> bytes:
            return b"ok"

        class Actor:
            def small_value(self) -> bytes:
                return b"ok"

            def small_value_arg(self, x: Any) -> bytes:
                return b"ok"

            def small_value_batch(self, task: Any, n: int) -> None:
                api.get([task.remote() for _ in range(n)])

        class AsyncActor:
            async def small_value(self) -> bytes:
                return b"ok"

        class Client:
            def __init__(self, servers: Any) -> None:
                self.servers = servers if isinstance(servers, list) else [servers]

            def small_value_batch_arg(self, n: int) -> None:
                x = api.put(0)
                results = []
                for s in self.servers:
                    results.extend([s.small_value_arg.remote(x) for _ in range(n)])
                api.get(results)

        def create_object_containing_ref() -> list[Any]:
            return [api.put(1) for _ in range(10_000)]

        def do_put() -> None:
            for _ in range(10):
                api.put(np.zeros(10 * 1024 * 1024, dtype=np.int64))

        def work(actors: list[Any], n: int) -> None:
            api.get([actors[i % len(actors)].small_value.remote() for i in range(n)])

        self.small: Any = api.remote(small_value)
        self.actor: Any = api.remote(num_cpus=0)(Actor)
        self.async_actor: Any = api.remote(AsyncActor)
        self.client: Any = api.remote(num_cpus=0)(Client)
        self.containing: Any = api.remote(create_object_containing_ref)
        self.do_put: Any = api.remote(do_put)
        self.work: Any = api.remote(work)


class RayLike(Peer):
    """A library with Ray's API."""

    module: str

    def __enter__(self) -> RayLike:
        self.api: Any = importlib.import_module(self.module)
        self.start()
        self.remote = Remote(self.api)
        self.contests: dict[int, Contest] = {}
        api, task = self.api, self.remote.small
        api.get([task.remote() for _ in range(20 * self.cores)])  # until all workers are there
        return self

    def __exit__(self, *_: object) -> None:
        self.api.shutdown()

    def start(self) -> None:
        """Start a session with `cores` workers."""
        raise NotImplementedError

    def loops(self) -> dict[str, Loop]:
        return {
            "tasks_sync": self.tasks_sync,
            "tasks_async": self.tasks_async,
            "tasks_batch": self.tasks_batch,
            "tasks_multi": self.tasks_multi,
            "wait_1k": self.wait_1k,
            "wait_call": self.wait_call,
            "actor_sync": lambda plan: self.calls_sync(self.remote.actor.remote(), plan),
            "actor_async": lambda plan: self.calls_async(self.remote.actor.remote(), plan),
            "actor_nn": self.actor_nn,
            "actor_nn_arg": self.actor_nn_arg,
            "async_actor_sync": lambda plan: self.calls_sync(self.remote.async_actor.remote(), plan),
            "async_actor_async": lambda plan: self.calls_async(self.remote.async_actor.remote(), plan),
            "get": self.get,
            "put": lambda plan: rates(lambda: self.api.put(0), 1, plan),
            "put_gb": self.put_gb,
            "put_gb_written": lambda plan: self.put_gb(plan, written=True),
            "put_gb_multi": self.put_gb_multi,
            "get_10k_refs": self.get_10k_refs,
            "lock_1": self.lock_1,
            "lock_2": lambda plan: self.contest(2, plan).rate(),
            "lock_2_fair": lambda plan: self.contest(2, plan).fairness(),
            "lock_4": lambda plan: self.contest(4, plan).rate(),
            "lock_4_fair": lambda plan: self.contest(4, plan).fairness(),
            **remote_loops(self.api, self.cores),
        }

    # -- tasks ----------------------------------------------------------------------------------------------

    def tasks_sync(self, plan: Plan) -> list[float]:
        api, task = self.api, self.remote.small
        return rates(lambda: api.get(task.remote()), 1, plan)

    def tasks_async(self, plan: Plan) -> list[float]:
        api, task = self.api, self.remote.small
        return rates(lambda: api.get([task.remote() for _ in range(1000)]), 1000, plan)

    def tasks_batch(self, plan: Plan) -> list[float]:
        api, task = self.api, self.remote.small

        def small_value_batch() -> int:
            submitted = [task.remote() for _ in range(1000)]
            api.get(submitted)
            return 0

        return rates(small_value_batch, 1, plan)

    def tasks_multi(self, plan: Plan) -> list[float]:
        api, task = self.api, self.remote.small
        n, m = 2_500 if plan.full else 500, 4
        actors = [self.remote.actor.remote() for _ in range(m)]

        def multi_task(n: int = n) -> None:
            api.get([a.small_value_batch.remote(task, n) for a in actors])

        return rates(multi_task, n * m, plan, lambda: multi_task(100))

    def wait_1k(self, plan: Plan) -> list[float]:
        api, task = self.api, self.remote.small

        def wait_multiple_refs() -> None:
            num_objs = 1000
            not_ready = [task.remote() for _ in range(num_objs)]
            fetch_local = True
            for _ in range(num_objs):
                _ready, not_ready = api.wait(not_ready, fetch_local=fetch_local)
                fetch_local = False

        return rates(wait_multiple_refs, 1, plan)

    def wait_call(self, plan: Plan) -> list[float]:
        api, task = self.api, self.remote.small
        refs = [task.remote() for _ in range(1000)]
        api.get(refs)
        return rates(lambda: api.wait(refs, num_returns=1000), 1, plan)

    # -- actors ---------------------------------------------------------------------------------------------

    def calls_sync(self, actor: Any, plan: Plan) -> list[float]:
        api = self.api
        return rates(lambda: api.get(actor.small_value.remote()), 1, plan)

    def calls_async(self, actor: Any, plan: Plan) -> list[float]:
        api = self.api
        return rates(lambda: api.get([actor.small_value.remote() for _ in range(1000)]), 1000, plan)

    def actor_nn(self, plan: Plan) -> list[float]:
        api, work = self.api, self.remote.work
        n, m = CALLS_EACH if plan.full else 100, CLIENTS
        actors = [self.remote.actor.remote() for _ in range(max(1, (os.cpu_count() or 1) // 2))]

        def actor_multi2(n: int = n) -> None:
            api.get([work.remote(actors, n) for _ in range(m)])

        return rates(actor_multi2, n * m, plan, lambda: actor_multi2(100))

    def actor_nn_arg(self, plan: Plan) -> list[float]:
        api, n = self.api, 1000
        actors = [self.remote.actor.remote() for _ in range(max(1, (os.cpu_count() or 1) // 2))]
        clients = [self.remote.client.remote(a) for a in actors]

        def actor_multi2_direct_arg(n: int = n) -> None:
            api.get([c.small_value_batch_arg.remote(n) for c in clients])

        return rates(actor_multi2_direct_arg, n * len(clients), plan, lambda: actor_multi2_direct_arg(100))

    # -- objects --------------------------------------------------------------------------------------------

    def get(self, plan: Plan) -> list[float]:
        api = self.api
        value = api.put(0)
        return rates(lambda: api.get(value), 1, plan)

    def put_gb(self, plan: Plan, written: bool = False) -> list[float] | Beside:
        api, array = self.api, large_array(plan, written)
        return rates(lambda: api.put(array), array.nbytes / 1e9, plan)

    def put_gb_multi(self, plan: Plan) -> list[float]:
        api, do_put = self.api, self.remote.do_put
        work = 10 * 10 * 10 * 1024 * 1024 * 8 / 1e9
        return rates(lambda: api.get([do_put.remote() for _ in range(10)]), work, plan)

    def get_10k_refs(self, plan: Plan) -> list[float]:
        api = self.api
        containing = self.remote.containing.remote()
        return rates(lambda: api.get(containing), 1, plan)

    # -- memory that changes --------------------------------------------------------------------------------

    def lock_1(self, plan: Plan) -> list[float]:
        raise NotImplementedError

    def contest(self, processes: int, plan: Plan) -> Contest:
        """Several processes increment at once; measured once for its two rows."""
        if processes not in self.contests:
            self.contests[processes] = self.contend(processes, plan)
        return self.contests[processes]

    def contend(self, processes: int, plan: Plan) -> Contest:
        raise NotImplementedError


class Shoal(RayLike):
    module = "shoal"

    def loops(self) -> dict[str, Loop]:
        return super().loops() | SharingShoal(self.api).loops() | {"numerical_mutable": self.numerical_mutable}

    def start(self) -> None:
        self.api.init(num_cpus=self.cores)

    def put_gb(self, plan: Plan, written: bool = False) -> Beside:
        api, array = self.api, large_array(plan, written)
        put, copied = in_turns([lambda: api.put(array), copier(array)], array.nbytes / 1e9, plan)
        return Beside(put, MEMCPY_WRITTEN if written else MEMCPY, copied)

    def numerical_mutable(self, plan: Plan) -> Checked:
        return numerical.Program(self.cores, plan).remote(self.api, mutable=True)

    def lock_1(self, plan: Plan) -> list[float]:
        api = self.api
        ref = api.put(np.zeros(1, np.int64), mutable=True)
        array, lock = api.get(ref), api.lock(ref)

        def increment() -> None:
            for _ in range(1000):
                with lock:
                    array[0] += 1

        return rates(increment, 1000, plan)

    def contend(self, processes: int, plan: Plan) -> Contest:
        api = self.api

        class Incrementer:
            def __init__(self, refs: list[Any]) -> None:
                self.array, self.lock = api.get(refs[0]), api.lock(refs[0])

            def ready(self) -> int:
                return os.getpid()

            def run(self, start: float, seconds: float) -> int:
                from benchmarks.peers.increments import between

                array, lock = self.array, self.lock

                def batch() -> int:
                    for _ in range(100):
                        with lock:
                            array[0] += 1
                    return 100

                return between(start, seconds, batch)

        ref = api.put(np.zeros(1, np.int64), mutable=True)
        remote = api.remote(num_cpus=0)(Incrementer)
        actors = [remote.remote([ref]) for _ in range(processes)]
        api.get([actor.ready.remote() for actor in actors])
        contest = Contest.announce(plan)
        counts = api.get([actor.run.remote(contest.start, contest.seconds) for actor in actors])
        check(counts, int(api.get(ref)[0]))
        return contest.finished(counts)


class Ray(RayLike):
    module = "ray"

    def loops(self) -> dict[str, Loop]:
        counters = {
            "counter_1": self.lock_1,  # an actor, whatever is counted
            "counter_2": lambda plan: self.contest(2, plan).rate(),
            "counter_4": lambda plan: self.contest(4, plan).rate(),
        }
        return super().loops() | SharingRay(self.api).loops() | counters

    def start(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.api.init(num_cpus=self.cores, logging_level="ERROR", log_to_driver=False)

    def _counter(self) -> Any:
        class Counter:
            def __init__(self) -> None:
                self.value = 0

            def increment(self) -> int:
                self.value += 1
                return self.value

        return self.api.remote(num_cpus=0)(Counter).remote()

    def lock_1(self, plan: Plan) -> list[float]:
        api, counter = self.api, self._counter()
        return rates(lambda: api.get(counter.increment.remote()), 1, plan)

    def contend(self, processes: int, plan: Plan) -> Contest:
        api, counter = self.api, self._counter()

        class Incrementer:
            def ready(self) -> int:
                return os.getpid()

            def run(self, counter: Any, start: float, seconds: float) -> int:
                from benchmarks.peers.increments import between

                def one() -> int:
                    api.get(counter.increment.remote())
                    return 1

                return between(start, seconds, one)

        remote = api.remote(num_cpus=0)(Incrementer)
        actors = [remote.remote() for _ in range(processes)]
        api.get([actor.ready.remote() for actor in actors])
        contest = Contest.announce(plan)
        counts = api.get([actor.run.remote(counter, contest.start, contest.seconds) for actor in actors])
        check(counts, api.get(counter.increment.remote()) - 1)
        return contest.finished(counts)
