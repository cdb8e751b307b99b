"""Waiting for the ownership of an object: order, requests, time-outs, interruptions, deadlocks."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
from tests.conftest import in_time, until

import shoal
from shoal.exceptions import ClaimTimeoutError, DeadlockError, NotMutableError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote(num_cpus=0)
class Party:
    def claim(self, refs, *args, **kwargs):
        return shoal.claim(refs[0], *args, **kwargs)

    def claim_and_log(self, refs, log, name):
        shoal.claim(refs[0])
        log.append(name)
        shoal.transfer(refs[0], None)

    def hand_on_when_asked(self, refs, ready):
        ready.add()
        while not shoal.claim_requested(refs[0]):
            pass
        with shoal.owned(refs[0]) as array:
            array[:] = 7
        shoal.transfer(refs[0], None)

    def own_both(self, mine, other, met):
        """Claims the other's while it owns its own."""
        met.wait()
        try:
            shoal.claim(other[0])
        except DeadlockError as error:
            shoal.transfer(mine[0], None)
            return error.cycle
        return None

    def owner(self, refs):
        return shoal.owner(refs[0])

    def add_many(self, refs, times):
        for _ in range(times):
            shoal.claim(refs[0])
            with shoal.owned(refs[0]) as array:
                array += 1
            shoal.transfer(refs[0], None)


def zeros(owner="me", n=4):
    return shoal.put(np.zeros(n), mutable=True, owner=owner)


def waiting(ref, n):
    until(lambda: shoal.owner(ref).waiting == n)


def test_first_come_first_served():
    ref, log = zeros(), shoal.List()
    parties = [Party.remote() for _ in range(4)]
    calls = []
    for i, party in enumerate(parties):
        calls.append(party.claim_and_log.remote([ref], log, i))
        waiting(ref, i + 1)
    shoal.transfer(ref, None)
    shoal.get(calls)
    assert list(log) == [0, 1, 2, 3]
    assert shoal.owner(ref) is None


def test_a_request_is_heard():
    party, ready = Party.remote(), shoal.Counter()
    ref = zeros(owner=party)
    going = party.hand_on_when_asked.remote([ref], ready)
    until(lambda: ready.value == 1)
    assert shoal.claim(ref, "request", timeout=30) is None
    shoal.get(going)
    assert shoal.owner(ref).me and not shoal.claim_requested(ref)
    assert shoal.get(ref).tolist() == [7] * 4


def test_a_wait_is_not_heard():
    ref, party = zeros(), Party.remote()
    call = party.claim.remote([ref], timeout=30)
    waiting(ref, 1)
    assert not shoal.claim_requested(ref)
    shoal.transfer(ref, None)
    shoal.get(call)


def test_time_is_up_and_the_next_one_gets_it():
    def scene(limit):
        ref, early, late = zeros(), Party.remote(), Party.remote()
        shoal.get([early.owner.remote([ref]), late.owner.remote([ref])])  # both are up
        short = early.claim.remote([ref], "request", timeout=limit)
        until(lambda: shoal.owner(ref).waiting == 1 or shoal.wait([short], timeout=0)[0])
        long = late.claim.remote([ref], timeout=60)
        until(lambda: shoal.owner(ref).waiting == 2 or shoal.wait([short], timeout=0)[0])
        seen = shoal.owner(ref).waiting
        with pytest.raises(ClaimTimeoutError, match=r"driver \(pid \d+\), in epoch 1"):
            shoal.get(short)
        assert not shoal.claim_requested(ref)
        shoal.transfer(ref, None)
        shoal.get(long)
        assert shoal.owner(ref).name == "Party"
        return seen == 2

    in_time(scene, 0.3)


def test_given_to_one_while_others_wait():
    """A transfer to an actor passes by those who wait; they go on waiting, in their order."""
    ref, log = zeros(), shoal.List()
    first, second, chosen = (Party.remote() for _ in range(3))
    calls = [first.claim_and_log.remote([ref], log, 1)]
    waiting(ref, 1)
    calls.append(second.claim_and_log.remote([ref], log, 2))
    waiting(ref, 2)
    shoal.transfer(ref, chosen)
    assert shoal.get(chosen.claim.remote([ref])) is None
    assert shoal.owner(ref).waiting == 2 and not log
    shoal.claim(ref, "steal")
    shoal.transfer(ref, None)
    shoal.get(calls)
    assert list(log) == [1, 2]


def test_a_transfer_to_one_that_waits():
    ref, party = zeros(), Party.remote()
    call = party.claim.remote([ref], timeout=30)
    waiting(ref, 1)
    shoal.transfer(ref, party)
    shoal.get(call)
    assert shoal.owner(ref).waiting == 0 and shoal.owner(ref).epoch == 2


