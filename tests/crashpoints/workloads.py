"""What the processes do while they are killed: the activities of the soak, and here what those leave out.

Each can be done again from its beginning, by another process, after whoever did it was killed in the middle.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from tests.soak import running, sharing
from tests.soak.running import mix, plain

import shoal
from shoal import _core, sync
from shoal.exceptions import (
    ActorDiedError,
    DeadlockError,
    LockHolderDied,
    NotMutableError,
    PendingCallsLimitExceeded,
    TaskCancelledError,
    TaskError,
    VersionConflictError,
    WorkerCrashedError,
    WritableViewsError,
)

Workload = Callable[[random.Random, int], int]


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


@shoal.remote(max_retries=-1)
def waits(seconds: float, x: Any) -> Any:
    time.sleep(seconds)  # a call that lasts
    return x


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


@shoal.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Counting:
    def __init__(self) -> None:
        self.n = 0

    def add(self, _before: Any = None) -> int:
        self.n += 1
        return self.n

    def slow(self, seconds: float) -> int:
        time.sleep(seconds)  # a call that lasts
        return 1

    def stream(self, n: int) -> Generator[int, None, None]:
        yield from range(n)

    def end(self) -> None:
        shoal.exit_actor()


@shoal.remote(num_cpus=0)
class Mortal:
    def __init__(self, fail: bool = False) -> None:
        if fail:
            raise ValueError("not this one")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fine(self, *_: Any) -> int:
        return 4


def odd_actors(rng: random.Random, scale: int) -> int:
    """Actors that fail to start, end themselves, are killed, named, detached, limited, and called with what is not there yet."""
    name = f"walk-{rng.randrange(1 << 60)}-{os.getpid()}"
    try:
        detached = Counting.options(name=name, lifetime="detached").remote()
        again = Counting.options(name=name, get_if_exists=True).remote()
        assert shoal.get(again.add.remote(), timeout=60) >= 1
        shoal.kill(detached, no_restart=False)
        shoal.get(detached.add.remote(waits.remote(0.01, 1)), timeout=60)
        shoal.kill(shoal.get_actor(name))
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


@shoal.remote(max_retries=-1)
def dies_first(state: list[Any], job: int, how: str) -> Any:
    """Dies in its first life, with something in its hands."""
    ref, lock, semaphore, guarded = state
    lives = shoal.get(ref)
    if lives[job]:
        return job
    lives[job] = 1
    kept = [shoal.put(np.zeros(n)) for n in (1, 1000, 50_000)]
    kept.append(shoal.put(kept))
    if how in ("lock", "shared"):
        try:
            (lock if how == "lock" else lock.shared()).acquire(timeout=30)
        except LockHolderDied:
            pass
    elif how == "undo":
        undo = shoal.lock(guarded, rollback=True)
        try:
            undo.acquire(timeout=30)
        except LockHolderDied:
            pass
        shoal.get(guarded)[:] = 9
    elif how == "draft":
        _core.arm_crash_point("before.draft:1")
        shoal.lock(guarded, rollback=True).acquire(timeout=30)
    elif how == "semaphore":
        semaphore.acquire(timeout=30)
    elif how == "forgotten":  # more locks than a process has records for, each held in shared mode and lost
        for _ in range(70):
            shoal.lock().shared().acquire(timeout=10)
    elif how == "children":
        kept += [waits.remote(0.01, i) for i in range(3)]
    elif how == "actor":
        kept.append(Mortal.remote())
    elif how == "return":  # its value is half made, with references in it
        _core.arm_crash_point("seal.before:1")
        return kept
    elif how == "view":
        kept.append(shoal.get(shoal.put(np.zeros(200_000))))
    elif how.startswith("at "):  # in the middle of some change
        _core.arm_crash_point(how[3:])
        for size in (
            10,
            1000,
            40_000,
            3 << 20,
            20 << 20,
            20 << 20,
            20 << 20,
            20 << 20,
            20 << 20,
            20 << 20,
            20 << 20,
            20 << 20,
            20 << 20,
        ):
            kept.append(shoal.put(np.zeros(size, np.uint8)))
        shoal.get(kept[-1])
        shoal.get(kept[-9])
    os.kill(os.getpid(), signal.SIGKILL)
    return -1


HOWS = ["nothing", "lock", "shared", "undo", "draft", "semaphore", "forgotten", "children", "actor", "return", "view"]
HOWS += ["at tx.settle:5", "at tx.set:30", "at tx.locked:9"]


def deaths(rng: random.Random, scale: int, hows: Any = HOWS) -> int:
    """Processes that kill themselves: what there is to clear up for the supervisor."""
    guarded = shoal.put(np.zeros(5000), mutable=True)
    ref, lock, semaphore = shoal.put(np.zeros(len(hows), np.int64), mutable=True), shoal.lock(), sync.Semaphore(2)
    refs = [dies_first.remote([ref, lock, semaphore, guarded], job, how) for job, how in enumerate(hows)]
    assert shoal.get(refs, timeout=90) == list(range(len(hows)))
    assert shoal.get(guarded).sum() == 0, "what a dead holder wrote was not undone"
    mortal = Mortal.remote()
    calls = [mortal.fine.remote(), mortal.die.remote(), mortal.fine.remote()]
    for call in calls[1:]:
        try:
            shoal.get(call, timeout=60)
            raise AssertionError("a dead actor answered")
        except ActorDiedError:
            pass
    restarted = Counting.options(max_restarts=20).remote()
    shoal.get(restarted.add.remote(), timeout=60)
    calls = [restarted.slow.remote(0.03), restarted.add.remote(), restarted.add.remote(waits.remote(0.05, 1))]
    time.sleep(0.005)  # most likely the first runs by now
    shoal.kill(restarted, no_restart=False)
    for call in calls:
        assert shoal.get(call, timeout=60) >= 1
    return len(hows)


def spilling_deaths(rng: random.Random, scale: int) -> int:
    """The same, in the middle of spilling and restoring."""
    hows = [
        f"at {p}:1"
        for p in ("spill.marked", "spill.written", "spill.switched", "restore.marked", "restore.read", "restore.switched")
    ]
    return deaths(rng, scale, hows)


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


def _until(condition: Callable[[], Any], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.0005)  # a poll of what others do
    return True


def _signal(pid: int, number: int) -> None:
    try:
        if pid:
            os.kill(pid, number)
        if pid and number == signal.SIGSTOP:  # nobody may stay stopped, also if we die now
            subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {pid}"], start_new_session=True, stderr=subprocess.DEVNULL)
    except ProcessLookupError:
        pass


def stopped_waiters(rng: random.Random, scale: int) -> int:
    """Somebody is stopped while he waits: he is given a lock and dies before he sees it; a barrier goes on without him."""
    ref, barrier, lock = shoal.put(np.zeros(1, np.int64), mutable=True), sync.Barrier(2), shoal.lock()
    pid = shoal.get(ref)
    lock.acquire()
    waiting = waits_at.remote("lock", [ref, barrier, lock])
    if _until(lambda: lock.statistics()["waiters"]):
        _signal(int(pid[0]), signal.SIGSTOP)
        time.sleep(0.002)  # longer than a lock waits before it is handed over
        lock.release()
        _signal(int(pid[0]), signal.SIGKILL)
    else:
        lock.release()
    assert shoal.get(waiting, timeout=60) == 1
    pid[0] = 0
    waiting = waits_at.remote("barrier", [ref, barrier, lock])
    if _until(lambda: barrier.n_waiting == 1):
        _signal(int(pid[0]), signal.SIGSTOP)
        for i in range(70):
            partner = threading.Thread(target=_meet, args=(barrier,)) if i else None
            if partner:
                partner.start()
            _meet(barrier)
            if partner:
                partner.join(60)
        _signal(int(pid[0]), signal.SIGCONT)
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
    """Several holders of one semaphore; two tasks that wait for each other's locks."""
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


