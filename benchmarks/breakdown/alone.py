"""A session that consists of one process, and the steps of calls in it.

It uses Shoal's internals as session.py and worker.py do, without a supervisor and without forking: this
process submits a call, takes it from the queue as a worker would, runs it, and gets the result.
"""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import shoal
from shoal.engine.local import session
from shoal.engine.local.actor_host import Host
from shoal.engine.local.engine import LocalEngine
from shoal.engine.local.worker import Worker

_core: Any = importlib.import_module("shoal._core")

ARENA_BYTES = 256 << 20
# What is taken from the cost of the others: an empty loop, and what is no loop.
EMPTY_LOOP, NOTHING = "empty loop", "nothing"
WAITED = 500  # references, as many as "wait 1k refs" waits for in the mean
WORKERS_STEP = "take, call, finish"  # the others are the caller's


@dataclass(frozen=True)
class Step:
    """Part of what a call costs: `run(n)` does it n times. Steps of one subject follow each other as listed.

    `less` is the step whose cost does not belong to it.
    """

    subject: str
    name: str
    run: Callable[[int], None]
    less: str = EMPTY_LOOP


class _NoSupervisor(session.Session):
    """A session that starts no other process."""

    def _enter(self, settings: dict[str, Any]) -> LocalEngine:
        # What tells of a death is an eventfd that never tells: valgrind does not know pidfd_open.
        real = os.pidfd_open, session.spawn_supervisor
        os.pidfd_open, session.spawn_supervisor = lambda pid, flags=0: os.eventfd(0), lambda *_: os.getpid()
        try:
            return super()._enter(settings)
        finally:
            os.pidfd_open, session.spawn_supervisor = real

    def _end_supervisor(self) -> None:
        os.close(self._pidfd)


class Alone:
    """The session. There can be one in a process, and no other."""

    def __enter__(self) -> Alone:
        self.session = _NoSupervisor()
        engine: Any = self.session.start({"num_cpus": 1, "object_store_memory": ARENA_BYTES})
        self.output = os.open(os.devnull, os.O_WRONLY)
        self.worker = Worker(engine.config, self.output)
        self.refs: list[Any] = []
        self.host: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        self.refs.clear()
        self.session.end()
        os.close(self.output)

    def steps(self) -> list[Step]:
        """All that is measured."""
        value = shoal.put(0)
        array_ref = shoal.put(bytearray(64), mutable=True)
        lock = shoal.lock(array_ref)
        task = shoal.remote(_small_value)
        actor = self._actor()
        refs = self.refs
        many = [shoal.put(0) for _ in range(WAITED)]

        def nothing(n: int) -> None:
            pass

        def empty_loop(n: int) -> None:
            for _ in range(n):
                pass

        def put(n: int) -> None:
            put = shoal.put
            for _ in range(n):
                put(0)

        def get(n: int) -> None:
            get = shoal.get
            for _ in range(n):
                get(value)

        def take_lock(n: int) -> None:
            for _ in range(n):
                with lock:
                    pass

        def wait(n: int) -> None:
            wait = shoal.wait
            for _ in range(n):
                wait(many)

        def slice_of_list(n: int) -> None:
            for _ in range(n):
                many[1:]

        def submit(n: int) -> None:
            refs.extend([task.remote() for _ in range(n)])

        def run(n: int) -> None:
            next_task, run = _core.next_task, self.worker.run
            for _ in range(n):
                run(next_task())

        def call(n: int) -> None:
            refs.extend([actor.small_value.remote() for _ in range(n - 1)])
            refs.append(actor.last.remote())

        def serve(n: int) -> None:
            self.host.exit_code = None  # `last` sets it
            self.host._serve_one()

        def get_results(n: int) -> None:
            shoal.get(refs)

        def drop(n: int) -> None:
            refs.clear()

        return [
            Step(NOTHING, NOTHING, nothing, NOTHING),
            Step(EMPTY_LOOP, EMPTY_LOOP, empty_loop, EMPTY_LOOP),
            Step("put", "put(0), and its reference dropped", put),
            Step("get", "get(ref) of a small value", get),
            Step("lock", "with lock: (free)", take_lock),
            Step("wait", f"wait(refs), {WAITED} that are done", wait),
            Step("wait", f"refs[1:], a list of {WAITED} and nothing else", slice_of_list),
            Step("task", "f.remote()", submit),
            Step("task", WORKERS_STEP, run),
            Step("task", "get", get_results, NOTHING),
            Step("task", "drop the references", drop, NOTHING),
            Step("actor call", "actor.f.remote()", call),
            Step("actor call", WORKERS_STEP, serve),
            Step("actor call", "get", get_results, NOTHING),
            Step("actor call", "drop the references", drop, NOTHING),
        ]

    def _actor(self) -> Any:
        """An actor that lives in this process, and is served when asked."""
        alone = self

        class Small:
            def small_value(self) -> bytes:
                return b"ok"

            def last(self) -> bytes:
                alone.host.exit_code = 0  # so that Host._serve_one returns
                return b"ok"

        actor = shoal.remote(_Handle).remote()
        task, _kind, _class, _method, args, *_ = _core.next_task()
        handle = _core.task_info(task)["actor"]
        _core.actor_alive(handle, task, False)
        _core.finish_silent(task)
        self.host = Host(self.worker, handle, "Small", Small(), Small, args[0], False)
        return actor


class _Handle:
    """What the handle is made of: the methods of Small, without what they do, so that it can be pickled."""

    def small_value(self) -> bytes:
        return b""

    def last(self) -> bytes:
        return b""


def _small_value() -> bytes:
    return b"ok"


def each(n: int, around: Callable[[Step, Callable[[], None]], None]) -> None:
    """Run all steps, first to warm up, then with `around(step, run)` about each."""
    with Alone() as alone:
        steps = alone.steps()
        for step in steps * 3:
            step.run(n)
        gc.collect()
        gc.disable()
        try:
            for step in steps:
                around(step, lambda step=step: step.run(n))  # type: ignore[misc]
        finally:
            gc.enable()