def test_threads_of_the_owner_do_not_wait():
    ref, party = zeros(), Party.remote()
    shoal.transfer(ref, party)
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(shoal.claim(ref, timeout=30))) for _ in range(2)]
    for thread in threads:
        thread.start()
    waiting(ref, 2)
    call = party.claim_and_log.remote([ref], shoal.List(), 0)
    shoal.get(call)
    for thread in threads:
        thread.join(30)
    assert results == [None, None] and shoal.owner(ref).me and shoal.owner(ref).waiting == 0


def test_nobody_starves():
    ref = zeros()
    parties = [Party.remote() for _ in range(3)]
    calls = [party.add_many.remote([ref], 200) for party in parties]
    waiting(ref, 3)
    shoal.transfer(ref, None)
    shoal.get(calls)
    assert shoal.get(ref).tolist() == [600] * 4


def test_ctrl_c():
    party = Party.remote()
    ref = zeros(owner=party)

    def press():
        waiting(ref, 1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        shoal.claim(ref)
    thread.join()
    assert shoal.owner(ref).waiting == 0
    shoal.claim(ref, "steal")


def test_frozen_under_those_who_wait():
    ref, party = zeros(), Party.remote()
    call = party.claim.remote([ref])
    waiting(ref, 1)
    shoal.freeze(ref)
    with pytest.raises(NotMutableError, match="frozen"):
        shoal.get(call)


def test_two_that_wait_for_each_other():
    met = shoal.sync.Barrier(2)
    a, b = Party.remote(), Party.remote()
    x, y = zeros(owner=a), zeros(owner=b)
    shoal.get([a.claim.remote([x]), b.claim.remote([y])])
    cycles = shoal.get([a.own_both.remote([x], [y], met), b.own_both.remote([y], [x], met)], timeout=30)
    (cycle,) = [c for c in cycles if c]
    assert len(cycle) == 2
    assert all("owns the mutable object #" in text and "waits for the ownership of the mutable object #" in text for text in cycle)


def test_a_claim_and_a_lock():
    """The owner waits for a lock whose holder claims the object."""
    party = Party.remote()
    ref, lock = zeros(owner=party), shoal.lock()
    shoal.get(party.claim.remote([ref]))

    def take(self):
        del self
        try:
            with lock:
                return False
        except DeadlockError:  # one of the two is told, whichever looked first
            shoal.transfer(ref, None)
            return True

    told = False
    with lock:
        call = party.__ray_call__.remote(take)
        until(lambda: lock.statistics()["waiters"] == 1)
        try:
            shoal.claim(ref)
        except DeadlockError as error:
            assert "owns the mutable object" in str(error)
            told = True
    assert shoal.get(call) is not told


def test_an_owner_that_works_is_no_deadlock():
    party = Party.remote()
    ref, go = zeros(owner=party), shoal.sync.Event()
    shoal.get(party.claim.remote([ref]))

    def later(self):
        del self
        go.wait()
        shoal.transfer(ref, None)

    call = party.__ray_call__.remote(later)
    timer = threading.Timer(1.0, go.set)  # longer than the search takes; nothing waits for it but the claim
    timer.start()
    shoal.claim(ref)
    shoal.get(call)
    timer.join()


def test_a_task_owns_as_long_as_it_runs():
    @shoal.remote
    def make(how):
        ref = zeros()
        with shoal.owned(ref) as array:
            array[:] = 1
        shoal.get(ref)[:] = 2
        if how == "fails":
            raise KeyError([ref])
        if how == "hands on":
            shoal.transfer(ref, None)
        return ref

    ref = shoal.get(make.remote("ends"))
    assert shoal.owner(ref) is None and shoal.get(ref).tolist() == [1] * 4
    notice = shoal.claim(ref)
    assert notice.task_ended and notice.epoch == 1 and "make" in notice.name and "ended" in str(notice)
    assert shoal.claim(ref) is None and shoal.owner(ref).me
    ref = shoal.get(make.remote("hands on"))
    assert shoal.get(ref).tolist() == [2] * 4 and shoal.claim(ref) is None
    with pytest.raises(KeyError) as error:
        shoal.get(make.remote("fails"))
    ref = error.value.args[0][0]
    assert shoal.claim(ref).task_ended and shoal.get(ref).tolist() == [1] * 4


def test_a_task_that_claims():
    ref = zeros()
    shoal.transfer(ref, None)

    @shoal.remote
    def add(refs):
        shoal.claim(refs[0])
        with shoal.owned(refs[0]) as array:
            array += 1

    shoal.get([add.remote([ref]) for _ in range(20)])
    assert shoal.get(ref).tolist() == [20] * 4
    assert shoal.claim(ref).task_ended
