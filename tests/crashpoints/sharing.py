"""Locks, containers, versions and their kin: what the soak leaves out."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
from tests.crashpoints.common import until

import shoal
from shoal import _core, sync
from shoal.exceptions import VersionConflictError


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
    xs.sort(reverse=True)
    xs.reverse()
    assert list(xs) == sorted([*expected, *range(5000)])
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
    until(lambda: condition.statistics()["waiters"])
    with condition:
        seen.append("said")
        condition.notify_all()
    for _ in range(10):
        with semaphore, semaphore:
            time.sleep(0.0006)  # both permits
            semaphore.acquire(timeout=0.001) and semaphore.release()
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


WORKLOADS = [lists, dicts, odd_queues, odd_locks, odd_primitives, odd_versions, odd_names]
