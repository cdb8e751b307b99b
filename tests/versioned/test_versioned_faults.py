"""Writers and readers that are killed: no torn version, no lost memory, nobody waits for the dead."""

import os
import random
import signal
import time

import numpy as np
import pytest

import shoal
from conftest import quiet, until
from shoal import Versioned, _core
from shoal.exceptions import WorkerCrashedError

pytestmark = pytest.mark.usefixtures("session")

SIZE = 60_000  # of 8 bytes: copying it takes longer than anything else, so most kills come in the middle


@shoal.remote(max_retries=0)
def publish(v, pid, small):
    pid.set(os.getpid())
    n = 0
    while True:
        n += 1
        if small:
            v.set(n)
        elif n % 2:
            v.set(np.full(SIZE, n))
        else:
            with v.update() as draft:
                draft[:] = n


@shoal.remote(max_retries=0)
def hold(v, pid, _small):
    pid.set(os.getpid())
    kept = []
    while True:
        kept = [*kept[-3:], v.get()]


@pytest.mark.parametrize("function", [publish, hold], ids=["writer", "reader"])
def test_killed_at_any_moment_they_change_nothing(function):
    rng = random.Random(1)
    v, pid = Versioned(np.zeros(SIZE, np.int64)), Versioned()
    used = _core.statistics()["used_bytes"]
    for _ in range(12):
        before = pid.version
        call = function.remote(v, pid, False)
        assert pid.wait(before, timeout=60)
        end = time.monotonic() + rng.random() * 0.01
        while time.monotonic() < end:
            array = v.get()
            assert array.min() == array.max()
            if rng.random() < 0.2:
                v.set(np.full(SIZE, 7))
        os.kill(pid.get(), signal.SIGKILL)
        with pytest.raises(WorkerCrashedError):
            shoal.get(call)
        array, version = v.get_with_version()
        assert array.min() == array.max()
        del array
        v.set(np.zeros(SIZE, np.int64))
        assert v.version == version + 1
    # Each of them had four versions or two in the making: of that nothing may be left.
    until(lambda: _core.statistics()["used_bytes"] < used + SIZE * 8)
    until(lambda: quiet() and _core.check() == "")


def test_killed_within_the_exchange_itself():
    """Small values: the writer spends most of its time in and around the exchange of the handle."""
    rng = random.Random(2)
    v, pid = Versioned(0), Versioned()
    for _ in range(12):
        before, version = pid.version, v.version
        call = publish.remote(v, pid, True)
        assert pid.wait(before, timeout=60)
        assert v.wait(version, timeout=60)
        for _ in range(rng.randrange(300)):
            v.get()
        os.kill(pid.get(), signal.SIGKILL)
        with pytest.raises(WorkerCrashedError):
            shoal.get(call)
        value, version = v.get_with_version()
        assert isinstance(value, int)
        assert v.set(0) == version + 1
    until(lambda: quiet() and _core.check() == "")


def test_a_waiter_does_not_wait_for_the_dead():
    v, pid = Versioned(0), Versioned()
    call = publish.remote(v, pid, True)
    version = 0
    killed = False
    while version is not None:
        version = v.wait(version, timeout=0.5 if killed else 60)
        if not killed and version > 200:
            os.kill(pid.get(), signal.SIGKILL)
            killed = True
    with pytest.raises(WorkerCrashedError):
        shoal.get(call)
    assert v.wait(v.version, timeout=0) is None
    until(lambda: quiet() and _core.check() == "")
