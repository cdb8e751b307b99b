"""Processes killed while they hold, while they wait, and in the middle of a change."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest
from tests.conftest import quiet, stop, until

import shoal
from shoal import _core
from shoal.exceptions import ActorDiedError, LockHolderDied
from shoal.sync import Barrier, BrokenBarrierError, Condition, Event, Semaphore


@pytest.fixture
def session(fresh):
    fresh(num_cpus=4)


pytestmark = pytest.mark.usefixtures("session")


@shoal.remote(num_cpus=0)
class Victim:
    """A process to be killed; what it does last it does in a thread, so that it can still tell its pid."""

    def pid(self):
        return os.getpid()

    def do(self, what, *args):
        getattr(self, what)(*args)

    def start(self, what, *args):
        threading.Thread(target=getattr(self, what), args=args, daemon=True).start()

    def hold(self, lock, times=1):
        for _ in range(times):
            lock.acquire()

    def wait_on(self, condition):
        with condition:
            condition.wait()

    def meet(self, barrier):
        barrier.wait()

    def storm(self, locks, seed):
        rng = random.Random(seed)
        while True:
            lock = rng.choice(locks)
            try:
                if lock.acquire(timeout=rng.choice([0, 0.0005, 0.02])):
                    lock.release()
            except LockHolderDied:
                pass


def kill(victim):
    pid = shoal.get(victim.pid.remote())
    os.kill(pid, signal.SIGKILL)
    until(lambda: all(p["pid"] != pid for p in _core.processes()))
    return pid


def test_a_dead_reader_is_taken_off():
    lock = shoal.lock()
    a, b = Victim.remote(), Victim.remote()
    shoal.get([a.do.remote("hold", lock.shared(), 2), b.do.remote("hold", lock.shared())])
    assert sorted(lock.statistics()["readers"].values()) == [1, 2]
    kill(a)
    assert list(lock.statistics()["readers"].values()) == [1]
    assert not lock.acquire(False)
    writer = []
    thread = threading.Thread(target=lambda: writer.append(lock.acquire(timeout=30)))
    thread.start()
    until(lambda: lock.statistics()["waiters"] == 1)
    kill(b)
    thread.join()
    assert writer == [True]  # silently: a reader changes nothing
    del a, b
    until(lambda: quiet() and _core.check() == "")


def test_dead_waiters_leave_no_trace():
    lock, semaphore, condition, event = shoal.lock(), Semaphore(0), Condition(), Event()
    victim = Victim.remote()
    with lock:
        for call in (("hold", lock), ("hold", lock.shared()), ("hold", semaphore), ("wait_on", condition)):
            shoal.get(victim.start.remote(*call))
        until(lambda: lock.statistics()["waiters"] == 2 and condition.statistics()["waiters"] == 1)
        until(lambda: semaphore.statistics()["waiters"] == 1)
        kill(victim)
        assert lock.statistics()["waiters"] == semaphore.statistics()["waiters"] == 0
        assert condition.statistics()["waiters"] == event.statistics()["waiters"] == 0
    assert lock.acquire(False)
    lock.release()
    semaphore.release()
    assert semaphore.acquire(False)
    del victim
    until(lambda: quiet() and _core.check() == "")


def test_a_dead_writer_in_the_queue_lets_readers_in():
    lock, victim = shoal.lock(), Victim.remote()
    with lock.shared():
        shoal.get(victim.start.remote("hold", lock))
        until(lambda: lock.statistics()["waiters"] == 1)
        got = []
        thread = threading.Thread(target=lambda: got.append(lock.shared().acquire(timeout=30)))
        thread.start()
        until(lambda: lock.statistics()["waiters"] == 2)
        kill(victim)
        thread.join()
    assert got == [True]


def test_readers_are_told_of_a_dead_writer_until_a_writer_has_been():
    lock, victim = shoal.lock(), Victim.remote()
    shoal.get(victim.do.remote("hold", lock))
    pid = kill(victim)
    for _ in range(2):
        with pytest.raises(LockHolderDied, match=str(pid)):
            lock.shared().acquire()
        assert not lock.locked()
    with pytest.raises(LockHolderDied):
        lock.acquire()
    lock.release()
    with lock.shared(), lock.shared():
        pass


def test_choices_for_a_dead_holder():
    def leave(lock):
        victim = Victim.remote()
        shoal.get(victim.do.remote("hold", lock))
        kill(victim)
        return lock

    with leave(shoal.lock(on_death="ignore")):
        pass
    poisoned = leave(shoal.lock("poisoned", on_death="poison"))
    for face in (poisoned, poisoned.shared(), poisoned):
        with pytest.raises(LockHolderDied):
            face.acquire()
        with pytest.raises(LockHolderDied), face:
            pass
        assert not poisoned.locked()
    with pytest.raises(ZeroDivisionError):
        poisoned.recover(lambda: 1 / 0)
    assert poisoned.statistics()["holder_died"]
    held = []
    assert poisoned.recover(lambda: held.append(poisoned.locked())) and held == [True]
    assert not poisoned.recover()
    with poisoned, pytest.raises(RuntimeError, match="already holds"):
        poisoned.recover()
    with pytest.raises(ValueError, match="poison"):
        shoal.lock("poisoned", on_death="ignore")
    with pytest.raises(ValueError, match="on_death"):
        shoal.lock(on_death="panic")


def test_permits_of_the_dead_are_free_again():
    s, kept, victim = Semaphore(3), Semaphore(3, give_back=False), Victim.remote()
    shoal.get([victim.do.remote("hold", s, 3), victim.do.remote("hold", kept, 2)])
    s.release()  # one of them is given back by us
    got = []
    thread = threading.Thread(target=lambda: got.extend(s.acquire(timeout=30) for _ in range(3)))
    thread.start()
    kill(victim)
    thread.join()
    assert got == [True] * 3 and s.statistics()["value"] == 0
    assert kept.statistics()["value"] == 1
    del victim
    until(lambda: quiet() and _core.check() == "")


def test_a_notification_of_the_dead_goes_to_the_next():
    c, victim = Condition(), Victim.remote()
    shoal.get(victim.start.remote("wait_on", c))
    until(lambda: c.statistics()["waiters"] == 1)
    got = []

    def wait():
        with c:
            got.append(c.wait(30))

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: c.statistics()["waiters"] == 2)
    pid = shoal.get(victim.pid.remote())
    stop(pid)
    with c:
        c.notify()  # for the first, who cannot notice any more
    os.kill(pid, signal.SIGKILL)
    thread.join(30)
    assert got == [True]


def test_a_dead_participant_breaks_a_barrier():
    b, victim = Barrier(3), Victim.remote()
    shoal.get(victim.start.remote("meet", b))
    until(lambda: b.n_waiting == 1)
    got = []

    def wait():
        try:
            b.wait()
        except BrokenBarrierError as error:
            got.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: b.n_waiting == 2)
    kill(victim)
    thread.join(30)
    assert len(got) == 1 and b.broken
    b.reset()
    assert b.n_waiting == 0 and not b.broken
    del victim
    until(lambda: quiet() and _core.check() == "")


def test_a_task_that_dies_holding_in_both_modes():
    lock = shoal.lock()

    @shoal.remote(max_retries=0)
    def die(lock):
        lock.acquire()
        os._exit(1)

    for face, error in ((lock.shared(), None), (lock, LockHolderDied)):
        with pytest.raises(shoal.exceptions.WorkerCrashedError):
            shoal.get(die.remote(face))
        if error:
            with pytest.raises(error):
                lock.acquire()
        else:
            assert lock.acquire(timeout=30)
        lock.release()


def test_killed_at_random_moments():
    """Holders and waiters of all kinds are killed again and again; what is left is whole and free."""
    lock, s = shoal.lock(), Semaphore(2)
    faces = [lock, lock.shared(), lock.shared(), s]
    rng = random.Random(5)
    victims = []
    end = time.monotonic() + 6
    while time.monotonic() < end:
        while len(victims) < 3:
            victim = Victim.remote()
            pid = shoal.get(victim.pid.remote())
            victims.append((victim, pid, victim.storm.remote(faces, rng.random())))
        victim, pid, storm = victims.pop(rng.randrange(3))
        time.sleep(rng.random() * 0.02)  # a random moment is what is wanted
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ActorDiedError):
            shoal.get(storm)
    for pid in [pid for _, pid, _ in victims]:
        os.kill(pid, signal.SIGKILL)
    gone = {pid for _, pid, _ in victims}
    until(lambda: not gone & {p["pid"] for p in _core.processes()})
    del victim, victims, storm
    try:
        assert lock.acquire(timeout=20)
    except LockHolderDied:
        pass
    lock.release()
    assert s.acquire(timeout=20) and s.acquire(timeout=20) and not s.acquire(False)
    assert lock.statistics()["readers"] == {} and lock.statistics()["waiters"] == 0
    until(lambda: quiet() and _core.check() == "")


def test_a_task_that_ends_still_holding():
    """It is told apart from a death, in every way in which a task can end; what it released is not its any more."""
    lock, other, reader = shoal.lock(), shoal.lock(), shoal.lock()

    @shoal.remote(max_retries=0)
    def forget(how):
        with other:
            reader.shared().acquire()
            lock.acquire()
        if how == "raise":
            raise KeyError
        return os.getpid()

    for how in ("return", "raise"):
        call = forget.remote(how)
        try:
            shoal.get(call)
        except KeyError:
            pass
        with pytest.raises(LockHolderDied, match="ended still holding") as caught:
            lock.acquire(timeout=5)
        assert caught.value.task_name == "forget" and caught.value.held and caught.value.age < 60
        lock.release()
        for free in (other, reader):
            assert free.acquire(blocking=False)
            free.release()
    until(lambda: quiet() and _core.check() == "")


def test_a_task_inside_another_ends_with_its_own_locks_only():
    outer, inner = shoal.lock(), shoal.lock()

    @shoal.remote
    def forget(inner):
        inner.acquire()

    @shoal.remote(num_cpus=0)
    def wait(outer, inner):
        with outer:
            shoal.get(forget.remote(inner))  # this worker may run it itself
            assert outer.locked()
            return outer.acquire(blocking=False)

    assert shoal.get(wait.remote(outer, inner)) is False
    with outer, pytest.raises(LockHolderDied):
        inner.acquire()
    inner.release()


def test_an_actor_may_hold_from_call_to_call():
    @shoal.remote
    class Keeper:
        def take(self, lock):
            self.lock = lock
            return lock.acquire()

        def give(self):
            self.lock.release()

    lock, keeper = shoal.lock(), Keeper.remote()
    assert shoal.get(keeper.take.remote(lock)) and lock.locked()
    shoal.get(keeper.give.remote())
    assert lock.acquire(blocking=False)
    lock.release()
