"""An error that was caught keeps nothing alive: no cycle holds the frames through which it came, and what they refer to."""

import gc
import threading
import weakref

import numpy as np
import pytest

import shoal
from shoal.exceptions import (
    ClaimTimeoutError,
    GetTimeoutError,
    NotOwnerError,
    PicklingError,
    StaleOwnerError,
    TaskError,
    VersionConflictError,
)

pytestmark = pytest.mark.usefixtures("audited")


class Local:
    """Something that the caller has in a variable."""


@shoal.remote
def raises(x):
    raise KeyError(x)


@shoal.remote
class Thief:
    def steal(self, refs):
        shoal.claim(refs[0], "steal")


def mine():
    return shoal.put(np.zeros(3), mutable=True, owner="me")


def anothers():
    thief, ref = Thief.remote(), mine()
    shoal.get(thief.steal.remote([ref]))
    return thief, ref


def never():
    ref = shoal.get(shoal.remote(lambda: mine()).remote())
    shoal.commit(ref)


def stale():
    _thief, ref = anothers()
    shoal.commit(ref)


def claimed():
    _thief, ref = anothers()
    shoal.claim(ref, timeout=0)


def full():
    shoal.Queue(maxsize=1).put_batch([np.zeros(3), np.zeros(3)], block=False)


def unpicklable():
    shoal.put([np.zeros(3), threading.Lock()])


def failed():
    shoal.get(raises.remote(1))


def timed_out():
    lock = shoal.lock()
    with lock:
        call = shoal.remote(lambda held: held[0].acquire(timeout=10) and held[0].release()).remote([lock])
        shoal.get(call, timeout=0.001)


def conflict():
    v = shoal.Versioned(1)
    v.set(2, expected_version=v.version + 1)


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (never, NotOwnerError),
        (stale, StaleOwnerError),
        (claimed, ClaimTimeoutError),
        (full, shoal.containers.queue.Full),
        (unpicklable, PicklingError),
        (failed, TaskError),
        (timed_out, GetTimeoutError),
        (conflict, VersionConflictError),
    ],
)
def test_a_caught_error_keeps_nothing(act, error):
    def caller():
        local = Local()
        seen = weakref.ref(local)
        try:
            act()
        except error:
            return seen
        raise AssertionError("no error")

    gc.collect()
    gc.disable()
    try:
        assert caller()() is None
    finally:
        gc.enable()
