"""Locks: which ones there are, that each is the same everywhere, and what can be done with them."""

import os
import threading
import time

import numpy as np
import pytest

import shoal
from conftest import at_rest, until
from shoal import _core
from shoal.exceptions import NotMutableError


@pytest.fixture(scope="module", autouse=True)
def session_with_named_locks():
    from conftest import audit

    shoal.init(num_cpus=2)
    yield
    try:
        audit(kept=len(_core.name_list(2)))  # a named lock (NAMES_LOCK in core/abi.h) stays until the session ends
    finally:
        shoal.shutdown()


def array(n=1):
    return shoal.put(np.zeros(n, np.int64), mutable=True)


@shoal.remote
class User:
    """Uses locks on command."""

    def __init__(self, *locks):
        self.locks = list(locks)

    def acquire(self, which=0, **options):
        return self.locks[which].acquire(**options)

    def release(self, which=0):
        self.locks[which].release()

    def by_name(self, name):
        self.locks.append(shoal.lock(name))

    def by_ref(self, box):
        self.locks.append(shoal.lock(box[0]))

    def locked(self, which=0):
        return self.locks[which].locked()

    def back(self, which=0):
        return self.locks[which]


# -- the same lock everywhere -------------------------------------------------------------------------------


def same(lock, user, which=0):
    """Whether the user's lock is `lock`: each sees when the other holds it."""
    lock.acquire()
    seen = shoal.get(user.locked.remote(which))
    refused = not shoal.get(user.acquire.remote(which, blocking=False))
    lock.release()
    taken = shoal.get(user.acquire.remote(which))
    noticed = lock.locked() and not lock.acquire(blocking=False)
    shoal.get(user.release.remote(which))
    return seen and refused and taken and noticed and not lock.locked()


def test_the_lock_of_an_object():
    ref = array()
    user = User.remote()
    shoal.get(user.by_ref.remote([ref]))
    assert same(shoal.lock(ref), user)
    assert same(shoal.lock(shoal.get(shoal.put([ref]))[0]), user)
    other = array()
    with shoal.lock(ref), shoal.lock(other):
        assert shoal.lock(other).locked()


def test_the_lock_of_a_name():
    user = User.remote()
    shoal.get(user.by_name.remote("cash"))
    assert same(shoal.lock("cash"), user)
    assert shoal.lock("cash").name == "cash"
    with shoal.lock("cash"):
        assert not shoal.lock("other").locked() and not shoal.lock("").locked()
    with shoal.lock("ünï/ \n"):
        assert shoal.lock("ünï/ \n").locked()


def test_a_named_lock_outlives_its_users():
    shoal.lock("lasting").acquire()
    assert shoal.lock("lasting").locked()
    shoal.lock("lasting").release()


def test_a_name_that_many_ask_for_at_once():
    ref = array()

    @shoal.remote
    def add(array, name, n):
        for _ in range(n):
            with shoal.lock(name):
                value = array[0]
                os.sched_yield()
                array[0] = value + 1

    for i in range(5):
        shoal.get([add.remote(ref, f"at once {i}", 20) for _ in range(4)])
    assert shoal.get(ref)[0] == 5 * 4 * 20


def test_names_of_locks_and_actors_do_not_meet():
    user = User.options(name="shared name").remote()
    with shoal.lock("shared name"):
        assert shoal.get_actor("shared name") == user


@pytest.mark.parametrize("way", ["argument", "keyword", "container", "object", "attribute"])
def test_a_new_lock_is_passed_along(way):
    lock = shoal.lock()
    if way == "argument":
        user = User.remote(lock)
    elif way == "container":
        user = User.remote(*shoal.get(shoal.put({"locks": [lock]}))["locks"])
    elif way == "object":
        user = User.remote(shoal.put(lock))
    elif way == "keyword":

        @shoal.remote
        def make(*, lock):
            return User.remote(lock)

        user = shoal.get(make.remote(lock=lock))
    else:

        class Thing:
            pass

        thing = Thing()
        thing.lock = lock

        @shoal.remote
        def open_(thing):
            return User.remote(thing.lock)

        user = shoal.get(open_.remote(thing))
    assert same(lock, user)
    assert same(shoal.get(user.back.remote()), user)
    assert shoal.lock() is not lock and not shoal.lock().locked()


