"""Activities about locks, versions, containers and mutable objects.

What a killed process did is done again by its successor: each step has a number and is marked as done together with
what it changes, so that the end is that of a serial run.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from tests.soak.running import large, mix

import shoal
from shoal.exceptions import LockHolderDied, VersionConflictError

ACCOUNTS = 40


def transfers(seed: int, n: int) -> list[tuple[int, int, int]]:
    rng = random.Random(seed)
    return [(rng.randrange(ACCOUNTS), rng.randrange(ACCOUNTS), rng.randrange(100)) for _ in range(n)]


def balances(jobs: list[tuple[int, int]]) -> np.ndarray:
    result = np.zeros(ACCOUNTS, np.int64)
    for seed, n in jobs:
        for source, target, amount in transfers(seed, n):
            result[source] -= amount
            result[target] += amount
    return result


def take(lock: Any) -> bool:
    """Acquires; True if the last holder died."""
    try:
        lock.acquire(timeout=120) or _late()
        return False
    except LockHolderDied:
        return True


def _late() -> None:
    raise TimeoutError("a lock was not to be had in two minutes")


@shoal.remote(max_retries=-1)
def pay(refs: list[Any], job: int, seed: int, n: int) -> int:
    bank, lock = shoal.get(refs[0]), shoal.lock(refs[0], rollback=True)
    for i, (source, target, amount) in enumerate(transfers(seed, n)):
        take(lock)
        assert bank["balance"].sum() == 0, "half a transfer is left"
        if bank["done"][job] <= i:
            bank["balance"][source] -= amount
            bank["balance"][target] += amount
            bank["done"][job] = i + 1
        lock.release()
    return n


@shoal.remote(max_retries=-1)
def raise_both(refs: list[Any], n: int) -> int:
    """Two numbers that are always the same, except when their lock's holder died: then it is said."""
    pair, lock = shoal.get(refs[0]), shoal.lock(refs[0])
    told = 0
    for _ in range(n):
        if take(lock):
            told += 1
            pair[:] = pair.max()
        assert pair[0] == pair[1], "half a change is left, and nobody said so"
        pair[0] += 1
        pair[1] += 1
        lock.release()
    return told


@shoal.remote(max_retries=-1)
def look(refs: list[Any], n: int) -> int:
    bank = shoal.get(refs[0])
    lock = shoal.lock(refs[0], shared=True)
    looks = 0
    for _ in range(n):
        try:
            if lock.acquire(timeout=120):
                assert bank["balance"].sum() == 0, "a reader sees half a transfer"
                looks += 1
                lock.release()
        except LockHolderDied:
            pass
    return looks


def locks(rng: random.Random, scale: int) -> int:
    """Transfers between accounts under a lock, undone at deaths; readers in shared mode see whole ones only."""
    jobs = [(rng.randrange(1 << 30), 30 * scale) for _ in range(3)]
    ref = shoal.put({"balance": np.zeros(ACCOUNTS, np.int64), "done": np.zeros(8, np.int64)}, mutable=True)
    pair = shoal.zeros(2, "i8")
    running = [pay.remote([ref], k, seed, n) for k, (seed, n) in enumerate(jobs)]
    running += [look.remote([ref], 20 * scale) for _ in range(2)]
    running += [raise_both.remote([pair], 40 * scale) for _ in range(2)]
    shoal.get(running, timeout=240)
    assert shoal.get(pair).max() >= 80 * scale, "an increment was lost"
    bank = shoal.get(ref)
    assert (bank["balance"] == balances(jobs)).all(), "the balances are not those of a serial run"
    return sum(n for _, n in jobs)


@shoal.remote(max_retries=-1)
def publish(v: Any, job: int, n: int) -> int:
    conflicts = 0
    while v.get()[1] >> 8 * job & 255 < n:
        try:
            with v.update(expected_version=v.version) as state:
                assert state[0] == state[-1] == state[2:].max() == state[2:].min(), "a torn version"
                state[1] += 1 << 8 * job
                state[2:] += 1
                state[0] += 1
        except VersionConflictError:
            conflicts += 1
    return conflicts


@shoal.remote(max_retries=-1)
def read_versions(v: Any, until: int) -> int:
    last = -1
    while True:
        state, number = v.get_with_version()
        assert number >= last, "an older version after a newer one"
        last = number
        assert (state[2:] == state[0]).all(), "a torn version"
        if state[0] >= until:
            return int(number)
        v.wait(number, timeout=0.01)


