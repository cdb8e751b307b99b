"""Locks and death: a holder that dies, a waiter that dies, and what the others are told."""

import functools
import os
import signal
import threading
import time

import numpy as np
import pytest

import shoal
from conftest import stop, until
from shoal import _core
from shoal.exceptions import ActorDiedError, LockHolderDied, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
class Victim:
    """Takes locks, and waits for them, until it is killed."""

    def __init__(self, *locks):
        self.locks = locks

    def pid(self):
        return os.getpid()

    def take(self, n=1):
        for lock in self.locks:
            for _ in range(n):
                lock.acquire()

    def take_and_die(self):
        self.take()
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self):
        shoal.exit_actor()


@shoal.remote(max_concurrency=8)
class Threaded(Victim._class):
    def wait_for(self, which=0):
        with self.locks[which]:
            return "had it"


def end(actor, how=None):
    """Kills it, and waits until its death has been dealt with."""
    shoal.kill(actor) if how is None else how()
    with pytest.raises(ActorDiedError):
        shoal.get(actor.pid.remote())


def dead_holder(**options):
    lock = shoal.lock(**options)
    victim = Victim.remote(lock)
    shoal.get(victim.take.remote())
    pid = shoal.get(victim.pid.remote())
    end(victim)
    until(lambda: not lock.locked())
    return lock, pid


def test_the_next_to_acquire_is_told_and_holds_the_lock():
    lock, pid = dead_holder()
    with pytest.raises(LockHolderDied) as caught:
        lock.acquire()
    assert caught.value.pid == pid and caught.value.task_name == "Victim"
    for part in (f"pid {pid}", "Victim", "died holding the lock", "You hold the lock now"):
        assert part in str(caught.value)
    assert lock.locked()
    with pytest.raises(RuntimeError, match="already holds"):
        lock.acquire()
    lock.release()
    with lock:  # it was told once
        pass


@pytest.mark.parametrize("how", [{}, {"blocking": False}, {"timeout": 5}, {"timeout": 0}])
def test_every_way_to_acquire_tells(how):
    lock, _ = dead_holder()
    with pytest.raises(LockHolderDied):
        lock.acquire(**how)
    assert lock.locked()
    lock.release()
    assert lock.acquire(**how) is True
    lock.release()


def test_with_does_not_hold_it_and_goes_on_raising():
    lock, pid = dead_holder()
    for _ in range(3):
        with pytest.raises(LockHolderDied, match=str(pid)), lock:
            pytest.fail("the body must not run")
        assert not lock.locked()
    with pytest.raises(LockHolderDied):
        lock.acquire()
    lock.release()
    with lock:
        pass


def test_other_processes_are_told_too_but_only_one():
    lock, pid = dead_holder()

    @shoal.remote
    def acquire(lock):
        try:
            lock.acquire()
        except LockHolderDied as error:
            told = error.pid
        else:
            told = None
        lock.release()
        return told

    assert sorted(shoal.get([acquire.remote(lock) for _ in range(5)]), key=str) == sorted([pid] + [None] * 4, key=str)


def test_a_mutable_objects_lock_and_its_half_made_change():
    ref = shoal.put(np.zeros(2), mutable=True)

    @shoal.remote(max_retries=0)
    def half(array, box):
        with shoal.lock(box[0]):
            array[0] = 1
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerCrashedError):
        shoal.get(half.remote(ref, [ref]))
    array, lock = shoal.get(ref), shoal.lock(ref)
    try:
        lock.acquire()
    except LockHolderDied as error:
        assert error.task_name == "half"
        assert array.tolist() == [1, 0]
        array[:] = 0
    finally:
        lock.release()
    with lock:
        assert array.tolist() == [0, 0]


def test_the_name_of_a_lock_is_in_the_message():
    from conftest import run_python

    result = run_python("""
        import os, shoal

        @shoal.remote(max_retries=0)
        def die():
            shoal.lock("cash").acquire()
            os._exit(1)

        shoal.init(num_cpus=1)
        shoal.wait([die.remote()])
        try:
            shoal.lock("cash").acquire()
        except shoal.exceptions.LockHolderDied as error:
            print(error.lock_name, error)
        os._exit(0)
    """)
    assert result.stdout.startswith("'cash' ") and "died holding the lock 'cash'" in result.stdout, result.stderr


def test_waiters_wake_up():
    lock = shoal.lock()
    victim = Victim.remote(lock)
    waiters = [Threaded.remote(lock) for _ in range(2)]
    shoal.get([victim.take.remote(), *[w.pid.remote() for w in waiters]])
    told = []

    def wait():
        try:
            lock.acquire()
        except LockHolderDied as error:
            told.append(error)
        lock.release()

    thread = threading.Thread(target=wait)
    thread.start()
    refs = [w.wait_for.remote() for w in waiters for _ in range(3)]
    assert shoal.wait(refs, timeout=0.05)[0] == []
    end(victim)
    # `with` in the waiters raises until somebody has used acquire(): all of them end, in one way or the other
    for ref in refs:
        try:
            assert shoal.get(ref, timeout=20) == "had it"
        except LockHolderDied as error:
            told.append(error)
    thread.join(20)
    assert not thread.is_alive() and told
    try:
        lock.acquire()
    except LockHolderDied:
        pytest.fail("the thread used acquire()")
    lock.release()


