"""Processes that kill themselves: what there is to clear up for the supervisor."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import numpy as np
from tests.crashpoints.common import Counting, Mortal, waits

import shoal
from shoal import _core, sync
from shoal.exceptions import ActorDiedError, LockHolderDied


@shoal.remote(max_retries=-1)
def dies_first(state: list[Any], job: int, how: str) -> Any:
    """Dies in its first life, with something in its hands."""
    ref, lock, semaphore, guarded, large = state
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
        kept += [shoal.get(shoal.put(np.zeros(200_000))), shoal.get(large)]
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


@shoal.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Dying:
    def once(self, refs: list[Any]) -> int:
        lives = shoal.get(refs[0])
        if lives[0] < 2:
            lives[0] = 2
            os.kill(os.getpid(), signal.SIGKILL)
        return 1


def deaths(rng: random.Random, scale: int, hows: Any = HOWS) -> int:
    """Processes that kill themselves: what there is to clear up for the supervisor."""
    guarded = shoal.put(np.zeros(5000), mutable=True)
    ref, lock, semaphore = shoal.put(np.zeros(len(hows), np.int64), mutable=True), shoal.lock(), sync.Semaphore(2)
    large = shoal.put(np.zeros(200_000))
    refs = [dies_first.remote([ref, lock, semaphore, guarded, large], job, how) for job, how in enumerate(hows)]
    assert shoal.get(refs, timeout=90) == list(range(len(hows)))
    assert shoal.get(guarded).sum() == 0, "what a dead holder wrote was not undone"
    alone = Dying.remote()  # its only call runs when it dies
    assert shoal.get(alone.once.remote([ref]), timeout=60) == 1
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


WORKLOADS = [deaths, spilling_deaths]
