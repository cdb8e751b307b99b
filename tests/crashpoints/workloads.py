"""What the processes do while they are killed: the activities of the soak, and here what those leave out.

Each can be done again from its beginning, by another process, after whoever did it was killed in the middle.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Generator
from typing import Any

import numpy as np
from tests.crashpoints import dying, filling, owning, sharing
from tests.crashpoints.common import DETACHED, Counting, Mortal, Workload, send, until, waits
from tests.soak import running
from tests.soak import sharing as soak_sharing
from tests.soak.running import mix, plain

import shoal
from shoal import _core, sync
from shoal.exceptions import (
    ActorDiedError,
    DeadlockError,
    LockHolderDied,
    PendingCallsLimitExceeded,
    TaskCancelledError,
    TaskError,
    TaskTimeoutError,
    WorkerCrashedError,
)

# -- tasks and actors -------------------------------------------------------------------------------------------------


@shoal.remote(max_retries=-1, num_returns="dynamic")
def dynamic(n: int) -> Generator[int, None, None]:
    yield from range(n)


@shoal.remote(max_retries=-1, max_calls=1)
def once() -> int:
    return os.getpid()


@shoal.remote(max_retries=-1, num_gpus=0.5, resources={"special": 1})
def demanding(x: int) -> int:
    return x + 1


@shoal.remote(max_retries=-1)
def fails(x: int) -> int:
    raise KeyError(x)


def odd_tasks(rng: random.Random, scale: int) -> int:
    """Generators, resources, errors, long chains, crowds."""
    assert [shoal.get(r, timeout=60) for r in shoal.get(dynamic.remote(5), timeout=60)] == list(range(5))
    assert shoal.get(once.remote(), timeout=60) > 0
    assert shoal.get([demanding.remote(i) for i in range(4)], timeout=60) == [1, 2, 3, 4]
    try:
        shoal.get(plain.remote(fails.remote(3)), timeout=60)
        raise AssertionError("no error")
    except TaskError as error:
        assert isinstance(error, KeyError)
    chain: Any = 0
    for _ in range(30):
        chain = plain.remote(chain)
    shoal.get(chain, timeout=60)
    refs = [plain.remote(i) for i in range(700)]  # more blocks than a cache holds
    assert [shoal.get(r, timeout=60) for r in refs] == [mix(i) for i in range(700)]
    first = waits.remote(0.02, 1)
    late = [plain.remote(first, i) for i in range(20)]
    del first
    assert shoal.get(late[3], timeout=60) == mix(1, 3)
    return 700


def cancels(rng: random.Random, scale: int) -> int:
    """Calls cancelled while they run, wait for arguments, lie in a queue or a mailbox."""
    first = waits.remote(0.05, 1)
    several = [plain.remote(first, i) for i in range(4)]  # all in the list of those that wait for it
    shoal.cancel(several[1])
    busy = Counting.remote()
    held = [busy.slow.remote(0.05), busy.add.remote(first), busy.add.remote()]
    shoal.cancel(held[1])
    for ref in (*several, *held):
        try:
            shoal.get(ref, timeout=60)
        except TaskCancelledError:
            pass
    waiting, queued = plain.remote(first), [waits.remote(0.01, i) for i in range(10)]
    actor = Counting.remote()
    calls = [actor.slow.remote(0.02) for _ in range(4)]
    for ref in (waiting, queued[-1], queued[0], calls[-1], calls[1]):
        shoal.cancel(ref)
    for ref in (waiting, *queued, *calls, first):
        try:
            shoal.get(ref, timeout=60)
        except (TaskCancelledError, WorkerCrashedError):
            pass
    forced = waits.remote(5, 1)
    time.sleep(0.01)  # most likely it runs by now; it may be killed before, which is right too
    shoal.cancel(forced, force=True)
    try:
        shoal.get(forced, timeout=60)
    except (TaskCancelledError, WorkerCrashedError):
        pass
    return len(calls)


@shoal.remote(max_retries=1, timeout_s=0.03, retry_exceptions=True)
def late_once(refs: list[Any], how: str) -> int:
    """Takes too long in its first life."""
    lives = shoal.get(refs[0])
    first, lives[0] = not lives[0], 1
    end = time.monotonic() + 30
    while first and time.monotonic() < end:
        try:
            time.sleep(1)  # until it is interrupted, or, if it does not listen, killed
        except KeyboardInterrupt:
            if how == "interrupted":
                raise
    return 5


def late(rng: random.Random, scale: int) -> int:
    """Tasks that are too slow: interrupted or killed, then run again, or not."""
    for how in ("interrupted", "deaf"):
        lives = shoal.zeros(1, "i8")
        call = late_once.remote([lives], how)
        try:
            assert shoal.get(call, timeout=60) == 5
        except (TaskTimeoutError, WorkerCrashedError):  # its second life, the last, was killed, or had a slow start
            pass
    try:
        shoal.get(waits.options(timeout_s=0.02, max_retries=0).remote(5, 1), timeout=60)
        raise AssertionError("it was in time")
    except (TaskTimeoutError, WorkerCrashedError):
        pass
    return 3


def odd_actors(rng: random.Random, scale: int) -> int:
    """Actors that fail to start, end themselves, are killed, named, detached, limited, and called with what is not there yet."""
    try:
        # Always the same name: who was killed before he could end it has left it to the next one, or to hosts.rest().
        detached = Counting.options(name=DETACHED, lifetime="detached", get_if_exists=True).remote()
        again = Counting.options(name=DETACHED, get_if_exists=True).remote()
        assert shoal.get(again.add.remote(), timeout=60) >= 1
        shoal.kill(detached, no_restart=False)
        shoal.get(detached.add.remote(waits.remote(0.01, 1)), timeout=60)
        shoal.kill(shoal.get_actor(DETACHED))
    except ActorDiedError:
        pass
    for actor, call in (
        (Mortal.remote(fail=True), "fine"),
        (Counting.options(max_restarts=0, max_task_retries=0).remote(), "end"),
        (Mortal.remote(), "die"),
    ):
        try:
            shoal.get(getattr(actor, call).remote(), timeout=60)
            raise AssertionError(f"{call} ended well")
        except (ActorDiedError, TaskError):
            pass
    name = f"walk-{rng.randrange(1 << 60)}-{os.getpid()}"
    Counting.options(name=name).remote()  # no handle is left: it will end
    for _ in range(200):  # until its name is free, or about to be
        try:
            second = Counting.options(name=name).remote()
            break
        except ValueError:
            time.sleep(0.0005)  # it ends in its own time
    else:
        raise AssertionError("a name is never free again")
    del second
    late = Mortal.remote(waits.remote(0.02, False))
    try:
        assert shoal.get(late.fine.remote(), timeout=60) == 4
    except ActorDiedError:
        pass
    limited = Mortal.options(max_pending_calls=2).remote()
    accepted = []
    for _ in range(30):
        try:
            accepted.append(limited.fine.remote(waits.remote(0.005, 1)))
        except PendingCallsLimitExceeded:
            pass
    for ref in accepted:
        try:
            assert shoal.get(ref, timeout=60) == 4
        except ActorDiedError:
            pass
    items = Counting.remote().stream.remote(3)
    try:
        assert [shoal.get(i, timeout=60) for i in items] == [0, 1, 2]
    except ActorDiedError:
        pass
    return len(accepted)


class Unlucky(Exception):
    """Ends its process when it is pickled for a call that was taken from a dead actor's mailbox."""

    def __reduce__(self) -> Any:
        if any(frame.name == "mourn" for frame in traceback.extract_stack()) and _core.role() == _core.WORKER:
            os.kill(os.getpid(), signal.SIGKILL)
        return Unlucky, ()


