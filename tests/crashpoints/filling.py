"""Memory: every size, more than there is, and given back."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
from tests.crashpoints.common import Holder, waits

import shoal
from shoal import _core
from shoal.exceptions import NotMutableError, ObjectStoreFullError, WritableViewsError


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


def many_small(rng: random.Random, scale: int) -> int:
    """Blocks by the thousand, of sizes that nothing else has, until their spans go back."""
    for size in (700, 1400, 5500):
        kept = [shoal.put(b"x" * size) for _ in range(4 * 65536 // size + 300)]
        rng.shuffle(kept)
        assert len(shoal.get(kept[-1])) == size
        del kept[::2]
        kept += [shoal.put(b"y" * size) for _ in range(100)]
        kept.clear()
    return 3


def trims(rng: random.Random, scale: int) -> int:
    """More than 64 MB freed at once, and given back to the system."""
    for ref in [shoal.put(np.zeros(24 << 20, np.uint8)) for _ in range(4)]:
        del ref
    _core.trim(0)  # what the supervisor does ten seconds later
    return 4


def spills(rng: random.Random, scale: int) -> int:
    """More than the arena holds."""
    refs = [shoal.put(np.full(15 << 20, i, np.uint8)) for i in range(14)]
    for i in rng.sample(range(14), 14):
        array = shoal.get(refs[i])
        assert array[0] == array[-1] == i
        del array
    return 14


def crowded(rng: random.Random, scale: int) -> int:
    """An arena full of what cannot be spilled: what is asked of it fails, or waits for others; nothing is lost by it."""
    spilled = [shoal.put(np.full(20 << 20, i, np.uint8)) for i in range(9)]  # not all of them have room
    held = []
    try:
        while True:
            held.append(shoal.zeros(10 << 20, "u1"))
    except ObjectStoreFullError:
        pass
    for i in range(9):
        try:
            assert shoal.get(spilled[i])[-1] == i
        except ObjectStoreFullError:
            pass
    held.clear()
    large = shoal.put(np.ones(60 << 20, np.uint8))
    holder = Holder.remote()
    shoal.get(holder.look.remote([large]), timeout=60)
    try:  # another looks at what would have to go; and what is free may be in pieces
        held += [shoal.zeros(60 << 20, "u1"), shoal.zeros(60 << 20, "u1")]
    except ObjectStoreFullError:
        pass
    shoal.get(holder.forget.remote(), timeout=60)
    held.clear()
    assert [int(shoal.get(ref)[0]) for ref in spilled] == list(range(9))
    return 9


def restored_at_once(rng: random.Random, scale: int) -> int:
    """Several read the same spilled value at a time: one does it for all."""
    wanted = shoal.put(np.ones(40 << 20, np.uint8))
    others = [shoal.put(np.zeros(40 << 20, np.uint8)) for _ in range(5)]
    holders = [Holder.remote() for _ in range(3)]
    shoal.get([holder.forget.remote() for holder in holders], timeout=60)
    del others[2:]
    looks = [holder.look.remote([wanted]) for holder in holders]
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(int(shoal.get(wanted)[-1]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert shoal.get(looks, timeout=60) == [1, 1, 1]
    for thread in threads:
        thread.join(60)
    assert seen == [1, 1, 1]
    return 6


def summaries(rng: random.Random, scale: int) -> int:
    """What is where, while calls wait."""
    slow = waits.options(resources={"special": 1})
    kept = [shoal.put(np.zeros(50_000)), shoal.zeros(1000), shoal.Queue()]
    queued = [slow.remote(0.01, kept[0]) for _ in range(4)]
    for _ in range(5):
        assert shoal.memory_summary() and shoal.memory_info()
    shoal.get(queued, timeout=60)
    return 5


WORKLOADS = [odd_objects, many_small, trims, spills, crowded, restored_at_once, summaries]
