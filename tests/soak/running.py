"""Activities about tasks, actors and large objects. Each gets a random generator and a scale, and returns what it did."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Generator
from typing import Any

import numpy as np

import shoal
from shoal.exceptions import ActorDiedError, GetTimeoutError, TaskCancelledError, WorkerCrashedError

MODULUS = (1 << 61) - 1


def mix(*values: Any) -> int:
    result = 7
    for value in values:
        if isinstance(value, (list, tuple)):
            value = mix(*value)
        elif isinstance(value, np.ndarray):
            value = int(value.sum())
        result = (result * 1_000_003 + int(value) + 1) % MODULUS
    return result


def large(seed: int, size: int) -> np.ndarray:
    return np.arange(seed % 1000, seed % 1000 + size, dtype=np.int64)


@shoal.remote(max_retries=-1)
def plain(*values: Any) -> int:
    return mix(*values)


@shoal.remote(max_retries=-1)
def array(seed: int, size: int, *_before: Any) -> np.ndarray:
    return large(seed, size)


@shoal.remote(max_retries=-1)
def nested(depth: int, *values: Any) -> int:
    if depth == 0:
        return mix(*values)
    return mix(*shoal.get([nested.remote(depth - 1, i, *values) for i in range(2)]))


def nested_serially(depth: int, *values: Any) -> int:
    if depth == 0:
        return mix(*values)
    return mix(*(nested_serially(depth - 1, i, *values) for i in range(2)))


@shoal.remote(max_retries=-1, retry_exceptions=[ZeroDivisionError])
def moody(*values: Any) -> int:
    if random.SystemRandom().random() < 0.3:
        raise ZeroDivisionError
    return mix(*values)


@shoal.remote(max_retries=-1, num_returns=3)
def three(*values: Any) -> tuple[int, np.ndarray, int]:
    return mix(1, *values), large(mix(*values), 200), mix(3, *values)


@shoal.remote(max_retries=-1, num_returns="streaming")
def stream(seed: int, n: int) -> Generator[Any, None, None]:
    for i in range(n):
        yield mix(seed, i) if i % 3 else large(mix(seed, i), 500)


@shoal.remote(max_retries=-1)
def refs_inside(refs: list[shoal.ObjectRef]) -> list[shoal.ObjectRef]:
    return [plain.remote(ref, i) for i, ref in enumerate(refs)]


@shoal.remote(max_retries=-1)
def slow(seed: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.001)  # work that can be cancelled
    return mix(seed)


def graph(rng: random.Random, scale: int) -> int:
    """A random graph of tasks of all sorts, compared with the same graph computed here."""
    refs: list[Any] = [shoal.put(i) for i in range(4)]
    values: list[Any] = list(range(4))
    for _ in range(40 * scale):
        at = [rng.randrange(len(refs)) for _ in range(rng.randrange(4))]
        args, known = [refs[i] for i in at], [values[i] for i in at]
        kind = rng.randrange(10)
        if kind < 4:
            refs.append(plain.remote(*args))
            values.append(mix(*known))
        elif kind == 4:
            size = rng.choice([10, 3000, 50_000, 400_000])
            refs.append(array.remote(kind, size, *args))
            values.append(large(kind, size))
        elif kind == 5:
            depth = rng.randrange(3)
            refs.append(nested.remote(depth, *args))
            values.append(nested_serially(depth, *known))
        elif kind == 6:
            refs.append(moody.remote(*args))
            values.append(mix(*known))
        elif kind == 7:
            refs += three.remote(*args)
            values += [mix(1, *known), large(mix(*known), 200), mix(3, *known)]
        elif kind == 8:
            inner = shoal.get(refs_inside.remote(args), timeout=120)
            refs += inner
            values += [mix(value, i) for i, value in enumerate(known)]
        else:
            forget = rng.randrange(len(refs))
            del refs[forget], values[forget]
        if rng.random() < 0.1:
            i = rng.randrange(len(refs))
            assert mix(shoal.get(refs[i], timeout=120)) == mix(values[i]), "a task's value"
    order = list(range(len(refs)))
    rng.shuffle(order)
    for i in order:
        assert mix(shoal.get(refs[i], timeout=120)) == mix(values[i]), "a task's value"
    return len(refs)


def generators(rng: random.Random, scale: int) -> int:
    """A generator whose process dies after an item is not run again; what was read until then is right."""
    count = 0
    for _ in range(4 * scale):
        seed, n = rng.randrange(1000), rng.randrange(1, 20)
        taken = 0
        items = stream.remote(seed, n)
        leave = rng.random() < 0.2
        try:
            for item in items:
                value = shoal.get(item, timeout=120)
                expected = mix(seed, taken) if taken % 3 else large(mix(seed, taken), 500)
                assert mix(value) == mix(expected), "a streamed item"
                taken += 1
                if leave and taken > n // 2:
                    break
            assert leave or taken == n, f"{taken} items of {n}"
        except WorkerCrashedError:
            pass
        count += taken
    return count


def cancelling(rng: random.Random, scale: int) -> int:
    """Cancelled tasks end, with their value or as cancelled; the others are not touched."""
    count = 0
    for _ in range(scale):
        calls = [(i, slow.remote(i, rng.random() * 0.02)) for i in range(10)]
        cancelled = set(rng.sample(range(10), 4))
        for i, ref in calls:
            if i in cancelled:
                shoal.cancel(ref, force=rng.random() < 0.3)
        for i, ref in calls:
            try:
                assert shoal.get(ref, timeout=120) == mix(i), "a task's value"
            except (TaskCancelledError, WorkerCrashedError):
                assert i in cancelled, "a task was cancelled that should not be"
            count += 1
    return count


@shoal.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Plain:
    def __init__(self, secret: int, data: Any) -> None:
        self.secret, self.data = secret, data

    def value(self, *values: Any) -> int:
        return mix(self.secret, self.data, *values)

    def through(self, other: Any, *values: Any) -> int:
        return mix(self.secret, shoal.get(other.value.remote(*values)))

    def array(self, size: int) -> np.ndarray:
        return large(self.secret, size)


@shoal.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Asynchronous:
    def __init__(self, secret: int, data: Any) -> None:
        self.secret, self.data = secret, data

    async def value(self, *values: Any) -> int:
        ref = plain.remote(*values)
        return mix(self.secret, self.data, await ref)


@shoal.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0, max_concurrency=3)
class Threaded:
    def __init__(self, secret: int, data: Any) -> None:
        self.secret, self.data = secret, data

    def value(self, *values: Any) -> int:
        return mix(self.secret, self.data, shoal.get(plain.remote(*values)))


def actors(rng: random.Random, scale: int) -> int:
    """Actors of three kinds that are killed and restarted, and keep what their constructor was given."""
    count = 0
    for _ in range(scale):
        data = np.arange(rng.choice([3, 20_000]))
        made = [(cls.remote(i, data), i, cls) for i, cls in enumerate((Plain, Plain, Asynchronous, Threaded))]
        expected, refs = [], []
        for _ in range(40):
            actor, secret, cls = rng.choice(made)
            values = [rng.randrange(100) for _ in range(rng.randrange(3))]
            if cls is Plain and rng.random() < 0.2:
                refs.append(actor.through.remote(made[1 - secret][0], *values) if secret == 0 else actor.array.remote(5000))
                inner = mix(made[1][1], data, *values)
                expected.append(mix(secret, inner) if secret == 0 else mix(large(secret, 5000)))
            else:
                argument = plain.remote(*values) if rng.random() < 0.3 else None
                refs.append(actor.value.remote(*([argument] if argument else values)))
                known = [mix(*values)] if argument else values
                expected.append(mix(secret, data, *known) if cls is Plain else mix(secret, data, mix(*known)))
        for ref, value in zip(refs, expected, strict=True):
            got = shoal.get(ref, timeout=120)
            assert (mix(got) if isinstance(got, np.ndarray) else got) == value, "an actor's answer"
            count += 1
        shoal.kill(made[0][0])
        try:
            shoal.get(made[0][0].value.remote(), timeout=120)
            raise AssertionError("a killed actor answered")
        except ActorDiedError:
            pass
    return count


@shoal.remote(num_cpus=0)
class Short:
    def who(self) -> int:
        return 3


def births(rng: random.Random, scale: int) -> int:
    """Actors that come and go at once, named ones too, killed before, while and after they start."""
    count = 0
    for _ in range(3 * scale):
        name = f"soak-{rng.randrange(1 << 60)}-{os.getpid()}" if rng.random() < 0.5 else None
        actor = Short.options(name=name).remote()
        try:
            if rng.random() < 0.3:
                shoal.kill(actor)
            if name and rng.random() < 0.5:
                try:
                    shoal.get_actor(name)
                except ValueError:
                    pass
            assert shoal.get(actor.who.remote(), timeout=120) == 3
        except ActorDiedError:
            pass
        count += 1
    return count


def objects(rng: random.Random, scale: int) -> int:
    """Objects of all sizes, nested in one another, passed on and dropped in random order."""
    kept: list[tuple[Any, int]] = []
    for _ in range(60 * scale):
        if kept and rng.random() < 0.45:
            ref, value = kept.pop(rng.randrange(len(kept)))
            got = shoal.get(ref, timeout=120)
            if isinstance(got, list):
                got = shoal.get(got[0], timeout=120)
            assert mix(got) == value, "an object's value"
            continue
        seed, size = rng.randrange(1000), rng.choice([1, 100, 5000, 100_000, 1_500_000])
        value = large(seed, size)
        ref = shoal.put(value)
        if rng.random() < 0.3:
            ref = shoal.put([ref, size])
        kept.append((ref, mix(value)))
    return 60 * scale


def waiting(rng: random.Random, scale: int) -> int:
    """wait and timeouts: nothing is lost, nothing is counted twice."""
    for _ in range(scale):
        refs = [slow.remote(i, rng.random() * 0.01) for i in range(12)]
        left, seen = refs, 0
        while left:
            done, left = shoal.wait(left, num_returns=min(3, len(left)), timeout=0.05)
            seen += len(done)
        assert seen == 12
        late = slow.remote(1, 0.05)
        try:
            shoal.get(late, timeout=0.001)
        except GetTimeoutError:
            pass
        assert shoal.get(late, timeout=120) == mix(1)
    return 12 * scale


ACTIVITIES = [graph, generators, cancelling, actors, births, objects, waiting]