def test_a_waiter_that_dies_leaves_no_trace():
    lock = shoal.lock()
    deaths = _core.statistics()["lock_deaths"]
    lock.acquire()
    victim, other = Threaded.remote(lock), Threaded.remote(lock)
    pids = shoal.get([victim.pid.remote(), other.pid.remote()])
    first = [victim.wait_for.remote() for _ in range(3)]
    second = [other.wait_for.remote() for _ in range(3)]
    until(lambda: blocked(pids[0]) and blocked(pids[1]))
    end(victim)
    for ref in first:
        with pytest.raises(ActorDiedError):
            shoal.get(ref)
    assert shoal.wait(second, timeout=0.02)[0] == []
    lock.release()
    assert shoal.get(second, timeout=20) == ["had it"] * 3
    assert lock.acquire(timeout=5)
    lock.release()
    assert _core.statistics()["lock_deaths"] == deaths


def blocked(pid):
    return any(p["pid"] == pid and p["blocked"] for p in _core.processes())


def test_the_first_of_several_waiters_dies():
    """The lock goes to the next one, also when it was handed to the dead."""
    for _ in range(5):
        lock = shoal.lock()
        lock.acquire()
        victim, heir = Threaded.remote(lock), Threaded.remote(lock)
        pid, other = shoal.get([victim.pid.remote(), heir.pid.remote()])
        victim.wait_for.remote()
        until(functools.partial(blocked, pid))
        ref = heir.wait_for.remote()
        until(functools.partial(blocked, other))
        stop(pid)  # it cannot take what it is given
        lock.release()
        os.kill(pid, signal.SIGKILL)
        assert shoal.get(ref, timeout=20) == "had it"
        assert lock.acquire(timeout=20)
        lock.release()


def test_a_stopped_holder_is_waited_for():
    lock = shoal.lock()
    victim = Victim.remote(lock)
    shoal.get(victim.take.remote())
    pid = shoal.get(victim.pid.remote())
    stop(pid)
    assert lock.acquire(timeout=0.05) is False
    os.kill(pid, signal.SIGCONT)
    assert shoal.get(victim.pid.remote()) == pid
    assert lock.acquire(timeout=0.01) is False
    end(victim)
    with pytest.raises(LockHolderDied):
        lock.acquire(timeout=20)
    lock.release()


@pytest.mark.parametrize("how", ["exit_actor", "os._exit", "last handle"])
def test_every_kind_of_end_counts(how):
    lock = shoal.lock()
    victim = Victim.remote(lock)
    shoal.get(victim.take.remote())
    if how == "exit_actor":
        victim.leave.remote()
    elif how == "os._exit":
        victim.__ray_call__.remote(lambda self: os._exit(1))
    del victim
    with pytest.raises(LockHolderDied):
        lock.acquire(timeout=20)
    lock.release()


def test_several_locks_of_one_victim():
    locks = [shoal.lock() for _ in range(20)]
    victim = Victim.remote(*locks)
    shoal.get(victim.take.remote())
    end(victim)
    for lock in locks:
        with pytest.raises(LockHolderDied):
            lock.acquire(timeout=20)
    for lock in locks:
        lock.release()


def test_a_reentrant_lock_held_many_times():
    lock = shoal.lock(reentrant=True)
    victim = Victim.remote(lock)
    shoal.get(victim.take.remote(5))
    end(victim)
    with pytest.raises(LockHolderDied):
        lock.acquire(timeout=20)
    with lock:
        pass
    lock.release()
    assert not lock.locked()
    with pytest.raises(RuntimeError):
        lock.release()


def test_death_after_death():
    lock = shoal.lock()
    pids = []
    for _ in range(3):
        victim = Victim.remote(lock)
        pids.append(shoal.get(victim.pid.remote()))

        def take(self):
            try:
                self.locks[0].acquire()
            except LockHolderDied as error:
                return error.pid

        told = shoal.get(victim.__ray_call__.remote(take))
        assert told == (pids[-2] if len(pids) > 1 else None)
        end(victim)
        until(lambda: not lock.locked())
    with pytest.raises(LockHolderDied, match=f"pid {pids[-1]}"):
        lock.acquire()
    lock.release()


def test_the_lock_of_an_object_whose_holder_was_its_last_user():
    lock = shoal.lock(shoal.put(np.zeros(3), mutable=True))
    victim = Victim.remote(lock)
    shoal.get(victim.take.remote())
    del lock
    end(victim)


def test_the_lock_is_free_soon_after_the_death():
    lock = shoal.lock()
    victim = Victim.remote(lock)
    shoal.get(victim.take.remote())
    start = time.monotonic()
    os.kill(shoal.get(victim.pid.remote()), signal.SIGKILL)
    with pytest.raises(LockHolderDied):
        lock.acquire(timeout=20)
    lock.release()
    assert time.monotonic() - start < 10  # a few milliseconds on an idle machine


def test_killed_in_the_middle_of_it_again_and_again():
    """Who takes and releases in a loop dies at any instruction; the lock stays usable, the sum right."""
    ref = shoal.put(np.zeros(2, np.int64), mutable=True)

    @shoal.remote(max_retries=0)
    def count(array, lock):
        while True:
            try:
                lock.acquire()
            except LockHolderDied:
                array[1] = array[0]  # repair: [1] follows [0]
            array[0] += 1
            array[1] += 1
            lock.release()

    array, lock = shoal.get(ref), shoal.lock(ref)
    for _ in range(12):
        before = int(array[0])
        refs = [count.remote(ref, lock) for _ in range(2)]
        until(lambda before=before: array[0] > before + 20)
        for victim in refs:
            shoal.cancel(victim, force=True)
        for victim in refs:
            with pytest.raises((WorkerCrashedError, shoal.exceptions.TaskCancelledError)):
                shoal.get(victim)
        try:
            assert lock.acquire(timeout=20)
        except LockHolderDied:
            array[1] = array[0]
        assert array[0] == array[1]
        lock.release()
