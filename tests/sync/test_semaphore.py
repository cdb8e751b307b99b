"""Semaphores across threads and processes."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from tests.conftest import quiet, until

import shoal
from shoal import _core
from shoal.sync import BoundedSemaphore, Semaphore

pytestmark = pytest.mark.usefixtures("session")


def test_as_threading():
    s = Semaphore(2)
    assert s.acquire() and s.acquire(True, 1) and not s.acquire(False) and not s.acquire(timeout=0.01)
    assert s.statistics() == {"value": 0, "waiters": 0, "holders": {os.getpid(): 2}, "acquisitions": 2}
    s.release(2)
    s.release()
    assert s.statistics()["value"] == 3
    with s as entered:
        assert entered is True
    for bad in (lambda: Semaphore(-1), lambda: s.release(0), lambda: s.acquire(False, 1)):
        with pytest.raises(ValueError):
            bad()
    with pytest.raises(TypeError):
        s.acquire(wrong=1)


def test_bounded():
    s = BoundedSemaphore(2)
    with s:
        pass
    with pytest.raises(ValueError, match="too many times"):
        s.release()
    s.acquire()
    with pytest.raises(ValueError, match="too many times"):
        s.release(n=2)
    assert s.statistics()["value"] == 1  # refused as a whole
    s.release()


def test_release_wakes_as_many_as_it_frees():
    s = Semaphore(0)
    through = []
    threads = [threading.Thread(target=lambda: (s.acquire(), through.append(1))) for _ in range(5)]
    for t in threads:
        t.start()
    until(lambda: s.statistics()["waiters"] == 5)
    s.release(3)
    until(lambda: len(through) == 3)
    assert s.statistics()["waiters"] == 2
    s.release(2)
    for t in threads:
        t.join()
    assert s.statistics()["waiters"] == 0


@shoal.remote
def inside(s, lock, array, rounds):
    most = 0
    for _ in range(rounds):
        with s:
            with lock:
                array[0] += 1
                most = max(most, int(array[0]))
            with lock:
                array[0] -= 1
                array[1] += 1
    return most


def test_contention_keeps_the_bound_and_the_count():
    s = BoundedSemaphore(2)
    ref = shoal.put(np.zeros(2, np.int64), mutable=True)
    assert max(shoal.get([inside.remote(s, shoal.lock(ref), ref, 1500) for _ in range(4)])) <= 2
    assert list(shoal.get(ref)) == [0, 6000]
    until(quiet)
    facts = s.statistics()
    assert (facts["value"], facts["holders"], facts["acquisitions"]) == (2, {}, 6000)
    until(lambda: _core.check() == "")


@shoal.remote(num_cpus=0)
class Taker:
    """It stays, with what it has taken. A worker with nothing to do may leave, and its permits are given back."""

    def take(self, s, n):
        for _ in range(n):
            s.acquire()
        return os.getpid()


def test_taken_here_given_back_there():
    s, taker = Semaphore(3), Taker.remote()
    pid = shoal.get(taker.take.remote(s, 2))
    assert s.statistics()["holders"] == {pid: 2}
    s.acquire()
    s.release(2)  # ours, then one of theirs
    assert s.statistics()["holders"] == {pid: 1}
    s.release()
    assert s.statistics()["holders"] == {} and s.statistics()["value"] == 3
    del s
    shoal.get(taker.take.remote(Semaphore(1), 1))
    until(lambda: _core.check() == "")


def test_bounded_buffer():
    """The classic use: one side only acquires, the other only releases."""
    free, full = Semaphore(4, give_back=False), Semaphore(0, give_back=False)

    @shoal.remote
    def produce(free, full, n):
        for _ in range(n):
            free.acquire()
            full.release()

    done = produce.remote(free, full, 500)
    for _ in range(500):
        assert full.acquire(timeout=30)
        free.release()
    shoal.get(done)
    assert free.statistics()["value"] == 4 and full.statistics()["value"] == 0
    assert free.statistics()["holders"] == {}


def test_many_semaphores_held_meet_a_clear_limit():
    held = [Semaphore() for _ in range(64)]
    for s in held:
        s.acquire()
    with pytest.raises(shoal.exceptions.LimitError, match="HOLDS"):
        Semaphore().acquire()
    for s in held:
        s.release()
    with Semaphore():
        pass
    del held, s
    until(lambda: _core.check() == "")
