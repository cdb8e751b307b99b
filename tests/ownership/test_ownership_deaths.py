"""Owners and claimants that die: the last committed state, never a mixture, and the next one is told."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
from tests.conftest import audit, stop, until

import shoal
from shoal.exceptions import (
    ActorDiedError,
    ClaimTimeoutError,
    LockHolderDied,
    ObjectStoreFullError,
    StaleOwnerError,
    WorkerCrashedError,
)


@pytest.fixture
def session(fresh):
    fresh(num_cpus=2)


@shoal.remote(num_cpus=0)
class Pilot:
    def pid(self):
        return os.getpid()

    def fly(self, refs, committed, then):
        """Commits one value, writes another."""
        self.array = shoal.get(refs[0])
        self.array[:] = committed
        shoal.commit(refs[0])
        self.array[:] = then

    def crash(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def claim(self, refs, *args, **kwargs):
        return shoal.claim(refs[0], *args, **kwargs)

    def claim_and_crash(self, refs):
        shoal.claim(refs[0])
        os.kill(os.getpid(), signal.SIGKILL)

    def owner(self, refs):
        return shoal.owner(refs[0])

    def writable(self, refs):
        return shoal.get(refs[0]).flags.writeable

    def lock_and_crash(self, refs):
        shoal.lock(refs[0]).acquire()
        self.crash()

    def commit_for_ever(self, refs):
        """Each commit makes all elements equal; in between they are not."""
        array = shoal.get(refs[0])
        for n in range(1, 1_000_000_000):
            for part in np.array_split(array, 16):
                part[:] = n
            shoal.commit(refs[0])


def zeros(owner="me", n=4):
    return shoal.put(np.zeros(n), mutable=True, owner=owner)


def flown(**options):
    """A pilot, what it owns, in which it has committed [1] * 4 and written [2] * 4 since then, and its pid."""
    pilot = Pilot.options(**options).remote()
    ref = zeros(owner=pilot)
    pid = shoal.get(pilot.pid.remote())
    shoal.get(pilot.fly.remote([ref], 1, 2))
    return pilot, ref, pid


def waiting(ref, n):
    until(lambda: shoal.owner(ref).waiting == n)


@pytest.mark.usefixtures("session")
def test_the_last_committed_state_and_a_notice():
    pilot, ref, pid = flown()
    assert shoal.get(ref).tolist() == [2] * 4
    died = pilot.crash.remote()
    notice = shoal.claim(ref, timeout=30)  # it waits, and is woken by the death
    assert (notice.pid, notice.epoch, notice.task_ended) == (pid, 1, False) and "Pilot" in notice.name
    assert time.time() - 30 < notice.at <= time.time() and f"pid {pid}" in str(notice)
    assert shoal.get(ref).tolist() == [1] * 4
    assert shoal.owner(ref).me and shoal.claim(ref) is None  # told once
    with pytest.raises(ActorDiedError):
        shoal.get(died)
    del pilot, ref, died
    audit()


@pytest.mark.usefixtures("session")
def test_without_a_claimant_too():
    pilot, ref, _ = flown()
    seen = shoal.get(ref)
    del pilot  # its last handle: it ends
    until(lambda: shoal.owner(ref) is None)
    assert seen.tolist() == [1] * 4
    assert shoal.claim(ref, timeout=0).epoch == 1


@pytest.mark.usefixtures("session")
def test_killed_with_kill():
    pilot, ref, _ = flown()
    shoal.kill(pilot)
    assert shoal.claim(ref, timeout=30).epoch == 1
    assert shoal.get(ref).tolist() == [1] * 4


@pytest.mark.usefixtures("session")
def test_an_actor_that_restarts_stays_the_owner():
    pilot, ref, first = flown(max_restarts=1)
    pilot.crash.remote()
    until(lambda: shoal.owner(ref).epoch == 2)
    assert shoal.get(ref).tolist() == [1] * 4
    with pytest.raises(ClaimTimeoutError, match="Pilot"):
        shoal.claim(ref, timeout=0)
    who = shoal.get(pilot.owner.remote([ref]))
    assert who.me and who.epoch == 2 and who.name == "Pilot"
    assert shoal.get(pilot.writable.remote([ref]))
    notice = shoal.get(pilot.claim.remote([ref]))  # who claims next is told, be it itself
    assert (notice.pid, notice.epoch) == (first, 1)
    shoal.get(pilot.fly.remote([ref], 3, 4))
    pilot.crash.remote()  # for good
    assert shoal.claim(ref, timeout=30).epoch == 2
    assert shoal.get(ref).tolist() == [3] * 4
    del pilot, ref
    audit()


@pytest.mark.usefixtures("session")
def test_a_restarted_owner_that_comes_before_the_repair_does():
    """Its calls run as soon as it is made; whatever the supervisor has come to by then, no old write is in what it sees."""
    for _ in range(10):
        pilot = Pilot.options(max_restarts=-1, max_task_retries=-1).remote()
        refs = [zeros(owner=pilot) for _ in range(20)]
        shoal.get([pilot.fly.remote([ref], 1, 2) for ref in refs])
        os.kill(shoal.get(pilot.pid.remote()), signal.SIGKILL)

        def look(self, refs):
            del self
            found = [(shoal.get(ref).tolist(), shoal.owner(ref).me) for ref in refs]
            for ref in refs:
                with shoal.owned(ref) as array:
                    array += 1
            return found

        seen = shoal.get(pilot.__ray_call__.remote(look, refs))
        if seen[0][0] == [2] * 4:  # the signal had not been delivered yet
            continue
        assert seen == [([1] * 4, True)] * 20
        assert all(shoal.get(ref).tolist() == [2] * 4 for ref in refs)
        shoal.kill(pilot)


@pytest.mark.usefixtures("session")
def test_an_owner_that_never_came():
    @shoal.remote(num_cpus=0)
    class Broken:
        def __init__(self, go):
            go.wait()
            raise KeyError("no")

    go = shoal.sync.Event()
    broken, claimant = Broken.remote(go), Pilot.remote()
    ref = zeros(owner=broken)
    assert shoal.owner(ref).name == "Broken"
    call = claimant.claim.remote([ref], timeout=30)
    waiting(ref, 1)
    go.set()
    notice = shoal.get(call)
    assert notice.pid is None and notice.epoch == 1
    assert shoal.owner(ref).name == "Pilot"
    busy, never = (Pilot.options(num_cpus=2).remote() for _ in range(2))  # the second cannot start
    shoal.get(busy.pid.remote())
    other = zeros(owner=never)
    assert shoal.owner(other).pid is None
    shoal.kill(never)
    assert shoal.claim(other, timeout=30).pid is None
    del go, broken, claimant, busy, never, ref, other, call
    audit()


@pytest.mark.usefixtures("session")
def test_an_owner_that_is_a_task():
    @shoal.remote(max_retries=0)
    def own_and_die(refs):
        shoal.claim(refs[0])
        with shoal.owned(refs[0]) as array:
            array[:] = 1
        shoal.get(refs[0])[:] = 2
        os.kill(os.getpid(), signal.SIGKILL)

    ref = zeros()
    shoal.transfer(ref, None)
    with pytest.raises(WorkerCrashedError):
        shoal.get(own_and_die.remote([ref]))
    notice = shoal.claim(ref, timeout=30)
    assert not notice.task_ended and "own_and_die" in notice.name
    assert shoal.get(ref).tolist() == [1] * 4


@pytest.mark.usefixtures("session")
def test_a_claimant_that_dies_while_it_waits():
    ref, dead, alive = zeros(), Pilot.remote(), Pilot.remote()
    dead.claim.remote([ref], "request")
    waiting(ref, 1)
    call = alive.claim.remote([ref], timeout=30)
    waiting(ref, 2)
    shoal.kill(dead)
    waiting(ref, 1)
    assert not shoal.claim_requested(ref)
    shoal.transfer(ref, None)
    assert shoal.get(call) is None
    del dead, alive, ref, call
    audit()


@pytest.mark.usefixtures("session")
def test_one_after_the_other_dies():
    ref, log = zeros(), []
    pilots = [Pilot.remote() for _ in range(4)]
    for i, pilot in enumerate(pilots):
        pilot.claim_and_crash.remote([ref])
        waiting(ref, i + 1)
    shoal.transfer(ref, None)
    notice = shoal.claim(ref, timeout=30)
    log.append(notice.epoch)
    assert log == [5] and shoal.owner(ref).epoch == 6
    del pilots, pilot, ref
    audit()


@pytest.mark.usefixtures("session")
def test_an_owner_that_dies_with_the_lock():
    pilot, ref, _ = flown()
    pilot.lock_and_crash.remote([ref])
    assert shoal.claim(ref, timeout=30)
    with pytest.raises(LockHolderDied):
        shoal.lock(ref).acquire()
    assert shoal.get(ref).tolist() == [1] * 4
    shoal.lock(ref).release()


@pytest.mark.usefixtures("session")
def test_a_stopped_owner_is_robbed():
    """It wakes up, and learns it from its commit."""
    pilot, ref, pid = flown()
    stop(pid)
    try:
        late = pilot.fly.remote([ref], 5, 6)
        assert shoal.claim(ref, "steal") is None
        assert shoal.get(ref).tolist() == [1] * 4
    finally:
        os.kill(pid, signal.SIGCONT)
    with pytest.raises((StaleOwnerError, ValueError)):  # ValueError: its get came after the theft and is read-only
        shoal.get(late)
    assert shoal.owner(ref).me


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("n", [64, 50_000])
def test_killed_at_random_moments(n):
    for _ in range(12):
        pilot = Pilot.remote()
        ref = zeros(owner=pilot, n=n)
        pid = shoal.get(pilot.pid.remote())
        pilot.commit_for_ever.remote([ref])
        seen = shoal.get(ref)
        until(lambda s=seen: s[-1] > 3)
        os.kill(pid, signal.SIGKILL)
        assert shoal.claim(ref, timeout=30) is not None
        found = set(seen.tolist())
        assert len(found) == 1 and found.pop() >= 3
    del pilot, ref, seen
    audit()


@pytest.mark.usefixtures("session")
def test_threads_that_commit_at_a_time():
    """A long copy lets other threads run; whichever ends last, what was written before any commit that returned is kept."""

    def work(self, refs, times):
        import threading

        del self
        array = shoal.get(refs[0])

        def commit(mine):
            for n in range(1, times + 1):
                array[mine] = array[-1 - mine] = n
                shoal.commit(refs[0])

        threads = [threading.Thread(target=commit, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        array[:] = -1

    for _ in range(3):
        pilot = Pilot.remote()
        ref = zeros(owner=pilot, n=500_000)
        shoal.get(pilot.__ray_call__.remote(work, [ref], 20))
        pilot.crash.remote()
        assert shoal.claim(ref, timeout=30)
        seen = shoal.get(ref)
        assert seen[:4].tolist() == [20] * 4 and seen[-4:].tolist() == [20] * 4 and seen[4:-4].sum() == 0
    del pilot, ref, seen
    audit()


@pytest.mark.usefixtures("session")
def test_robbed_at_random_moments():
    """Two steal from each other and commit: what is committed is never of two epochs. They write through fresh arrays only."""

    def rob(self, refs, me, rounds):
        del self
        done = 0
        for _ in range(rounds):
            shoal.claim(refs[0], "steal")
            try:
                with shoal.owned(refs[0]) as array:
                    if array.flags.writeable:
                        done += 1
            except StaleOwnerError:
                pass
        return done

    ref = zeros(n=20_000)
    pilots = [Pilot.remote() for _ in range(2)]
    done = shoal.get([p.__ray_call__.remote(rob, [ref], i + 1, 300) for i, p in enumerate(pilots)])
    assert all(done)
    shoal.claim(ref, "steal")
    assert shoal.get(ref).sum() == 0
    del pilots, ref
    audit()


def test_no_room_for_a_commit(fresh):
    fresh(object_store_memory=8 << 20)
    ref = zeros(n=200_000)
    hog = []
    with pytest.raises(ObjectStoreFullError):
        while True:
            hog.append(shoal.empty(100_000))
    shoal.get(ref)[:] = 1
    with pytest.raises(ObjectStoreFullError):
        shoal.commit(ref)
    with pytest.raises(KeyError), shoal.owned(ref):
        raise KeyError
    assert shoal.get(ref).sum() == 0
    with pytest.raises(ObjectStoreFullError):
        zeros(n=200_000)
    hog.clear()
    with shoal.owned(ref) as array:
        array += 1
    assert shoal.get(ref).sum() == 200_000
