"""What the processes do while they are killed: the activities of the soak, and here what those leave out.

Each can be done again from its beginning, by another process, after whoever did it was killed in the middle.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

import shoal
from shoal import _core, sync
from shoal.exceptions import (
    ActorDiedError,
    LockHolderDied,
    NotMutableError,
    PendingCallsLimitExceeded,
    TaskCancelledError,
    TaskError,
    VersionConflictError,
    WorkerCrashedError,
    WritableViewsError,
)
from tests.soak import running, sharing
from tests.soak.running import mix, plain

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
def dies_first(state: list[Any], job: int, how: str) -> int:
    """Dies in its first life, with something in its hands."""
    ref, lock, semaphore = state
    lives = shoal.get(ref)
    if lives[job]:
        return job
    lives[job] = 1
    kept = [shoal.put(np.zeros(n)) for n in (1, 1000, 50_000)]
    kept.append(shoal.put(kept))
    if how == "lock":
        try:
            lock.acquire(timeout=30)
        except LockHolderDied:
            pass
    elif how == "shared":
        try:
            lock.shared().acquire(timeout=30)
        except LockHolderDied:
            pass
    elif how == "semaphore":
        semaphore.acquire(timeout=30)
    elif how == "children":
        kept += [waits.remote(0.01, i) for i in range(3)]
    elif how == "actor":
        kept.append(Mortal.remote())
    os.kill(os.getpid(), signal.SIGKILL)
    return -1


def deaths(rng: random.Random, scale: int) -> int:
    """Processes that kill themselves: what there is to clear up for the supervisor."""
    hows = ["nothing", "lock", "shared", "semaphore", "children", "actor"]
    ref, lock, semaphore = shoal.put(np.zeros(len(hows), np.int64), mutable=True), shoal.lock(), sync.Semaphore(2)
    refs = [dies_first.remote([ref, lock, semaphore], job, how) for job, how in enumerate(hows)]
    assert shoal.get(refs, timeout=90) == list(range(len(hows)))
    mortal = Mortal.remote()
    calls = [mortal.fine.remote(), mortal.die.remote(), mortal.fine.remote()]
    for call in calls[1:]:
        try:
            shoal.get(call, timeout=60)
            raise AssertionError("a dead actor answered")
        except ActorDiedError:
            pass
    restarted = Counting.remote()
    shoal.kill(restarted, no_restart=False)
    assert shoal.get(restarted.add.remote(), timeout=60) >= 1
    return len(hows)


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
            d.setdefault(key, 0)
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
    odd_tasks, cancels, odd_actors, deaths, odd_objects, trims, lists, dicts, odd_queues, odd_locks, odd_primitives,
    odd_versions, odd_names, spills,
]  # fmt: skip
WORKLOADS: dict[str, Workload] = {w.__name__: w for w in [*running.ACTIVITIES, *sharing.ACTIVITIES, *ODD]}