# -- memory -----------------------------------------------------------------------------------------------------------


def odd_objects(rng: random.Random, scale: int) -> int:
    """Sizes of every class, deep nesting, freezing, private views, memory given back."""
    kept = [shoal.put(b"x" * n) for n in (0, 1, 63, 64, 500, 513, 1000, 5000, 20_000, 32_768, 32_769, 100_000, 2_000_000)]
    assert [len(shoal.get(r)) for r in kept] == [0, 1, 63, 64, 500, 513, 1000, 5000, 20_000, 32_768, 32_769, 100_000, 2_000_000]
    rng.shuffle(kept)
    del kept[::2]
    nest: Any = 7
    for _ in range(40):
        nest = shoal.put([shoal.put((nest,)) if rng.random() < 0.3 else nest, None, True, 1.5, "text"])
    shoal.get(nest)
    refs = [shoal.put(i) for i in range(1500)]
    assert shoal.get(refs) == list(range(1500))
    assert shoal.get(shoal.put(refs[:50]))[7] == refs[7]
    ref = shoal.zeros((100, 100))
    try:
        view = shoal.get(ref)
        view[:] = 1
        try:
            shoal.freeze(ref)
            raise AssertionError("frozen in spite of a writable view")
        except WritableViewsError:
            pass
        del view
        shoal.freeze(ref)
        mine = shoal.get(ref, private=True)
        mine[:] = 2
        assert shoal.get(ref).sum() == 10_000 and mine.sum() == 20_000
    except NotMutableError:
        raise AssertionError("zeros() made something immutable") from None
    blocks = [shoal.put(np.zeros(1 << 20, np.uint8)) for _ in range(6)]
    del blocks[1::2], blocks[-1]
    return len(refs)


