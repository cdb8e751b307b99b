"""When another worker is forked, and which one leaves again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import shoal
from conftest import until
from shoal import _core
from shoal.engine.local import supervisor as module
from shoal.engine.local.supervisor import GROW_AGAIN_S, PATIENCE_S, Supervisor


@pytest.fixture
def supervisor(monkeypatch):
    """One with two workers that are alive, and a clock and a demand of its own; `forked` counts what it would have forked."""
    one = object.__new__(Supervisor)
    one.cpus, one.next_growth, one.short_since, one.forked = 2, 0.0, None, 0
    one.children = {slot: SimpleNamespace(slot=slot) for slot in (2, 3)}
    one.now, one.demand = 100.0, (0, 0, 2)

    def fork(n):
        one.forked += n
        return True

    one._fork_workers = fork
    alive = module._ALIVE
    core = SimpleNamespace(
        demand=lambda: one.demand, slot_info=lambda _: (alive, _core.WORKER, 0, 0, ""), ACTOR=_core.ACTOR, WORKER=_core.WORKER
    )
    monkeypatch.setattr(module, "_core", core)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: one.now))
    return one


def test_who_has_just_finished_takes_the_next_task(supervisor):
    assert supervisor._grow() is None
    supervisor.demand = (1, 0, 2)  # a task waits; nobody looks for one yet, but two have nothing to run
    assert supervisor._grow() == GROW_AGAIN_S
    supervisor.demand = (0, 1, 1)  # taken
    supervisor.now += 2 * PATIENCE_S
    assert supervisor._grow() is None
    supervisor.demand = (1, 0, 2)
    assert supervisor._grow() == GROW_AGAIN_S
    assert supervisor.forked == 0


def test_who_needs_too_long_for_what_it_drops_is_not_waited_for(supervisor):
    supervisor.demand = (1, 0, 1)
    supervisor._grow()
    supervisor.now += 2 * PATIENCE_S
    supervisor._grow()
    assert supervisor.forked == 1


def test_who_waits_inside_a_task_is_no_help(supervisor):
    supervisor.demand = (1, 0, 0)
    supervisor._grow()
    assert supervisor.forked == 1


def test_the_youngest_worker_leaves(fresh):
    """The others have imported more by then."""
    fresh(num_cpus=1)

    @shoal.remote
    def nothing():
        pass

    def workers():
        return {p["pid"] for p in _core.processes() if p["role"] == _core.WORKER}

    shoal.get(nothing.remote())
    (first,) = workers()
    event = shoal.sync.Event()

    @shoal.remote
    def waits():
        event.wait()

    refs = [waits.remote(), waits.remote()]
    until(lambda: len(workers()) > 1)
    event.set()
    shoal.get(refs)
    until(lambda: workers() == {first})
