"""Deaths that come at the same time, or between two steps of the one who died."""

from __future__ import annotations

import os
import signal
import traceback

import numpy as np
import pytest

import shoal
from conftest import ALIVE, audit, until
from shoal import _core


def test_several_processes_that_die_at_once(fresh):
    """Each may hold a lock that the supervisor needs to clear up after another one."""
    fresh(num_cpus=4, log_to_driver=False)

    @shoal.remote(max_retries=0)
    def churn(started, me):
        data = b"x" * 40_000
        while True:
            refs = [shoal.put(data) for _ in range(8)]
            started[me] += 1
            refs.clear()

    @shoal.remote
    def one():
        return 1

    for _ in range(15):
        ref = shoal.put(np.zeros(4, np.int64), mutable=True)
        started = shoal.get(ref)
        calls = [churn.remote(ref, me) for me in range(4)]
        until(lambda started=started: started.min() > 5)
        pids = [p["pid"] for p in _core.processes() if p["running"] and p["slot"] > 1]
        for sent in (
            signal.SIGSTOP,
            signal.SIGKILL,
        ):  # stopped first, so that all die with what they have in hand
            for pid in pids:
                os.kill(pid, sent)
        for call in calls:
            with pytest.raises(shoal.exceptions.WorkerCrashedError):
                shoal.get(call, timeout=30)
        assert shoal.get(one.remote(), timeout=30) == 1
    del calls, call, ref, started
    audit()


def test_a_process_that_dies_while_it_submits_an_actor(fresh):
    """The actor has its name by then, and nobody will ever create it: the name must not be lost."""
    fresh()

    class Deadly:
        def __reduce__(self):
            os.kill(os.getpid(), signal.SIGKILL)

    @shoal.remote
    class Actor:
        def ping(self):
            return "pong"

    @shoal.remote(max_retries=0)
    def make():
        Actor.options(name="wanted").remote(Deadly())

    with pytest.raises(shoal.exceptions.WorkerCrashedError):
        shoal.get(make.remote())
    until(lambda: not _core.actors())
    actor = Actor.options(name="wanted").remote()
    assert shoal.get(actor.ping.remote()) == "pong"
    del actor
    until(lambda: not _core.actors())
    audit()


def test_actors_killed_and_forgotten_while_their_processes_die(fresh):
    """The one who forgets the last handle frees the actor while the supervisor still sees to its dead process."""
    fresh(num_cpus=2, log_to_driver=False)

    @shoal.remote
    class Short:
        def who(self):
            return 3

    for round_ in range(150):
        actor = Short.remote()
        if round_ % 3:
            shoal.kill(actor)
        del actor
        for process in _core.processes():
            if process["slot"] > 1 and process["pid"] > 0 and round_ % 2:
                try:
                    os.kill(process["pid"], signal.SIGKILL)
                except ProcessLookupError:  # shoal.kill() had been for it, and it is buried
                    pass
    actor = Short.remote()
    assert shoal.get(actor.who.remote(), timeout=30) == 3
    del actor
    until(lambda: not _core.actors())
    audit()


def test_a_generator_that_dies_after_its_item_was_sealed(fresh):
    """Whatever moment it is, the reader gets an error and not an endless wait."""
    fresh(log_to_driver=False)

    @shoal.remote(max_retries=0)
    def numbers():
        yield from range(1_000_000)

    for _ in range(10):
        items = numbers.remote()
        taken = [shoal.get(next(items)) for _ in range(20)]
        (pid,) = (p["pid"] for p in _core.processes() if p["running"] and p["slot"] > 1 and p["state"] == ALIVE)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(shoal.exceptions.WorkerCrashedError):
            for item in items:
                taken.append(shoal.get(item, timeout=30))
        assert taken == list(range(len(taken)))


class Unlucky(Exception):
    """Ends its process when it is pickled for a call of the actor that it has just been the end of."""

    def __reduce__(self):
        if any(frame.name == "mourn" for frame in traceback.extract_stack()):
            os.kill(os.getpid(), signal.SIGKILL)
        return Unlucky, ()


def test_an_actor_that_was_declared_dead_stays_dead(fresh):
    """Its process dies after it has said so, and before the record is gone that a restart would run again."""
    fresh()

    @shoal.remote(max_restarts=-1, max_task_retries=-1)
    class Flawed:
        def __init__(self, lives, _go):
            shoal.get(lives[0])[0] += 1
            if shoal.get(lives[0])[0] == 1:
                raise Unlucky

        def one(self, _before=None):
            return 1

    lives = shoal.zeros(1, "i8")
    go, late = shoal.Queue(), shoal.Queue()
    arrives = shoal.remote(lambda queue: queue.get(timeout=60))
    actor = Flawed.remote([lives], arrives.remote(go))
    calls = [actor.one.remote(), actor.one.remote(arrives.options(num_cpus=0).remote(late)), actor.one.remote()]
    go.put(1)
    for call in (calls[0], calls[2], calls[1], actor.one.remote()):
        with pytest.raises(shoal.exceptions.ActorDiedError):
            shoal.get(call, timeout=30)
    assert shoal.get(lives)[0] == 1, "it was made again"
    late.put(1)
    del actor, calls, call, lives, go, late
    audit()