@shoal.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Unborn:
    def __init__(self, before: Any = None) -> None:
        raise Unlucky if before == "unlucky" else ValueError("never")

    def fine(self, *_: Any) -> int:
        return 4


@shoal.remote(max_retries=-1, num_cpus=0)
def comes_when(refs: list[Any]) -> int:
    flag = shoal.get(refs[0])
    assert until(lambda: flag[0], 60)
    return 1


def failing_actors(rng: random.Random, scale: int) -> int:
    """Constructors that raise, of actors that would be restarted, with calls that wait for arguments."""
    first = waits.remote(0.02, 1)
    for actor in (Unborn.remote(), Unborn.remote(first)):
        calls = [actor.fine.remote(), actor.fine.remote(waits.remote(0.1, 1)), actor.fine.remote()]
        for call in calls:
            try:
                shoal.get(call, timeout=60)
                raise AssertionError("it cannot have been made")
            except ActorDiedError:
                pass
    unlucky = Unborn.remote(waits.remote(0.02, "unlucky"))
    flag = shoal.zeros(1, "i8")
    late_one = comes_when.remote([flag])
    try:
        shoal.get(unlucky.fine.remote(late_one), timeout=60)
        raise AssertionError("it cannot have been made")
    except ActorDiedError:
        pass
    shoal.get(flag)[0] = 1
    assert shoal.get(late_one, timeout=60) == 1
    busy = waits.options(resources={"special": 1}).remote(0.05, 1)
    queued = Counting.options(resources={"special": 1}).remote()
    call = queued.add.remote()
    shoal.kill(queued)  # its creation lies in a queue
    try:
        shoal.get(call, timeout=60)
    except ActorDiedError:
        pass
    assert shoal.get(busy, timeout=60) == 1
    return 7


@shoal.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Keeping:
    """Its state outlives its process."""

    def __init__(self) -> None:
        self.n, self.log = 0, np.zeros(3000)

    def __shoal_save__(self) -> Any:
        return self.n, self.log

    def __shoal_restore__(self, state: Any) -> None:
        self.n, self.log = state[0], state[1].copy()

    def add(self) -> int:
        self.n += 1
        self.log[self.n] = self.n
        return self.n

    def fails(self) -> None:
        self.n += 1
        raise KeyError(self.n)

    def end(self) -> tuple[int, float]:
        return self.n, float(self.log.sum())


