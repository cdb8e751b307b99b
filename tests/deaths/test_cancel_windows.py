"""Cancellations that come at the edges of a call: before its function is called, and once it has raised."""

import signal

import numpy as np
import pytest

import shoal
from conftest import until
from shoal import _core
from shoal.engine.local import engine
from shoal.exceptions import TaskCancelledError

pytestmark = [
    pytest.mark.usefixtures("audited"),
    pytest.mark.filterwarnings("ignore::shoal.exceptions.SchedulingWarning"),
]


def worker():
    return signal.getsignal(signal.SIGINT).__self__


def steps():
    """An array in which the two sides tell each other how far they are; its reference."""
    ref = shoal.put(np.zeros(1), mutable=True)
    return shoal.get(ref), ref


def test_a_call_of_an_actor_that_was_taken_but_not_begun():
    @shoal.remote
    class Actor:
        def __init__(self, step):
            take = _core.next_mail

            def take_late(*args):
                call = take(*args)
                if call is not None and step[0] == 1:
                    step[0] = 2
                    until(lambda: worker().interrupt_missed)
                return call

            _core.next_mail = take_late

        def quick(self):
            return "well"

    step, ref = steps()
    actor = Actor.remote(ref)
    assert shoal.get(actor.quick.remote()) == "well"
    step[0] = 1
    call = actor.quick.remote()
    until(lambda: step[0] == 2)
    shoal.cancel(call)
    with pytest.raises(TaskCancelledError):
        shoal.get(call, timeout=30)
    step[0] = 3
    assert shoal.get(actor.quick.remote()) == "well"


def raises_and_is_interrupted(step):
    """The signal comes when the exception is being told already."""
    me = worker()
    caught = me.caught

    def caught_late(*args):
        me.caught = caught
        step[0] = 1
        until(lambda: me.interrupt_missed)
        return caught(*args)

    me.caught = caught_late
    raise ValueError("its own")


@shoal.remote
class Host:
    def call(self, step):
        raises_and_is_interrupted(step)

    def well(self):
        return "well"


@pytest.mark.parametrize("kind", ["task", "call of an actor"])
def test_a_call_that_has_raised(kind):
    step, ref = steps()
    host = Host.remote()
    call = host.call.remote(ref) if kind != "task" else shoal.remote(max_retries=0)(raises_and_is_interrupted).remote(ref)
    until(lambda: step[0] == 1)
    shoal.cancel(call)
    with pytest.raises(TaskCancelledError):
        shoal.get(call, timeout=30)
    assert shoal.get(host.well.remote()) == "well"


@shoal.remote(num_cpus=0)
def same(x):
    return x


def test_what_the_clean_up_submits_before_the_canceller_looks_for_children(monkeypatch):
    @shoal.remote(num_cpus=0)
    def parent(step, out):
        assert shoal.get(same.remote(1)) == 1  # so there may be children
        try:
            step[0] = 1
            until(lambda: step[0] == 2)
        finally:
            out.put([same.options(num_cpus=100).remote("waits")])

    step, ref = steps()
    out = shoal.Queue()
    call = parent.remote(ref, out)
    until(lambda: step[0] == 1)
    look, found = engine.end_children, []

    def look_late(*args):
        found.append(out.get(timeout=30))
        look(*args)

    monkeypatch.setattr(engine, "end_children", look_late)
    shoal.cancel(call)
    with pytest.raises(TaskCancelledError):
        shoal.get(call, timeout=30)
    ((waits,),) = found
    assert shoal.wait([waits], timeout=0)[0] == [], "it waits for CPUs that there are not, and was not cancelled"
    shoal.cancel(waits)