def trims(rng: random.Random, scale: int) -> int:
    """More than 64 MB freed at once, and given back to the system."""
    for ref in [shoal.put(np.zeros(24 << 20, np.uint8)) for _ in range(4)]:
        del ref
    _core.trim(0)  # what the supervisor does ten seconds later
    return 4


# -- sharing ----------------------------------------------------------------------------------------------------------


def lists(rng: random.Random, scale: int) -> int:
    """Inserting and deleting anywhere, growing; a plain list is the measure."""
    xs, expected = shoal.List(), []
    for i in range(300):
        kind = rng.random()
        if kind < 0.5 or not expected:
            xs.append(i)
            expected.append(i)
        elif kind < 0.65:
            at = rng.randrange(len(expected))
            xs.insert(at, i)
            expected.insert(at, i)
        elif kind < 0.8:
            at = rng.choice([0, -1, rng.randrange(len(expected))])
            assert xs.pop(at) == expected.pop(at)
        elif kind < 0.9:
            at = rng.randrange(len(expected))
            xs[at] = expected[at] = -i
        else:
            at = rng.randrange(len(expected))
            del xs[at], expected[at]
    assert list(xs) == expected
    xs.extend(range(5000))  # its block becomes a large one
    assert len(xs) == len(expected) + 5000
    xs.clear()
    value = shoal.Value(3)
    value.value = 4
    assert value.update(lambda v: v + 1) == 5 or value.value == 5
    return 300


def dicts(rng: random.Random, scale: int) -> int:
    """Growth in small steps, replacing, popping at both ends, keys that are large."""
    d, expected = shoal.Dict(), {}
    for i in range(400):
        key = rng.randrange(250) if rng.random() < 0.9 else f"{i}" * 12_000
        d[key] = expected[key] = i
        if rng.random() < 0.2:
            gone = rng.choice(list(expected))
            assert d.pop(gone) == expected.pop(gone)
        if rng.random() < 0.1 and expected:
            assert d.setdefault(key, 0) == expected.setdefault(key, 0)
    assert dict(d.items()) == expected
    while len(expected) > 20:
        last = rng.random() < 0.5
        key, value = d.popitem(last=last)
        assert expected.pop(key) == value
    assert dict(d.items()) == expected
    d.clear()
    return 400


def odd_queues(rng: random.Random, scale: int) -> int:
    """Bounded ones with others waiting on both sides, and one that outgrows its block."""
    queue = shoal.Queue(maxsize=3)
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend(queue.get(timeout=60) for _ in range(60)))
    reader.start()
    for i in range(60):
        queue.put(i, timeout=60)
    reader.join(60)
    assert got == list(range(60))
    full = shoal.Queue(maxsize=1)
    full.put(1)
    writer = threading.Thread(target=lambda: full.put(2, timeout=60))
    writer.start()
    time.sleep(0.005)  # most likely it sleeps by now
    assert full.get(timeout=60) == 1 and full.get(timeout=60) == 2
    writer.join(60)
    many = shoal.Queue()
    many.put_batch(range(5000))
    assert many.get_batch(5000) == list(range(5000))
    many.put_batch([np.zeros(100)] * 5)  # goes with what is in it
    return 60