def test_new_locks_are_different():
    one, other = shoal.lock(), shoal.lock()
    with one:
        assert one.locked() and not other.locked()
        assert other.acquire(blocking=False)
        other.release()


def test_a_lock_in_a_result():
    @shoal.remote
    def make():
        lock = shoal.lock()
        return lock, [lock]

    lock, (again,) = shoal.get(make.remote())
    with lock:
        assert again.locked() and not again.acquire(blocking=False)


def test_two_hundred_locks():
    locks = [shoal.lock() for _ in range(200)]

    @shoal.remote
    def take_each(locks):
        for lock in locks:
            with lock:
                assert sum(other.locked() for other in locks) == 1
        return len(locks)

    assert shoal.get(take_each.remote(locks)) == 200
    for lock in locks:
        lock.acquire()
    assert all(lock.locked() for lock in locks)
    for lock in reversed(locks):
        lock.release()
    for i in range(200):
        with shoal.lock(f"many {i % 50}"):
            pass


def test_a_lock_keeps_its_object():
    until(at_rest)
    before = _core.statistics()["objects"]
    lock = shoal.lock(array())
    assert _core.statistics()["objects"] == before + 1
    with lock:
        pass
    user = User.remote(lock)
    del lock
    assert shoal.get(user.acquire.remote()) is True
    shoal.get(user.release.remote())


def test_the_lock_of_one_reference_guards_what_the_other_opens():
    ref = shoal.put({"a": np.zeros(3), "b": bytearray(3)}, mutable=True)
    with shoal.lock(ref):
        shoal.get(ref)["a"][0] = 1
        shoal.get(ref)["b"][0] = 1
        assert shoal.lock(shoal.get(shoal.put([ref]))[0]).locked()


# -- using one ----------------------------------------------------------------------------------------------


def test_with_and_acquire():
    lock = shoal.lock()
    assert not lock.locked()
    with lock as entered:
        assert entered is lock and lock.locked()
    assert not lock.locked()
    assert lock.acquire() is True
    lock.release()
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    assert not lock.locked()


def test_without_waiting():
    lock = shoal.lock()
    assert lock.acquire(blocking=False) is True
    assert lock.acquire(blocking=False) is False
    assert lock.acquire(False) is False
    assert lock.acquire(timeout=0) is False
    lock.release()
    assert lock.acquire(timeout=0) is True
    lock.release()


def elsewhere(function, *args):
    """Runs it in a thread; returns what it returned."""
    result = []
    thread = threading.Thread(target=lambda: result.append(function(*args)))
    thread.start()
    thread.join()
    return result[0]


@pytest.mark.parametrize("timeout", [0.001, 0.05])
def test_timeouts(timeout):
    lock = shoal.lock()
    user = User.remote(lock)
    with lock:
        start = time.monotonic()
        assert elsewhere(lambda: lock.acquire(timeout=timeout)) is False
        assert timeout <= time.monotonic() - start < timeout + 10
        assert shoal.get(user.acquire.remote(timeout=timeout)) is False
    assert shoal.get(user.acquire.remote(timeout=timeout)) is True
    assert lock.acquire(timeout=timeout) is False
    shoal.get(user.release.remote())
    for endless in (None, -1, 1e10):
        assert lock.acquire(timeout=endless) is True
        lock.release()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": -2}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": "soon"}, TypeError),
        ({"blocking": False, "timeout": 1}, ValueError),
        ({"wait": True}, TypeError),
    ],
)
def test_wrong_arguments(options, error):
    lock = shoal.lock()
    with pytest.raises(error):
        lock.acquire(**options)
    assert not lock.locked()


def test_release_by_others_is_refused():
    lock = shoal.lock()
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()
    user = User.remote(lock)
    shoal.get(user.acquire.remote())
    with pytest.raises(RuntimeError, match="does not hold.*held by process"):
        lock.release()
    shoal.get(user.release.remote())
    with lock:

        def release():
            with pytest.raises(RuntimeError, match="this thread does not hold"):
                lock.release()
            return True

        assert elsewhere(release)
        with pytest.raises(RuntimeError, match="does not hold"):
            shoal.get(user.release.remote())
        assert lock.locked()
    with pytest.raises(RuntimeError):
        lock.release()


