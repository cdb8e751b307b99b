"""Narrow windows in the life of a task: records and entries used again at once, wake-ups, threads."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest

import shoal
from conftest import audit, until
from shoal import _core

SECONDS = 3.0  # for the one that can only try often


@pytest.mark.usefixtures("session")
def test_an_entry_that_is_used_again_while_its_maker_still_looks_at_it():
    """The last dependent of an object runs, the object goes, and its entry becomes one that others depend on.

    Who made the object must not take those for its own dependents, and make them run early.
    """

    @shoal.remote
    def one():
        return 1

    @shoal.remote
    def same(value, want):
        assert value == want
        return value

    @shoal.remote
    def seven():
        until(lambda: True)
        return 7

    @shoal.remote
    def nest():
        return shoal.get([same.remote(seven.remote(), 7) for _ in range(3)])

    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        calls = [same.remote(one.remote(), 1) for _ in range(20)]
        nests = [nest.remote() for _ in range(10)]
        assert shoal.get(calls) == [1] * 20
        assert shoal.get(nests) == [[7, 7, 7]] * 10
    del calls, nests
    audit()


@pytest.mark.usefixtures("session")
def test_threads_that_submit_calls_of_more_than_a_megabyte():
    """The memory of such a record is made present in a long system call; one at a time is being built."""

    @shoal.remote
    def count(*texts):
        return len(texts)

    def submit():
        for _ in range(10):
            results.append(shoal.get(count.remote(*texts)))

    texts, results = ["x" * 60_000] * 40, []
    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [40] * 40


@pytest.mark.usefixtures("session")
def test_threads_that_put_references_each_keep_their_own():
    """What a value contains is collected while it is pickled, which runs Python: threads take turns."""

    class Slow:
        def __init__(self, ref):
            self.ref = ref

        def __reduce__(self):
            time.sleep(0)  # lets go of the GIL
            return Slow, (self.ref,)

    def work(me):
        for i in range(100):
            outer = shoal.put([Slow(shoal.put(f"{me} {i}")) for _ in range(3)])
            results.append([shoal.get(slow.ref) for slow in shoal.get(outer)] == [f"{me} {i}"] * 3)

    results: list[bool] = []
    threads = [threading.Thread(target=work, args=(me,)) for me in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 300
    audit()


def cancelled_after(task, seconds):
    """A call of `task` that is cancelled so long after it has begun, which it shows by writing to the array that it gets."""
    ref = shoal.put(np.zeros(1), mutable=True)
    flag = shoal.get(ref)
    call = task.remote(ref)
    until(lambda: flag[0] == 1 or bool(shoal.wait([call], timeout=0)[0]))
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end)
    shoal.cancel(call)
    return call


@pytest.mark.usefixtures("session")
def test_a_cancellation_that_comes_while_the_result_is_stored():
    """The signal is handled when the record is another's already: the result stays, or it is cancelled."""

    @shoal.remote(max_retries=0)
    def large(flag):
        flag[0] = 1
        return np.ones(8_000_000)

    outcomes = set()
    for i in range(12):
        try:
            outcomes.add(shoal.get(cancelled_after(large, 0.004 * i)).shape)
        except shoal.exceptions.TaskCancelledError:
            outcomes.add("cancelled")
    assert outcomes <= {(8_000_000,), "cancelled"}
    audit()


def finish_and_interrupt():
    worker = signal.getsignal(signal.SIGINT).__self__
    _core.finish(worker.current, "done")
    raise KeyboardInterrupt


@pytest.mark.usefixtures("session")
def test_an_interrupt_that_comes_just_after_the_end_changes_nothing():
    """It may come from a handler that the user's code has set. The record has been given back by then."""

    @shoal.remote
    class Actor:
        def call(self):
            finish_and_interrupt()

    actor = Actor.remote()
    for _ in range(20):
        assert shoal.get(shoal.remote(finish_and_interrupt).remote()) == "done"
        assert shoal.get(actor.call.remote()) == "done"
    del actor
    audit()


@pytest.mark.usefixtures("session")
def test_cancellations_where_the_users_code_has_set_a_handler():
    """Which cannot know whose the interrupt is: one that comes late hits the next call, perhaps before that has begun."""
    ends = shoal.exceptions.TaskCancelledError, shoal.exceptions.WorkerCrashedError

    @shoal.remote(max_retries=0)
    def careless(flag):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        flag[0] = 1
        return np.ones(1_000_000)

    for i in range(30):
        call = cancelled_after(careless, 0.0004 * i)
        try:
            assert shoal.get(call).shape == (1_000_000,)
        except ends:
            pass
        except shoal.exceptions.TaskError as error:
            assert "raised KeyboardInterrupt" in str(error)
    del call
    audit()


@pytest.mark.usefixtures("session")
def test_what_one_task_gives_back_is_enough_for_two():
    """They wait for each other, so both must run at once; nobody else is there to wake the second worker."""

    @shoal.remote
    def hold(go):
        until(lambda: go[0] == 1)

    @shoal.remote
    def meet(here, me):
        here[me] = 1
        until(here.all, 15)

    everybody, go, here = (shoal.put(np.zeros(n), mutable=True) for n in (1, 1, 2))
    warm = [hold.remote(everybody) for _ in range(2)]  # two workers, idle afterwards
    shoal.get(everybody)[0] = 1
    shoal.get(warm)
    first = hold.options(num_cpus=2).remote(go)
    until(lambda: any(p["running"] for p in _core.processes()))
    both = [meet.remote(here, me) for me in (0, 1)]
    shoal.get(go)[0] = 1
    shoal.get([first, *both], timeout=30)