def odd_locks(rng: random.Random, scale: int) -> int:
    """Two threads at every lock: given on, left, tried in vain, poisoned, undone, shared, re-entered."""
    ref = shoal.put(np.zeros(1000), mutable=True)
    lock, again = shoal.lock(), shoal.lock(reentrant=True)
    with again, again:
        pass
    order: list[int] = []

    def hold(times: int) -> None:
        for i in range(times):
            with lock if i % 2 else lock.shared():
                order.append(i)
                time.sleep(0.0012)  # long enough for the next one to be given it

    threads = [threading.Thread(target=hold, args=(4,)) for _ in range(3)]
    for t in threads:
        t.start()
    for _ in range(5):
        lock.acquire(timeout=0.001) and lock.release()
        lock.shared().acquire(timeout=0.001) and lock.shared().release()
    for t in threads:
        t.join(60)
    assert len(order) == 12
    undo = shoal.lock(ref, rollback=True)
    try:
        with undo:
            shoal.get(ref)[:] = 7
            raise KeyError
    except KeyError:
        pass
    assert shoal.get(ref).sum() == 0
    with undo:
        shoal.get(ref)[:] = 1
    poisoned = shoal.lock(on_death="poison")
    with poisoned:
        pass
    poisoned.recover()
    return len(order)


def odd_primitives(rng: random.Random, scale: int) -> int:
    """Semaphores, events, conditions and barriers with somebody waiting at each."""
    semaphore, event, condition, barrier = sync.BoundedSemaphore(2), sync.Event(), sync.Condition(), sync.Barrier(2)
    seen: list[str] = []

    def other() -> None:
        barrier.wait(30)
        event.wait(30)
        with condition:
            condition.wait_for(lambda: "said" in seen, timeout=30)
        for _ in range(10):
            with semaphore:
                time.sleep(0.0006)  # so that somebody waits
        barrier.wait(30)
        seen.append("done")

    thread = threading.Thread(target=other)
    thread.start()
    barrier.wait(30)
    event.set()
    event.clear()
    event.set()
    _until(lambda: condition.statistics()["waiters"])
    with condition:
        seen.append("said")
        condition.notify_all()
    for _ in range(10):
        with semaphore, semaphore:
            time.sleep(0.0006)  # both permits
        semaphore.acquire(timeout=0.001) and semaphore.release()
    barrier.wait(30)
    thread.join(30)
    assert "done" in seen
    breaks = sync.Barrier(2)
    try:
        breaks.wait(0.001)
        raise AssertionError("alone at a barrier of two")
    except sync.BrokenBarrierError:
        pass
    breaks.reset()
    acts = sync.Barrier(1, action=lambda: None)
    acts.wait(30)
    acts.abort()
    many = [sync.Semaphore(1) for _ in range(70)]  # more than a process has records for
    for one in many:
        one.acquire(timeout=10)
        one.release()
    event.wait(0.001)
    sync.Event().wait(0.001)
    return 70


def odd_versions(rng: random.Random, scale: int) -> int:
    """Waiting for versions, conflicts, drafts that are thrown away."""
    v = shoal.Versioned(np.zeros(3000))
    before = v.version
    waiter = threading.Thread(target=lambda: v.wait(before, timeout=30))
    waiter.start()
    with v.update() as draft:
        draft += 1
    waiter.join(30)
    try:
        with v.update() as draft:
            draft += 1
            raise KeyError
    except KeyError:
        pass
    assert v.compare_and_set(v.version, np.ones(10))
    assert not v.compare_and_set(0, np.ones(10))
    try:
        v.set(np.ones(3), expected_version=0)
        raise AssertionError("a stale version was accepted")
    except VersionConflictError:
        pass
    v.set([v.get(), "text"])
    return int(v.version)


def odd_names(rng: random.Random, scale: int) -> int:
    """A lock and containers found by name; they stay, so they always have the same names."""
    with shoal.lock("walk"):
        pass
    shoal.Counter(name="walk").add(1)
    assert len(_core.name_list(2)) >= 1
    return 2


def spills(rng: random.Random, scale: int) -> int:
    """More than the arena holds."""
    refs = [shoal.put(np.full(15 << 20, i, np.uint8)) for i in range(14)]
    for i in rng.sample(range(14), 14):
        array = shoal.get(refs[i])
        assert array[0] == array[-1] == i
        del array
    return 14


ODD: list[Workload] = [
    odd_tasks,
    cancels,
    odd_actors,
    deaths,
    spilling_deaths,
    stopped_waiters,
    circles,
    odd_objects,
    trims,
    lists,
    dicts,
    odd_queues,
    odd_locks,
    odd_primitives,
    odd_versions,
    odd_names,
    spills,
]
WORKLOADS: dict[str, Workload] = {w.__name__: w for w in [*running.ACTIVITIES, *sharing.ACTIVITIES, *ODD]}
