"""Locks taken with rollback=True: the object is as it was after an exception, and after the holder's death."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal

import numpy as np
import pytest
from tests.conftest import quiet, until

import shoal
from shoal import _core
from shoal.exceptions import LockHolderDied, NotMutableError, ObjectStoreFullError, WorkerCrashedError


@pytest.fixture
def session(fresh):
    fresh(num_cpus=4)


pytestmark = pytest.mark.usefixtures("session")


def zeros(n=4):
    return shoal.put({"a": np.zeros(n), "b": np.zeros(n, dtype="u1")}, mutable=True)


def sums(ref):
    value = shoal.get(ref)
    return float(value["a"].sum()), int(value["b"].sum())


def whole():
    until(lambda: quiet() and _core.check() == "")


def test_an_exception_undoes_and_its_absence_does_not():
    ref = zeros()
    lock = shoal.lock(ref, rollback=True)
    with pytest.raises(KeyError), lock:
        value = shoal.get(ref)
        value["a"][:], value["b"][:] = 1, 2
        raise KeyError
    assert sums(ref) == (0, 0) and not lock.locked()
    with lock:
        shoal.get(ref)["a"][:] = 1
    assert sums(ref) == (4, 0)
    with pytest.raises(KeyError), shoal.lock(ref):  # another face of the same lock, without
        shoal.get(ref)["b"][:] = 1
        raise KeyError
    assert sums(ref) == (4, 4)
    whole()


def test_release_keeps_what_was_done():
    ref = zeros()
    lock = shoal.lock(ref, rollback=True)
    lock.acquire()
    shoal.get(ref)["a"][0] = 5
    lock.release()
    assert sums(ref) == (5, 0)


def test_frozen_there_is_nothing_to_go_back_to():
    ref = zeros()
    lock = shoal.lock(ref, rollback=True)
    with lock, pytest.raises(ValueError, match="rollback=True"):
        shoal.freeze(ref)
    shoal.freeze(ref)
    with pytest.raises(NotMutableError):
        lock.acquire()
    assert not lock.locked() and sums(ref) == (0, 0)
    whole()


def test_each_level_goes_back_to_its_own_beginning():
    ref = zeros()
    lock = shoal.lock(ref, reentrant=True, rollback=True)
    plain = shoal.lock(ref, reentrant=True)
    a = shoal.get(ref)["a"]
    with lock:
        a[0] = 1
        with pytest.raises(KeyError), lock:
            a[0] = 2
            raise KeyError
        assert a[0] == 1
        with plain:
            a[1] = 3
        assert a[1] == 3
    assert list(a) == [1, 3, 0, 0]
    with pytest.raises(KeyError), lock, lock:
        a[:] = 9
        raise KeyError
    assert list(a) == [1, 3, 0, 0]
    del a
    whole()


def test_a_coroutine():
    ref = zeros()

    async def fail():
        async with shoal.lock(ref, rollback=True):
            shoal.get(ref)["a"][:] = 1
            raise KeyError

    async def succeed():
        async with shoal.lock(ref, rollback=True):
            shoal.get(ref)["a"][:] = 1

    with pytest.raises(KeyError):
        asyncio.run(fail())
    assert sums(ref) == (0, 0)
    asyncio.run(succeed())
    assert sums(ref) == (4, 0)


@shoal.remote(max_retries=0)
def change_and_die(lock, refs, how):
    with lock:
        value = shoal.get(refs[0])
        value["a"][:], value["b"][:] = 1, 2
        if how == "exit":
            os._exit(1)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("size", [4, 1 << 18])
@pytest.mark.parametrize("how", ["exit", "kill"])
def test_the_holders_death(how, size):
    ref = zeros(size)
    lock = shoal.lock(ref, rollback=True)
    with pytest.raises(WorkerCrashedError):
        shoal.get(change_and_die.remote(lock, [ref], how))
    with pytest.raises(LockHolderDied, match="as it was before") as caught:
        lock.acquire()
    assert caught.value.rolled_back and caught.value.held and caught.value.task_name == "change_and_die"
    assert sums(ref) == (0, 0)
    lock.release()
    whole()


def test_a_death_that_nobody_is_told_of():
    ref = zeros()
    lock = shoal.lock(ref, rollback=True, on_death="ignore")
    with pytest.raises(WorkerCrashedError):
        shoal.get(change_and_die.remote(lock, [ref], "kill"))
    with lock:
        assert sums(ref) == (0, 0)


def test_a_death_in_an_inner_level_undoes_what_was_asked_for():
    ref = zeros()

    @shoal.remote(max_retries=0)
    def die(plain, lock, refs):
        with plain:
            shoal.get(refs[0])["a"][0] = 1
            with lock:
                shoal.get(refs[0])["a"][1] = 1
                os._exit(1)

    with pytest.raises(WorkerCrashedError):
        shoal.get(die.remote(shoal.lock(ref, reentrant=True), shoal.lock(ref, reentrant=True, rollback=True), [ref]))
    with pytest.raises(LockHolderDied) as caught:
        shoal.lock(ref).acquire()
    assert not caught.value.rolled_back and list(shoal.get(ref)["a"]) == [1, 0, 0, 0]
    shoal.lock(ref).release()


def test_a_copy_of_the_lock_rolls_back_too():
    ref = zeros()
    with pytest.raises(KeyError), pickle.loads(pickle.dumps(shoal.lock(ref, rollback=True))):
        shoal.get(ref)["a"][:] = 1
        raise KeyError
    assert sums(ref) == (0, 0)


def test_no_room_for_the_copy(fresh):
    shoal.shutdown()
    fresh(num_cpus=1, object_store_memory=32 << 20)
    ref = shoal.put(np.zeros(20 << 20, dtype="u1"), mutable=True)
    lock = shoal.lock(ref, rollback=True)
    with pytest.raises(ObjectStoreFullError):
        lock.acquire()
    assert not lock.locked()
    assert shoal.lock(ref).acquire(blocking=False)
    shoal.lock(ref).release()
    whole()


def test_what_cannot_be():
    ref = zeros()
    with pytest.raises(ValueError, match="mutable object"):
        shoal.lock("a name", rollback=True)
    with pytest.raises(ValueError, match="mutable object"):
        shoal.lock(rollback=True)
    with pytest.raises(ValueError, match="shared"):
        shoal.lock(ref, rollback=True, shared=True)
    with pytest.raises(TypeError, match="rollback"):
        shoal.sync.Condition(shoal.lock(ref, rollback=True))
    lock = shoal.lock(ref, rollback=True)
    with lock.shared():  # the shared mode of such a lock copies nothing
        pass


def test_an_object_that_goes_with_its_lock_held():
    ref = zeros()
    lock = shoal.lock(ref, rollback=True)
    lock.acquire()
    del lock, ref
    whole()


@pytest.mark.skipif(not _core.CRASH_POINTS, reason="a build without crash points")
@pytest.mark.parametrize("point", ["before.draft", "before.copied", *[f"tx.{p}" for p in ("set", "lock", "locked", "settled")]])
def test_killed_at_each_step_of_the_copy(point):
    @shoal.remote(num_cpus=0)
    class Victim:
        def run(self, lock, refs, spec):
            _core.arm_crash_point(spec)
            with lock:
                shoal.get(refs[0])["a"][:] = 1
                shoal.get(refs[0])["a"][:] = 0
            os.kill(os.getpid(), signal.SIGKILL)

    for n in range(1, 8):
        ref = zeros()
        lock = shoal.lock(ref, rollback=True)
        victim = Victim.remote()
        with pytest.raises(shoal.exceptions.ActorDiedError):
            shoal.get(victim.run.remote(lock, [ref], f"{point}:{n}"))
        del victim
        try:
            lock.acquire(timeout=20)
        except LockHolderDied:
            pass
        assert sums(ref) == (0, 0)
        lock.release()
        whole()
