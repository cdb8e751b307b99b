"""A process killed at each step of each operation; only in builds with crash points (SHOAL_TEST_HOOKS=ON)."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from tests.conftest import in_time, quiet, until

import shoal
from shoal import _core
from shoal.exceptions import ActorDiedError, LockHolderDied
from shoal.sync import Barrier, BrokenBarrierError, Condition, Event, Semaphore

pytestmark = [
    pytest.mark.usefixtures("session"),
    pytest.mark.skipif(not _core.CRASH_POINTS, reason="a build without crash points"),
    pytest.mark.timeout(600),
]
POINTS = [f"tx.set:{n}" for n in range(1, 16)] + [f"tx.{p}:{n}" for p in ("locked", "settled") for n in (1, 2, 3)]
NAMED = ["shared.word", "lock.given", "lock.passed", "semaphore.taken", "semaphore.released", "event.set"]
NAMED += ["condition.notified", "barrier.over"]


@shoal.remote(num_cpus=0)
class Victim:
    def run(self, point, what, things):
        things = {**things, "reader": things["lock"].shared()}
        if what == "release":
            things["lock"].acquire()
            until(lambda: things["lock"].statistics()["waiters"] == 2)
        operation = {
            "shared": lambda: (things["reader"].acquire(), things["reader"].release()),
            "release": things["lock"].release,
            "semaphore": lambda: (things["semaphore"].acquire(), things["semaphore"].release()),
            "event": things["event"].set,
            "condition": lambda: (
                things["condition"].acquire(),
                things["condition"].notify(),
                things["condition"].release(),
            ),
            "barrier": things["barrier"].wait,
            "wait": lambda: (things["reader"].acquire(timeout=0.02), things["lock"].acquire(timeout=0.02)),
        }[what]
        _core.arm_crash_point(point)
        operation()
        os.kill(os.getpid(), signal.SIGKILL)


def partner(what, things, result, limit):
    """Somebody alive who waits for what the victim does; in every case it is let go."""
    lock = things["lock"]

    def take(face):
        try:
            result.append(face.acquire(timeout=30))
        except LockHolderDied:
            result.append(True)
            if not face._is_shared:
                face.release()
            return
        face.release()

    def wait_on_condition():
        try:
            with things["condition"]:
                result.append(things["condition"].wait(0.3))
        except LockHolderDied:  # `wait` took the lock again, `with` gave it back
            result.append(True)

    def meet():
        try:
            result.append(things["barrier"].wait(limit))  # it may have died before it came
        except BrokenBarrierError:
            result.append(-1)

    calls = {
        "release": [lambda: take(lock), lambda: take(lock.shared())],
        "event": [lambda: result.append(things["event"].wait(0.3))],
        "condition": [wait_on_condition],
        "barrier": [meet],
    }.get(what, [])
    threads = [threading.Thread(target=c) for c in calls]
    return threads


def killed_at(point, what, limit):
    """One scene; False: who waited for the victim gave up before it came."""
    things = {
        "lock": shoal.lock(),
        "semaphore": Semaphore(1),
        "event": Event(),
        "condition": Condition(),  # with a lock of its own: it may die with the victim
        "barrier": Barrier(2),
    }
    result: list[object] = []
    threads = partner(what, things, result, limit)
    if what == "wait":
        things["lock"].acquire()
    victim = Victim.remote()
    if what == "release":
        died = victim.run.remote(point, what, things)
        until(things["lock"].locked)
        for thread in threads:
            thread.start()
    else:
        for thread in threads:
            thread.start()
        key = {"event": "event", "condition": "condition", "barrier": "barrier"}.get(what)
        if key:
            until(lambda k=key, t=things: t[k].statistics()["waiters"] == 1)
        died = victim.run.remote(point, what, things)
    try:
        with pytest.raises(ActorDiedError):
            shoal.get(died)
    except BrokenBarrierError:  # its partner did not wait for it as long as it took to come
        return False
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), (what, point)
    if what in ("release", "barrier"):
        assert len(result) == len(threads), (what, point)
    if what == "wait":
        things["lock"].release()
    until(lambda t=things: not t["lock"].locked() and not t["semaphore"].statistics()["holders"])
    try:
        assert things["lock"].acquire(timeout=20)
    except LockHolderDied:
        pass
    things["lock"].release()
    facts = things["lock"].statistics()
    assert (facts["holder"], facts["readers"], facts["waiters"]) == (None, {}, 0), (what, point)
    assert things["semaphore"].statistics()["value"] == 1, (what, point)
    del victim, died, things, threads
    try:
        until(lambda: quiet() and _core.check() == "")
    except AssertionError:
        pytest.fail(f"{what} {point}: {_core.check()}")
    return True


@pytest.mark.parametrize("what", ["shared", "release", "semaphore", "event", "condition", "barrier", "wait"])
def test_killed_at_each_step(what):
    for point in POINTS + [f"{p}:1" for p in NAMED]:
        in_time(lambda limit, point=point: killed_at(point, what, limit), 0.5)