def test_taking_it_twice_is_refused():
    lock = shoal.lock()
    with lock:
        with pytest.raises(RuntimeError, match="already holds the lock.*reentrant=True"):
            lock.acquire()
        with pytest.raises(RuntimeError, match="already holds"):
            with lock:
                pass
        assert lock.locked()
        start = time.monotonic()
        assert lock.acquire(timeout=0.02) is False
        assert time.monotonic() - start >= 0.02
        assert lock.locked()
    assert not lock.locked()
    with lock:
        pass


def test_reentrant_locks_count():
    ref = array()
    lock = shoal.lock(ref, reentrant=True)
    user = User.remote(shoal.lock(ref))
    with lock:
        with lock:
            assert lock.acquire() and lock.acquire(blocking=False) and lock.acquire(timeout=1)
            for _ in range(3):
                lock.release()
            assert shoal.get(user.acquire.remote(blocking=False)) is False
        assert lock.locked()
        assert shoal.get(user.acquire.remote(blocking=False)) is False
        with pytest.raises(RuntimeError, match="already holds"):
            shoal.lock(ref).acquire()  # the same lock, asked for without reentrant=True
    assert shoal.get(user.acquire.remote(blocking=False)) is True
    assert elsewhere(lambda: lock.acquire(blocking=False)) is False
    shoal.get(user.release.remote())
    with pytest.raises(RuntimeError):
        lock.release()


def test_a_reentrant_lock_stays_one_when_sent():
    @shoal.remote
    def twice(lock):
        with lock, lock:
            return True

    assert shoal.get(twice.remote(shoal.lock(reentrant=True)))
    assert shoal.get(twice.remote(shoal.lock(array(), reentrant=True)))
    with pytest.raises(RuntimeError, match="already holds"):
        shoal.get(twice.remote(shoal.lock()))


def test_a_threads_end_does_not_release():
    lock = shoal.lock()
    assert elsewhere(lock.acquire)
    assert lock.locked() and not lock.acquire(timeout=0.01)


def test_what_has_no_lock():
    with pytest.raises(NotMutableError, match=r"put\(\.\.\., mutable=True\).*lock\('a name'\)"):
        shoal.lock(shoal.put(np.zeros(3)))
    with pytest.raises(NotMutableError):
        shoal.lock(shoal.put(1))
    for wrong in (3, 1.5, b"bytes", [array()], np.zeros(3), object()):
        with pytest.raises(TypeError, match=r"lock\(\) takes an ObjectRef of a mutable object, a name, or nothing"):
            shoal.lock(wrong)
    with pytest.raises(TypeError):
        shoal.Lock()


def test_its_text():
    lock = shoal.lock("text")
    assert repr(lock) == "<shoal lock 'text', free>"
    with lock:
        assert repr(lock) == f"<shoal lock 'text', held by process {os.getpid()}>"
    assert "reentrant lock None" in repr(shoal.lock(reentrant=True))


def test_a_lock_pickled_by_the_user():
    from conftest import run_python

    result = run_python("""
        import pickle, shoal

        shoal.init(num_cpus=1)
        lock = shoal.lock("x", reentrant=True)
        again = pickle.loads(pickle.dumps(lock))
        with again, again:
            print(lock.locked(), again.name)
        old = shoal.lock()
        data = pickle.dumps(old)
        shoal.shutdown()
        print(repr(old)[:12])
        for use in (old.acquire, old.release, old.locked, lambda: pickle.loads(data)):
            try:
                use()
            except shoal.exceptions.SessionError as error:
                print(type(error).__name__)
        shoal.init(num_cpus=1)
        for use in (old.acquire, old.locked, lambda: pickle.loads(data)):
            try:
                use()
            except shoal.exceptions.SessionEndedError as error:
                print(type(error).__name__)
        print(shoal.lock("x").locked())
    """)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:2] == ["True x", "<shoal lock "]
    assert lines[2:] == ["SessionEndedError"] * 7 + ["False"]
