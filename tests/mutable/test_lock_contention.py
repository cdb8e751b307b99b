"""Locks under contention: no update is lost, nobody starves, no wake-up is missed."""

import os
import threading
import time

import numpy as np
import pytest

import shoal
from conftest import until
from shoal import _core

pytestmark = pytest.mark.usefixtures("audited")


def cells(n=1):
    return shoal.put(np.zeros(n, np.int64), mutable=True)


def add_slowly(array, n, lock):
    """Reads, lets others run, writes: any overlap loses an update."""
    for i in range(n):
        with lock:
            value = array[0]
            if i % 10 == 0:
                os.sched_yield()
            array[0] = value + 1


@shoal.remote
def add(array, n, lock):
    add_slowly(array, n, lock)


@shoal.remote
class Adder:
    def __init__(self, array, lock):
        self.array, self.lock = array, lock

    def add(self, n):
        add_slowly(self.array, n, self.lock)


@shoal.remote(max_concurrency=4)
class Threads:
    def __init__(self, array, lock):
        self.array, self.lock = array, lock

    def add(self, n):
        add_slowly(self.array, n, self.lock)


@pytest.mark.parametrize("kind", ["object", "new", "reentrant"])
def test_no_update_is_lost(kind):
    ref = cells()
    lock = {"object": shoal.lock(ref), "new": shoal.lock(), "reentrant": shoal.lock(reentrant=True)}[kind]
    array, n = shoal.get(ref), 150
    threads_actor, actors = Threads.remote(ref, lock), [Adder.remote(ref, lock) for _ in range(2)]
    calls = [add.remote(ref, n, lock) for _ in range(4)]
    calls += [actor.add.remote(n) for actor in actors] + [threads_actor.add.remote(n) for _ in range(4)]
    threads = [threading.Thread(target=add_slowly, args=(array, n, lock)) for _ in range(3)]
    for thread in threads:
        thread.start()
    add_slowly(array, n, lock)
    for thread in threads:
        thread.join()
    shoal.get(calls)
    assert array[0] == n * (4 + 2 + 4 + 3 + 1)


def test_the_holder_is_alone():
    """Everyone writes its name into the cell, and must find it there until it lets go."""
    ref, lock = cells(2), shoal.lock()

    @shoal.remote
    def visit(array, me, n, lock):
        intruders = 0
        for _ in range(n):
            with lock:
                intruders += array[0] != 0
                array[0] = me
                os.sched_yield()
                intruders += array[0] != me
                array[0] = 0
        return int(intruders)

    assert shoal.get([visit.remote(ref, me, 200, lock) for me in range(1, 7)]) == [0] * 6


def test_many_locks_in_different_orders_of_use():
    """Money moves between accounts, two locks at a time in a fixed order; the sum stays."""
    ref = shoal.put(np.full(20, 100), mutable=True)
    locks = [shoal.lock() for _ in range(20)]

    @shoal.remote
    def move(accounts, locks, seed, n):
        random = np.random.default_rng(seed)
        for _ in range(n):
            a, b = sorted(random.choice(20, 2, replace=False).tolist())
            with locks[a], locks[b]:
                amount = int(random.integers(0, accounts[a] + 1))
                left, right = accounts[a], accounts[b]
                os.sched_yield()
                accounts[a], accounts[b] = left - amount, right + amount

    shoal.get([move.remote(ref, locks, seed, 150) for seed in range(4)])
    accounts = shoal.get(ref)
    assert accounts.sum() == 2000 and (accounts >= 0).all() and (accounts != 100).any()