def versions(rng: random.Random, scale: int) -> int:
    """Writers that publish on condition, each a fixed number of times; readers never see a torn version."""
    writers, n = 3, min(250, 20 * scale)
    v = shoal.Versioned(np.zeros(rng.choice([50, 5000, 100_000]), np.int64))
    running = [publish.remote(v, job, n) for job in range(writers)]
    running += [read_versions.remote(v, writers * n) for _ in range(2)]
    shoal.get(running, timeout=240)
    state = v.get()
    assert state[0] == writers * n == v.version, f"{state[0]} publications of {writers * n}, version {v.version}"
    return writers * n


def _item(producer: int, i: int) -> Any:
    return (producer, i, large(i, 300 if i % 4 else 3)) if i % 3 else (producer, i, i)


@shoal.remote(max_retries=-1)
def produce(queue: Any, refs: list[Any], producer: int, n: int, batch: int) -> int:
    """Puts n items in their order; what was put before a death is acknowledged in `state`."""
    state = shoal.get(refs[0])
    state["lives"][producer] += 1
    while (start := int(state["acknowledged"][producer])) < n:
        stop = min(n, start + batch)
        queue.put_batch([_item(producer, i) for i in range(start, stop)])
        state["acknowledged"][producer] = stop
    return n


@shoal.remote(max_retries=-1)
def consume(queue: Any, refs: list[Any], consumer: int, batch: int) -> int:
    """Counts each item that it gets, until a None comes, which it puts back for the others."""
    state = shoal.get(refs[0])
    state["lives"][4 + consumer] += 1
    seen = state["seen"]
    while True:
        for item in queue.get_batch(batch, timeout=20):  # of one who died nobody else puts anything
            if item is None:
                queue.put(None)
                return 0
            producer, i, data = item
            if isinstance(data, np.ndarray):
                assert mix(data) == mix(large(i, len(data))), "an item's value"
            seen[consumer, producer, i] += 1


def queues(rng: random.Random, scale: int) -> int:
    """No acknowledged item is lost but what a killed consumer had in its hands; none comes twice but what a killed producer
    had not acknowledged."""
    n, producers, consumers, batch = 60 * scale, 2, 2, rng.choice([1, 1, 5])
    queue = shoal.Queue(maxsize=rng.choice([0, 7, 64]))
    ref = shoal.put(
        {
            "acknowledged": np.zeros(4, np.int64),
            "lives": np.zeros(8, np.int64),
            "seen": np.zeros((consumers, producers, n), np.uint8),
        },
        mutable=True,
    )
    eating = [consume.remote(queue, [ref], k, batch) for k in range(consumers)]
    shoal.get([produce.remote(queue, [ref], k, n, batch) for k in range(producers)], timeout=240)
    queue.put(None)
    # A consumer that died with the None in its hands leaves none for the others.
    done: list[Any] = []
    while len(done) < consumers:
        done, _ = shoal.wait(eating, num_returns=consumers, timeout=2)
        if len(done) < consumers and queue.empty():
            queue.put(None, timeout=60)
    shoal.get(eating)
    state = shoal.get(ref)
    seen = state["seen"].sum(axis=0)
    deaths_in, deaths_out = int(state["lives"][:4].sum()) - producers, int(state["lives"][4:].sum()) - consumers
    missing, more = int((seen == 0).sum()), int(np.maximum(seen, 1).sum()) - seen.size
    left = 0
    while not queue.empty():
        left += queue.get() is not None
    assert left == 0, f"{left} items were left in the queue"
    assert missing <= deaths_out * batch, f"{missing} acknowledged items lost, {deaths_out} consumers died (batches of {batch})"
    assert more <= deaths_in * batch, f"{more} items came twice, {deaths_in} producers died (batches of {batch})"
    return producers * n


@shoal.remote(max_retries=-1)
def produce_ordered(queue: Any, refs: list[Any], n: int) -> int:
    state = shoal.get(refs[0])
    while (start := int(state[0])) < n:
        queue.put(start)
        state[0] = start + 1
    return n


def order(rng: random.Random, scale: int) -> int:
    """One producer that is killed, one consumer that is not (the driver): each item, in order, twice at most."""
    n = 100 * scale
    queue, ref = shoal.Queue(), shoal.put(np.zeros(1, np.int64), mutable=True)
    producing = produce_ordered.remote(queue, [ref], n)
    expected = 0
    while expected < n:
        got = queue.get(timeout=120)
        assert got in (expected, expected - 1), f"item {got} where {expected} was to come"
        expected = got + 1
    shoal.get(producing, timeout=120)
    assert queue.qsize() <= 1
    return n


@shoal.remote(max_retries=-1)
def fill(d: Any, xs: Any, job: int, n: int) -> int:
    for i in range(n):
        d[f"{job}-{i}"] = large(i, 200) if i % 5 == 0 else i
        if i % 3 == 0 and i:
            d.pop(f"{job}-{i - 1}", None)
        if i % 7 == 0:
            d.setdefault(f"{job}-{i}", -1)
        xs[job] = (job, i)
    return n


