"""Events, conditions and barriers across threads and processes."""

from __future__ import annotations

import signal
import sys
import threading

import pytest
from tests.conftest import quiet, until

import shoal
from shoal import _core
from shoal.sync import Barrier, BrokenBarrierError, Condition, Event

pytestmark = pytest.mark.usefixtures("session")


def in_threads(n, call):
    threads = [threading.Thread(target=call, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    return threads


def join(threads):
    for t in threads:
        t.join(30)
        assert not t.is_alive()


# ---------------------------------------------------------------------------------------------- events


def test_event():
    e = Event()
    assert not e.is_set() and not e.wait(0) and not e.wait(timeout=0.01) and not e.wait(-1)
    e.set()
    assert e.is_set() and e.wait() and e.wait(0)
    e.clear()
    assert not e.is_set()
    assert e.statistics() == {"set": False, "waiters": 0, "times_set": 1}


def test_all_who_wait_go_on_even_if_it_is_cleared_at_once():
    e = Event()
    got = []
    threads = in_threads(6, lambda i: got.append(e.wait(30)))
    until(lambda: e.statistics()["waiters"] == 6)
    e.set()
    e.clear()
    join(threads)
    assert got == [True] * 6 and not e.wait(0)


def test_event_by_name_in_a_task():
    @shoal.remote
    def tell():
        Event(name="told").set()

    e = Event(name="told")
    tell.remote()
    assert e.wait(30)


def test_a_waiting_task_lends_its_cpu():
    """Two CPUs, four tasks that wait for a fifth."""

    @shoal.remote
    def wait(e):
        return e.wait(30)

    @shoal.remote
    def tell(e):
        e.set()

    e = Event()
    waiting = [wait.remote(e) for _ in range(4)]
    until(lambda: e.statistics()["waiters"] == 4)
    tell.remote(e)
    assert shoal.get(waiting) == [True] * 4


def test_waits_are_interruptible():
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    e, lock, s, c, b = Event(), shoal.lock(), shoal.sync.Semaphore(0), Condition(), Barrier(2)
    holder = threading.Thread(target=lambda: (lock.acquire(), e.wait(30), lock.release()))
    holder.start()
    until(lock.locked)

    def wait_on_condition():
        with c:
            c.wait()

    before = signal.signal(signal.SIGUSR1, stop)
    main = threading.main_thread().ident
    try:
        for wait in (e.wait, lock.acquire, lock.shared().acquire, s.acquire, wait_on_condition, b.wait):
            timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGUSR1))
            with pytest.raises(Stop):
                timer.start()
                wait()
            timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    e.set()
    holder.join()
    assert lock.statistics()["waiters"] == s.statistics()["waiters"] == c.statistics()["waiters"] == 0
    assert b.n_waiting == 0 and not b.broken
    assert not c.statistics()["lock"]["holder"]
    until(lambda: _core.check() == "")


# ------------------------------------------------------------------------------------------ conditions


def test_condition_as_threading():
    c = Condition()
    for call in (c.wait, c.notify, c.notify_all):
        with pytest.raises(RuntimeError, match="un-acquired"):
            call()
    with c:
        assert not c.wait(0.01) and not c.wait(0)
        assert c.wait_for(lambda: 7) == 7 and c.wait_for(lambda: 0, timeout=0.02) == 0
    assert c.acquire() and c.acquire()  # its own lock is reentrant
    c.release()
    c.release()
    with pytest.raises(TypeError):
        Condition(threading.Lock())
    with pytest.raises(TypeError):
        Condition(shoal.lock().shared())


def test_notify_wakes_so_many_and_in_order():
    c = Condition(shoal.lock())
    got = []

    def wait(i):
        with c:
            c.wait()
            got.append(i)

    threads = []
    for i in range(5):
        threads += in_threads(1, lambda _, i=i: wait(i))
        until(lambda n=i + 1: c.statistics()["waiters"] == n)
    with c:
        c.notify(2)
    until(lambda: len(got) == 2)
    assert sorted(got) == [0, 1] and c.statistics()["waiters"] == 3
    with c:
        c.notify_all()
    join(threads)
    assert sorted(got) == [0, 1, 2, 3, 4]


def test_wait_lets_go_of_a_reentrant_lock_altogether():
    c = Condition()

    def tell(_):
        with c:
            c.notify()

    with c, c:
        threads = in_threads(1, tell)
        assert c.wait(30)
    join(threads)
    assert c.statistics()["lock"]["holder"] is None


