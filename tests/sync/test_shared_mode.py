"""Locks in shared mode: many readers or one writer, neither of whom starves."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from tests.conftest import in_time, quiet, until

import shoal
from shoal import _core

pytestmark = pytest.mark.usefixtures("session")


def in_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_readers_together_writers_alone():
    lock = shoal.lock()
    reader = lock.shared()
    with reader, lock.shared():
        assert lock.locked() and reader.locked()
        got = []
        in_thread(lambda: got.append((shoal.lock(lock._ref).acquire(False), lock.shared().acquire(False)))).join()
        assert got == [(False, True)]
    # the other thread has ended holding it: that is for the process to know
    assert lock.statistics()["readers"] == {_core.processes()[0]["pid"]: 1}
    assert not lock.acquire(timeout=0.02)


def test_a_writer_shuts_readers_out():
    lock = shoal.lock()
    with lock:
        got = []
        in_thread(lambda: got.extend([lock.shared().acquire(False), lock.shared().acquire(timeout=0.02)])).join()
        assert got == [False, False]
    with lock.shared():
        pass
    assert not lock.locked()


def test_shared_of_an_object_and_by_argument():
    ref = shoal.put(np.zeros(4), mutable=True)
    with shoal.lock(ref, shared=True):
        assert not shoal.lock(ref).acquire(False)
    with shoal.lock("shared by name", shared=True):
        assert shoal.lock("shared by name").locked()
    assert not shoal.lock("shared by name").locked()


def test_waiting_for_oneself_is_refused():
    lock = shoal.lock()
    with lock.shared(), pytest.raises(RuntimeError, match="already holds"):
        lock.acquire()
    with lock, pytest.raises(RuntimeError, match="already holds"):
        lock.shared().acquire()
    with lock, pytest.raises(RuntimeError, match="shared lock"):
        lock.shared().release()
    with lock.shared(), pytest.raises(RuntimeError, match="shared mode"):
        lock.release()
    with lock:
        assert not lock.acquire(timeout=0.01) and not lock.shared().acquire(timeout=0.01)
    assert not lock.locked()


def test_a_reader_may_read_again_while_a_writer_waits():
    lock = shoal.lock()
    reader = lock.shared()
    with reader:
        writer = in_thread(lambda: (lock.acquire(), lock.release()))
        until(lambda: lock.statistics()["waiters"] == 1)
        with reader:
            pass
        stranger = []
        in_thread(lambda: stranger.append(reader.acquire(False))).join()
        assert stranger == [False]  # a new one does not overtake the writer
    writer.join()
    assert not lock.locked()


def test_a_writer_that_gives_up_lets_the_readers_behind_it_in():
    def scene(limit):
        lock = shoal.lock()
        entered = threading.Event()

        def read():
            with lock.shared():
                entered.set()

        with lock.shared():
            writer = in_thread(lambda: lock.acquire(timeout=limit))
            until(lambda: lock.statistics()["waiters"] == 1 or not writer.is_alive())
            reader = in_thread(read)
            until(lambda: lock.statistics()["waiters"] == 2 or entered.is_set())
            waited = lock.statistics()["waiters"] == 2
            assert entered.wait(60)
            writer.join()
            reader.join()
        assert not lock.locked()
        return waited

    in_time(scene, 0.2)
    until(lambda: _core.check() == "")


def test_all_waiting_readers_come_in_together():
    lock = shoal.lock()
    inside = threading.Barrier(5)

    def read():
        with lock.shared():
            inside.wait(30)

    with lock:
        readers = [in_thread(read) for _ in range(4)]
        until(lambda: lock.statistics()["waiters"] == 4)
    inside.wait(30)
    for thread in readers:
        thread.join()
    assert not lock.locked()


@shoal.remote
def mixed(lock, array, rounds):
    """Writers keep both halves equal; readers look whether they are."""
    torn = 0
    reader = lock.shared()
    for i in range(rounds):
        if i % 4 == 0:
            with lock:
                array[0] += 1
                array[1] += 1
        else:
            with reader:
                torn += array[0] != array[1]
    return int(torn)


def test_contention_in_both_modes_counts_exactly():
    ref = shoal.put(np.zeros(2, np.int64), mutable=True)
    lock = shoal.lock(ref)
    assert shoal.get([mixed.remote(lock, ref, 4000) for _ in range(4)]) == [0, 0, 0, 0]
    assert list(shoal.get(ref)) == [4000, 4000]
    assert not lock.locked()
    assert lock.statistics()["acquisitions"] == 16000
    until(lambda: quiet() and _core.check() == "")


@shoal.remote
def take_on(face, stop, start, turns, me):
    start.wait()
    while not stop.is_set():
        with face:
            turns[me] += 1


@pytest.mark.parametrize("mine", ["writer", "reader"])
def test_nobody_starves(mine):
    """One of a kind among three of the other, who never leave the lock alone."""
    lock, stop, start, ref = shoal.lock(), shoal.sync.Event(), shoal.sync.Barrier(4), shoal.zeros(3, int)
    face, theirs = (lock, lock.shared()) if mine == "writer" else (lock.shared(), lock)
    others = [take_on.options(num_cpus=0.5).remote(theirs, stop, start, ref, i) for i in range(3)]
    turns = shoal.get(ref)
    start.wait(30)

    def worst():
        begin, waits = time.monotonic(), []
        while time.monotonic() < begin + 1.5 or len(waits) <= 20 or not turns.all():
            asked = time.monotonic()
            assert asked < begin + 60 and face.acquire(timeout=20)
            waits.append(time.monotonic() - asked)
            face.release()
        return max(waits)

    assert any(worst() < 1.5 for _ in range(5))  # a single one may meet a holder that is off its core for long
    stop.set()
    shoal.get(others)
    assert not lock.locked()