def containers(rng: random.Random, scale: int) -> int:
    """Dicts and lists filled by several, each its own keys and places."""
    n = 40 * scale
    d, xs = shoal.Dict(), shoal.List([None] * 3)
    shoal.get([fill.remote(d, xs, job, n) for job in range(3)], timeout=240)
    expected = {}
    for job in range(3):
        for i in range(n):
            expected[f"{job}-{i}"] = mix(large(i, 200)) if i % 5 == 0 else mix(i)
            if i % 3 == 0 and i:
                expected.pop(f"{job}-{i - 1}", None)
    assert {k: mix(v) for k, v in d.items()} == expected, "the dictionary is not that of a serial run"
    assert list(xs) == [(job, n - 1) for job in range(3)]
    return 3 * n


@shoal.remote(max_retries=-1)
def record(ring: Any, refs: list[Any], job: int, n: int, prioritized: bool) -> int:
    state = shoal.get(refs[0])
    while (i := int(state[job])) < n:
        if prioritized and i % 5 == 0:
            ring.append(number=i, data=large(i, 64), priority=float(1 + i % 9))
        elif i % 7 == 0:
            many = min(4, n - i)
            ring.extend(number=np.full(many, i), data=np.stack([large(i, 64)] * many))
        else:
            ring.append(number=i, data=large(i, 64))
        state[job] = i + 1
    return n


@shoal.remote(max_retries=-1)
def sample(ring: Any, n: int, prioritized: bool) -> int:
    seen = 0
    for _ in range(n):
        if not len(ring):
            continue
        try:
            batch = ring.sample(16, prioritized=prioritized)
        except (IndexError, ValueError):  # no complete record yet
            continue
        for number, data in zip(batch["number"], batch["data"], strict=True):
            assert (data == large(int(number), 64)).all(), "a torn record"
            seen += 1
    return seen


def rings(rng: random.Random, scale: int) -> int:
    """A replay buffer with producers that are killed: no sample is torn."""
    prioritized = rng.random() < 0.5
    ring = shoal.Ring(rng.choice([8, 50]), {"number": ((), "i8"), "data": ((64,), "i8")}, prioritized=prioritized)
    ref = shoal.put(np.zeros(4, np.int64), mutable=True)
    running = [record.remote(ring, [ref], job, 40 * scale, prioritized) for job in range(2)]
    running += [sample.remote(ring, 20 * scale, prioritized) for _ in range(2)]
    shoal.get(running, timeout=240)
    return 80 * scale


@shoal.remote(max_retries=-1)
def write_slice(refs: list[Any], job: int, jobs: int) -> int:
    whole = shoal.get(refs[0])
    mine = whole[job * len(whole) // jobs : (job + 1) * len(whole) // jobs]
    for _ in range(3):
        mine[:] = large(job, len(mine))
    return len(mine)


def slices(rng: random.Random, scale: int) -> int:
    """Disjoint parts of one array written in place; then it is frozen and read by others."""
    size, jobs = rng.choice([999, 200_000]), 5
    for _ in range(scale):
        ref = shoal.zeros(size, "i8")
        shoal.get([write_slice.remote([ref], job, jobs) for job in range(jobs)], timeout=240)
        expected = np.concatenate([large(job, (job + 1) * size // jobs - job * size // jobs) for job in range(jobs)])
        assert (shoal.get(ref) == expected).all(), "a slice is not what its task wrote"
        while True:
            try:
                shoal.freeze(ref)
                break
            except shoal.exceptions.WritableViewsError:  # of a dead process that is not buried yet, or of an idle one
                pass
        assert int(shoal.get(ref).sum()) == int(expected.sum())
    return jobs * scale


@shoal.remote(max_retries=-1)
def in_turn(semaphore: Any, counter: Any, event: Any, n: int) -> int:
    event.wait(timeout=5)
    for _ in range(n):
        with semaphore:
            counter.add(1)
    return n


def primitives(rng: random.Random, scale: int) -> int:
    """Semaphores, events and counters; the dead give their permits back."""
    permits = rng.randrange(1, 4)
    semaphore, counter, event = shoal.sync.Semaphore(permits), shoal.Counter(), shoal.sync.Event()
    running = [in_turn.remote(semaphore, counter, event, 20 * scale) for _ in range(3)]
    event.set()
    shoal.get(running, timeout=240)
    assert counter.value >= 60 * scale
    for _ in range(permits):
        assert semaphore.acquire(timeout=60), "a dead process's permit did not come back"
    assert not semaphore.acquire(blocking=False)
    for _ in range(permits):
        semaphore.release()
    return 60 * scale


ACTIVITIES = [locks, versions, queues, order, containers, rings, slices, primitives]