def test_a_waiter_is_not_starved_by_a_tight_loop():
    ref, lock = cells(3), shoal.lock()

    @shoal.remote
    def hammer(array, me, lock):
        while not array[2]:
            with lock:
                array[me] += 1

    array = shoal.get(ref)
    hammering = [hammer.remote(ref, me, lock) for me in (0, 1)]
    until(lambda: array[:2].min() > 20)

    def scene():
        waits = []
        for _ in range(30):
            turns = array[:2].sum()
            until(lambda turns=turns: array[:2].sum() > turns + 5)  # they hold it nearly all the time
            start = time.monotonic()
            assert lock.acquire(timeout=20)
            waits.append(time.monotonic() - start)
            lock.release()
        return sorted(waits)[15] < 0.5  # on an idle machine about a millisecond

    assert any(scene() for _ in range(5))  # a busy one may keep the holders off their cores for a whole play
    array[2] = 1
    shoal.get(hammering)


def test_threads_of_one_process_are_not_starved_either():
    lock, stop, turns = shoal.lock(), threading.Event(), [0] * 4

    def run(i):
        while not stop.is_set():
            with lock:
                turns[i] += 1

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: min(turns) > 20)
    stop.set()
    for thread in threads:
        thread.join()
    assert not lock.locked()


def test_waiters_with_and_without_patience_get_it_in_the_end():
    """A waiter that gives up just as it is woken must pass the lock on, or a patient one sleeps for ever."""
    ref, lock = cells(1), shoal.lock()

    @shoal.remote
    def impatient(array, lock, seed, n):
        random, got = np.random.default_rng(seed), 0
        for _ in range(n):
            if lock.acquire(timeout=float(random.uniform(0, 0.0006))):
                array[0] += 1
                got += 1
                lock.release()
        return got

    @shoal.remote
    def patient(array, lock, n):
        for _ in range(n):
            with lock:
                array[0] += 1
        return n

    calls = [impatient.remote(ref, lock, seed, 400) for seed in range(3)] + [patient.remote(ref, lock, 400)]
    spinner_stop = threading.Event()

    def spin():  # takes the GIL from the threads below, so that they come back late from their sleep
        while not spinner_stop.is_set():
            pass

    def try_for_a_moment():
        for _ in range(50):
            if lock.acquire(timeout=0.0003):
                lock.release()

    threads = [threading.Thread(target=spin)] + [threading.Thread(target=try_for_a_moment) for _ in range(3)]
    for thread in threads:
        thread.start()
    got = shoal.get(calls, timeout=60)
    spinner_stop.set()
    for thread in threads:
        thread.join()
    assert shoal.get(ref)[0] == sum(got) and not lock.locked()


def test_thirty_threads_wait_at_a_time():
    lock, array = shoal.lock(), shoal.get(cells())
    lock.acquire()
    threads = [threading.Thread(target=add_slowly, args=(array, 10, lock)) for _ in range(30)]
    for thread in threads:
        thread.start()
    lock.release()
    for thread in threads:
        thread.join()
    assert array[0] == 300


def test_more_threads_than_can_wait_are_told():
    lock, started, errors = shoal.lock(), threading.Barrier(73), []

    def take():
        started.wait()
        try:
            with lock:
                pass
        except shoal.exceptions.LimitError as error:
            errors.append(error)

    threads = [threading.Thread(target=take) for _ in range(72)]
    with lock:
        for thread in threads:
            thread.start()
        started.wait()
        until(lambda: errors)
    for thread in threads:
        thread.join()
    assert len(errors) <= 72 - 64 and errors[0].limit_name == "WAIT_NODES"
    assert not lock.locked()


def test_waiting_in_an_actor_lets_its_other_threads_work():
    lock, ref = shoal.lock(), cells()

    @shoal.remote(max_concurrency=2)
    class Two:
        def wait(self, lock):
            with lock:
                return "waited"

        def add(self, array):
            array[0] += 1

    two = Two.remote()
    with lock:
        waiting = two.wait.remote(lock)
        shoal.get([two.add.remote(ref) for _ in range(20)])
        assert shoal.wait([waiting], timeout=0)[0] == []
    assert shoal.get(waiting) == "waited"
    assert _core.statistics()["lock_deaths"] == 0