def test_a_producer_and_a_consumer_in_two_processes():
    import numpy as np

    ref = shoal.put(np.zeros(1, np.int64), mutable=True)
    c = Condition(shoal.lock(ref))

    @shoal.remote
    def produce(c, array, n):
        for _ in range(n):
            with c:
                c.wait_for(lambda: array[0] == 0)
                array[0] = 1
                c.notify()

    done = produce.remote(c, ref, 300)
    array = shoal.get(ref)
    for _ in range(300):
        with c:
            assert c.wait_for(lambda: array[0] == 1, timeout=30)
            array[0] = 0
            c.notify()
    shoal.get(done)
    until(lambda: quiet() and _core.check() == "")


# -------------------------------------------------------------------------------------------- barriers


def test_barrier_as_threading():
    ran = []
    b = Barrier(3, action=lambda: ran.append(b.n_waiting))
    indexes = []
    join(in_threads(3, lambda i: indexes.append(b.wait())))
    assert sorted(indexes) == [0, 1, 2] and ran == [0]
    assert (b.parties, b.n_waiting, b.broken) == (3, 0, False)
    with pytest.raises(ValueError):
        Barrier(0)


def test_barrier_rounds():
    b, counts = Barrier(4), [0] * 4
    bad = []

    def run(i):
        for round_ in range(200):
            b.wait(30)
            bad.extend(c for c in counts if c not in (round_, round_ + 1))
            counts[i] += 1

    join(in_threads(4, run))
    assert counts == [200] * 4 and not bad
    assert b.statistics()["generations"] == 200


def test_barrier_breaks_on_timeout_and_is_reset():
    b = Barrier(3)
    broken = []

    def wait(_):
        try:
            b.wait()
        except BrokenBarrierError:
            broken.append(1)

    threads = in_threads(1, wait)
    until(lambda: b.n_waiting == 1)
    with pytest.raises(BrokenBarrierError):
        b.wait(0.01)
    join(threads)
    assert broken == [1] and b.broken
    with pytest.raises(BrokenBarrierError):
        b.wait()
    b.reset()
    assert not b.broken
    threads = in_threads(1, wait)
    until(lambda: b.n_waiting == 1)
    b.reset()
    join(threads)
    assert broken == [1, 1] and not b.broken
    threads = in_threads(1, wait)
    until(lambda: b.n_waiting == 1)
    b.abort()
    join(threads)
    assert broken == [1, 1, 1] and b.broken


def test_a_failing_action_breaks_it():
    def fail():
        raise ZeroDivisionError

    b = Barrier(2, fail)
    got = []

    def wait(_):
        try:
            b.wait()
        except Exception as error:
            got.append(type(error))

    join(in_threads(2, wait))
    assert sorted(got, key=str) == sorted([ZeroDivisionError, BrokenBarrierError], key=str) and b.broken


def test_those_who_come_while_the_action_runs_belong_to_the_next_round():
    running, go_on = threading.Event(), threading.Event()

    def act():
        if not running.is_set():
            running.set()
            go_on.wait(30)

    b = Barrier(2, act)
    first = in_threads(2, lambda i: b.wait())
    assert running.wait(30)
    second = in_threads(2, lambda i: b.wait())
    until(lambda: b.statistics()["waiters"] == 4)
    go_on.set()
    join(first + second)
    assert b.statistics()["generations"] == 2 and b.n_waiting == 0


@shoal.remote
def meet(b, rounds):
    for _ in range(rounds):
        b.wait(30)
    return b.name


def test_barrier_by_name_across_tasks():
    b = Barrier(3, name="meeting")
    others = [meet.remote(b, 20) for _ in range(2)]
    for _ in range(20):
        b.wait(30)
    assert shoal.get(others) == ["meeting", "meeting"]
    with pytest.raises(ValueError, match="for 3 parties"):
        Barrier(4, name="meeting")
    until(lambda: _core.check() == "")


def test_very_late_waiters_learn_how_their_own_round_ended():
    """A waiter that does not run while the others use the barrier for more rounds than outcomes are kept."""
    b = Barrier(2)
    got = []

    def lone():
        with pytest.raises(BrokenBarrierError):
            b.wait(0.0001)
        b.reset()

    slow = threading.Thread(target=lambda: got.append(b.wait()))
    slow.start()
    until(lambda: b.n_waiting == 1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # it wakes, and cannot have the GIL but when this thread sleeps
    try:
        b.wait()
        for _ in range(200):
            lone()
    finally:
        sys.setswitchinterval(interval)
    slow.join(30)
    assert got == [0]
