"""Threads of several processes that wait for one another: one of them is told, and who holds what."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from tests.conftest import quiet, until

import shoal
from shoal import _core
from shoal.exceptions import DeadlockError
from shoal.sync import Barrier, Condition, Event


@pytest.fixture
def session(fresh):
    fresh(num_cpus=4)


pytestmark = pytest.mark.usefixtures("session")


@shoal.remote(num_cpus=0)
class Party:
    """Takes things in the order it is told; `met` makes sure that the others have their first before the second is asked for."""

    def two(self, first, second, met):
        with first:
            met.wait()
            start = time.monotonic()
            try:
                with second:
                    return None
            except DeadlockError as error:
                return error.cycle, time.monotonic() - start

    def hold_and_get(self, lock, met, refs):
        with lock:
            met.wait()
            return shoal.get(refs[0])

    def get(self, refs):
        return shoal.get(refs[0])

    def take(self, lock):
        with lock:
            return True

    def call(self, other, method, *args):
        return shoal.get(getattr(other, method).remote(*args))

    def meet(self, lock, barrier, met):
        with lock:
            met.wait()
            return barrier.wait()

    def lock_then_meet(self, lock, barrier, met):
        met.wait()
        with lock:
            return barrier.wait()

    def echo(self, x):
        return x


def in_seconds(limit, scene):
    """What `scene()` tells besides its seconds, which are few. A busy machine may need more than one play."""
    for _ in range(10):
        result, seconds = scene()
        if seconds < limit:
            return result
    raise AssertionError(f"nobody was told within {limit} s; in the last play it took {seconds}")


def told(results):
    """The answer of the one that was told."""
    answers = [r for r in results if r is not None]
    assert len(answers) == 1, results
    return answers[0]


@pytest.mark.parametrize("n", [2, 3])
def test_locks_in_a_circle(n):
    locks = [shoal.lock(f"lock {i}") for i in range(n)]
    parties, met = [Party.remote() for _ in locks], Barrier(n)

    def scene():
        return told(shoal.get([p.two.remote(locks[i], locks[(i + 1) % n], met) for i, p in enumerate(parties)]))

    cycle = in_seconds(1, scene)
    assert len(cycle) == n
    for text in cycle:
        held = next(i for i in range(n) if f"holds the lock 'lock {i}'" in text)
        assert f"waits for the lock 'lock {(held + 1) % n}'" in text and "Party" in text and "pid" in text


def test_threads_of_one_process():
    locks, met, results = [shoal.lock(), shoal.lock()], Barrier(2), []

    def run(i):
        with locks[i]:
            met.wait()
            try:
                with locks[1 - i]:
                    results.append(None)
            except DeadlockError as error:
                results.append(error.cycle)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(len(r or ()) for r in results) == [0, 2]


def test_shared_mode():
    a, b, met = shoal.lock("a"), shoal.lock("b"), Barrier(2)
    one, two = Party.remote(), Party.remote()
    cycle = in_seconds(1, lambda: told(shoal.get([one.two.remote(a.shared(), b, met), two.two.remote(b.shared(), a, met)])))
    assert "holds" in cycle[0]


def test_actors_that_call_each_other():
    a, b = Party.remote(), Party.remote()
    with pytest.raises(DeadlockError, match="is to make object"):
        shoal.get(a.call.remote(b, "call", a, "echo", 1))
    assert shoal.get([a.echo.remote(1), b.echo.remote(2)]) == [1, 2]


def test_an_actor_that_waits_for_its_own_call():
    a = Party.remote()
    with pytest.raises(DeadlockError):
        shoal.get(a.call.remote(a, "echo", 1))


def test_a_lock_and_a_result():
    """The driver holds the lock and waits for a call that needs it."""
    lock, party = shoal.lock("held by the driver"), Party.remote()
    assert shoal.get(party.echo.remote(True))  # its start does not count

    def scene():
        start = time.monotonic()
        with lock:
            call = party.take.remote(lock)
            # By whichever of the two came last: if it was the call, get() raises its error.
            with pytest.raises(DeadlockError) as caught:
                shoal.get(call)
        return caught.value.cycle, time.monotonic() - start

    cycle = in_seconds(1, scene)
    assert any("the driver" in text and "holds the lock 'held by the driver'" in text for text in cycle)
    assert shoal.get(party.take.remote(lock))


def test_a_lock_and_a_task():
    lock = shoal.lock()

    @shoal.remote
    def needs(lock):
        with lock:
            pass

    @shoal.remote
    def child(x):
        return x

    with lock, pytest.raises(DeadlockError):
        shoal.get(child.remote(needs.remote(lock)))  # by way of an argument


def test_a_barrier_and_a_lock():
    one, two = Party.remote(), Party.remote()
    assert shoal.get([one.echo.remote(1), two.echo.remote(2)]) == [1, 2]  # their start does not count

    def scene():
        lock, barrier, met = shoal.lock("gate"), Barrier(2), Event()
        calls = [one.meet.remote(lock, barrier, met), two.lock_then_meet.remote(lock, barrier, met)]
        until(lock.locked)
        start = time.monotonic()
        met.set()
        ready, rest = shoal.wait(calls, num_returns=1, timeout=20)
        seconds = time.monotonic() - start
        assert ready, "nobody was told"
        with pytest.raises(DeadlockError) as caught:
            shoal.get(ready[0])
        with pytest.raises(DeadlockError):  # now there is only the driver to come, and it waits
            shoal.get(rest[0])
        return "; ".join(caught.value.cycle), seconds

    text = in_seconds(1, scene)
    assert "has not come to the barrier" in text and "holds the lock 'gate'" in text


def test_a_named_barrier_is_found_too():
    lock, barrier, met = shoal.lock("gate"), Barrier(2, name="finish"), Event()
    one, two = Party.remote(), Party.remote()
    calls = [one.meet.remote(lock, barrier, met), two.lock_then_meet.remote(lock, barrier, met)]
    until(lock.locked)
    met.set()
    ready, _ = shoal.wait(calls, num_returns=1, timeout=20)
    with pytest.raises(DeadlockError, match="the barrier 'finish'"):
        shoal.get(ready[0])
    barrier.abort()


# -- what is none ---------------------------------------------------------------------------------------------


def test_somebody_may_still_come_to_the_barrier():
    """The driver has a thread that could."""
    lock, barrier, met = shoal.lock(), Barrier(2), Event()
    one, two = Party.remote(), Party.remote()
    calls = [one.meet.remote(lock, barrier, met)]
    until(lock.locked)
    calls.append(two.take.remote(lock))
    met.set()
    ready, _ = shoal.wait(calls, timeout=0.8)
    assert not ready
    assert barrier.wait(10) in (0, 1)
    assert shoal.get(calls)


def test_a_wait_with_a_limit_ends_by_itself():
    lock, other, met = shoal.lock(), shoal.lock(), Event()

    @shoal.remote
    def hold(lock, other, met):
        with other:
            met.set()
            with lock:
                return "had it"

    with lock:
        call = hold.remote(lock, other, met)
        assert met.wait(20)
        assert not other.acquire(timeout=0.8)
    assert shoal.get(call) == "had it"


def test_long_waits_that_end():
    """A holder that only works, a queue of waiters, results that take their time: nobody is told anything."""
    lock, go = shoal.lock(), Event()

    @shoal.remote
    def hold(lock, go):
        with lock:
            go.wait()
        return True

    @shoal.remote
    def take(lock, before):
        with lock:
            return True

    first = hold.remote(lock, go)
    until(lock.locked)
    calls = [take.remote(lock, [first]) for _ in range(3)]
    timer = threading.Timer(1.2, go.set)
    timer.start()
    assert shoal.get([first, *calls]) == [True] * 4
    timer.join()


def test_a_condition_waits_for_its_lock_whatever_comes():
    changed, other = Condition(), shoal.lock()

    @shoal.remote
    def wait(changed, other):
        with other, changed:
            changed.wait()
        return True

    def scene():
        call = wait.remote(changed, other)
        until(lambda: changed.statistics()["waiters"] == 1)
        start = time.monotonic()
        with changed:
            changed.notify()
            with pytest.raises(DeadlockError):  # ours: the one in wait() must not be interrupted
                other.acquire()
        seconds = time.monotonic() - start
        return shoal.get(call), seconds

    assert in_seconds(1.5, scene)


def test_no_false_alarm_under_load():
    """Everybody takes several locks in one order, and calls, as fast as can be."""
    locks, ref = [shoal.lock() for _ in range(3)], shoal.put(np.zeros(1, dtype="i8"), mutable=True)

    @shoal.remote
    def child(x):
        return x + 1

    @shoal.remote
    def work(locks, refs, seed):
        rng = np.random.default_rng(seed)
        done = 0
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            first = int(rng.integers(3))
            with locks[first]:
                if first < 2 and rng.integers(2):
                    with locks[first + 1].shared():
                        shoal.get(child.remote(1))
                if rng.integers(50) == 0:
                    time.sleep(0.3)  # long enough for the others to look
            with shoal.lock(refs[0]):
                shoal.get(refs[0])[0] += 1
            done += 1
        return done

    done = shoal.get([work.options(num_cpus=0).remote(locks, [ref], seed) for seed in range(5)])
    assert sum(done) == shoal.get(ref)[0]
    until(lambda: quiet() and _core.check() == "")


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("how", ["get", "wait"])
def test_one_of_several_results(order, how):
    """The others take their time: nobody waits for them to learn of the circle."""
    lock, go = shoal.lock(), Event()

    @shoal.remote(num_cpus=0)
    def slow(go):
        go.wait(60)

    @shoal.remote(num_cpus=0)
    def take(lock, go, answers):
        try:
            with lock:
                return True
        except DeadlockError as error:
            answers.put((error.cycle, go.is_set()))

    answers = shoal.Queue()
    with lock:
        refs = [slow.remote(go), take.remote(lock, go, answers), slow.remote(go)][::order]
        until(lambda: lock.statistics()["waiters"] == 1)
        timer = threading.Timer(30, go.set)  # the end of the test if nobody is told
        timer.start()
        try:
            shoal.get(refs) if how == "get" else shoal.wait(refs, num_returns=3)
        except DeadlockError as error:
            answers.put((error.cycle, go.is_set()))
        else:
            pytest.fail("nobody was told")
        finally:
            timer.cancel()
            timer.join()
        go.set()
    cycle, others_had_ended = answers.get(timeout=10)
    assert len(cycle) == 2 and not others_had_ended


def test_a_circle_that_closes_late_through_one_of_several_results():
    """Who waits for several looks often, however long it has waited: the others would look every five seconds by then."""

    @shoal.remote(num_cpus=0)
    def slow(go):
        go.wait(60)

    @shoal.remote(num_cpus=0)
    def take_later(lock, begin, go, stamps):
        begin.wait(60)
        stamps.put(time.monotonic())
        try:
            with lock:
                return True
        except DeadlockError as error:
            stamps.put((error.cycle, time.monotonic()))
            go.set()

    def scene():
        """How long it took from the circle to the error."""
        lock, go, begin, stamps = shoal.lock(), Event(), Event(), shoal.Queue()
        timer = threading.Timer(4, begin.set)  # they would look after 3.75 s and after 7.75 s
        timer.start()
        told_here = None
        with lock:
            try:
                shoal.get([take_later.remote(lock, begin, go, stamps), slow.remote(go)])
            except DeadlockError as error:
                told_here = error.cycle, time.monotonic()
        start = stamps.get(timeout=10)
        cycle, end = told_here or stamps.get(timeout=10)
        go.set()
        timer.join()
        assert len(cycle) == 2
        return end - start

    assert any(scene() < 2 for _ in range(5))  # only a busy machine needs more than one