def keeping_actors(rng: random.Random, scale: int) -> int:
    """Every call takes effect once, however often the process dies."""
    actor = Keeping.remote()
    assert shoal.get([actor.add.remote() for _ in range(12)], timeout=60) == list(range(1, 13))
    try:
        shoal.get(actor.fails.remote(), timeout=60)
        raise AssertionError("no error")
    except TaskError as error:
        assert isinstance(error, KeyError) and "13" in str(error)
    shoal.kill(actor, no_restart=False)
    assert shoal.get([actor.add.remote() for _ in range(3)], timeout=60) == [14, 15, 16]
    assert shoal.get(actor.end.remote(), timeout=60) == (16, 12 * 13 / 2 + 14 + 15 + 16)
    return 16


@shoal.remote(max_retries=-1)
def waits_at(what: str, state: list[Any]) -> int:
    """Writes down its pid, and waits."""
    ref, barrier, lock = state
    shoal.get(ref)[0] = os.getpid()
    if what == "barrier":
        try:
            barrier.wait(3)
        except sync.BrokenBarrierError:
            pass
    else:
        try:
            lock.acquire(timeout=30) and lock.release()
        except LockHolderDied:
            lock.release()
    return 1


def stopped_waiters(rng: random.Random, scale: int) -> int:
    """Somebody is stopped while he waits: he is given a lock and dies before he sees it; a barrier goes on without him."""
    ref, barrier, lock = shoal.put(np.zeros(1, np.int64), mutable=True), sync.Barrier(2), shoal.lock()
    pid = shoal.get(ref)
    lock.acquire()
    waiting = waits_at.remote("lock", [ref, barrier, lock])
    if until(lambda: lock.statistics()["waiters"]):
        send(int(pid[0]), signal.SIGSTOP)
        time.sleep(0.002)  # longer than a lock waits before it is handed over
        lock.release()
        send(int(pid[0]), signal.SIGKILL)
    else:
        lock.release()
    assert shoal.get(waiting, timeout=60) == 1
    pid[0] = 0
    waiting = waits_at.remote("barrier", [ref, barrier, lock])
    if until(lambda: barrier.n_waiting == 1):
        send(int(pid[0]), signal.SIGSTOP)
        for i in range(70):
            partner = threading.Thread(target=_meet, args=(barrier,)) if i else None
            if partner:
                partner.start()
            _meet(barrier)
            if partner:
                partner.join(60)
        send(int(pid[0]), signal.SIGCONT)
    assert shoal.get(waiting, timeout=60) == 1
    cancelled = waits_at.remote("barrier", [ref, sync.Barrier(2), lock])
    time.sleep(0.01)  # most likely it waits by now
    shoal.cancel(cancelled)
    try:
        shoal.get(cancelled, timeout=60)
    except TaskCancelledError:
        pass
    return 70


def _meet(barrier: Any) -> None:
    try:
        barrier.wait(5)
    except sync.BrokenBarrierError:
        barrier.reset()


@shoal.remote(max_retries=-1)
def crowd(semaphore: Any, barrier: Any) -> int:
    semaphore.acquire(timeout=30)
    try:
        barrier.wait(1)  # all have one now
    except sync.BrokenBarrierError:
        pass
    semaphore.release()
    return 1


@shoal.remote(max_retries=-1)
def takes_both(first: str, second: str, barrier: Any) -> int:
    with shoal.lock(first):
        try:
            barrier.wait(1)
        except sync.BrokenBarrierError:
            pass
        try:
            with shoal.lock(second):
                return 1
        except DeadlockError:
            return 0


def circles(rng: random.Random, scale: int) -> int:
    """Several holders of one semaphore; two tasks that wait for each other's locks; a wait that is long, but no circle."""
    assert shoal.get(waits.remote(0.4, waits.remote(0.2, 1))) == 1  # without a limit, so it is looked at
    semaphore, barrier = sync.Semaphore(3), sync.Barrier(3)
    shoal.get([crowd.remote(semaphore, barrier) for _ in range(3)], timeout=60)
    two = sync.Barrier(2)
    done = 0
    for call in [takes_both.remote("walk", "walk2", two), takes_both.remote("walk2", "walk", two)]:
        try:
            done += shoal.get(call, timeout=60)
        except LockHolderDied:  # whoever had it was killed
            done += 1
    assert done >= 1
    for name in ("walk", "walk2"):  # the note of a death is not for the next one who comes by
        try:
            shoal.lock(name).acquire(timeout=30)
        except LockHolderDied:
            pass
        shoal.lock(name).release()
    return done


HERE: list[Workload] = [odd_tasks, cancels, late, odd_actors, failing_actors, keeping_actors, stopped_waiters, circles]
ALL = [*running.ACTIVITIES, *soak_sharing.ACTIVITIES, *HERE]
for more in (dying, filling, owning, sharing):
    ALL += more.WORKLOADS
WORKLOADS: dict[str, Workload] = {w.__name__: w for w in ALL}
