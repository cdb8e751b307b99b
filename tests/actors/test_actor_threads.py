"""Actors with max_concurrency: calls in threads, really at the same time and never more than the number."""

import threading

import pytest

import shoal
from conftest import until
from shoal import _core
from shoal.exceptions import ActorDiedError

pytestmark = pytest.mark.usefixtures("audited")


class Pool:
    def __init__(self):
        self.now = self.most = self.done = 0
        self.guard = threading.Lock()
        self.barrier = threading.Barrier(4)

    def meet(self):
        """Returns only when four calls run at a time."""
        return self.barrier.wait(timeout=30) >= 0

    def work(self, gate=None):
        with self.guard:
            self.now += 1
            self.most = max(self.most, self.now)
        if gate is not None:
            with gate:
                pass
        else:
            threading.Event().wait(0.001)  # leaves room for a fifth one to show itself
        with self.guard:
            self.now -= 1
            self.done += 1
        return threading.get_ident()

    def seen(self):
        return self.most, self.done

    def running(self):
        return self.now

    def fail(self, x):
        raise LookupError(x)

    def items(self, n):
        yield from range(n)

    def nested(self, other):
        return shoal.get(other.work.remote())

    def leave(self):
        shoal.exit_actor()


Four = shoal.remote(max_concurrency=4)(Pool)


def test_calls_really_run_at_the_same_time():
    pool = Four.remote()
    assert shoal.get([pool.meet.remote() for _ in range(8)]) == [True] * 8


def test_never_more_than_the_number():
    pool = Four.remote()
    threads = shoal.get([pool.work.remote() for _ in range(100)])
    most, done = shoal.get(pool.seen.remote())
    assert done == 100 and 1 < most <= 4
    assert len(set(threads)) <= 4


def test_what_does_not_fit_waits_in_the_mailbox():
    pool, gate = Four.remote(), shoal.lock()
    shoal.get(pool.seen.remote())
    gate.acquire()
    refs = [pool.work.remote(gate) for _ in range(10)]
    until(lambda: _core.actor_info(pool._ref._handle)["waiting"] == 6)
    gate.release()
    shoal.get(refs)
    most, done = shoal.get(pool.seen.remote())
    assert most <= 4 and done == 10


def test_a_call_goes_by_one_that_waits():
    pool, gate = shoal.remote(max_concurrency=2)(Pool).remote(), shoal.lock()
    gate.acquire()
    waiting = pool.work.remote(gate)
    assert [shoal.get(pool.running.remote()) for _ in range(5)][-1] <= 1
    gate.release()
    shoal.get(waiting)


def test_the_number_can_be_given_in_options():
    pool = shoal.remote(Pool).options(max_concurrency=4).remote()
    assert shoal.get([pool.meet.remote() for _ in range(4)]) == [True] * 4


def test_exceptions_and_results_of_all_kinds():
    pool = Four.remote()
    with pytest.raises(LookupError, match="lost"):
        shoal.get(pool.fail.remote("lost"))
    assert [shoal.get(ref) for ref in pool.items.remote(3)] == [0, 1, 2]
    assert shoal.get(pool.items.options(num_returns=2).remote(2)) == [0, 1]


def test_threads_wait_for_others_at_the_same_time():
    pool, other = Four.remote(), Four.remote()
    assert len(shoal.get([pool.nested.remote(other) for _ in range(12)])) == 12


def test_an_actor_calls_itself():
    @shoal.remote(max_concurrency=2)
    class Echo:
        def outer(self):
            me = shoal.get_runtime_context().current_actor
            return shoal.get(me.inner.remote())

        def inner(self):
            return "inner"

    assert shoal.get(Echo.remote().outer.remote()) == "inner"


def test_exit_ends_all_calls():
    pool, gate = Four.remote(), shoal.lock()
    shoal.get(pool.seen.remote())
    gate.acquire()
    stuck = pool.work.remote(gate)
    until(lambda: shoal.get(pool.running.remote()) == 1)
    with pytest.raises(ActorDiedError):
        shoal.get(pool.leave.remote())
    with pytest.raises(ActorDiedError):
        shoal.get(stuck)
    gate.release()


def test_queued_calls_are_done_before_it_ends():
    refs = [(pool := Four.remote()).work.remote() for _ in range(3)]
    del pool
    assert len(shoal.get(refs)) == 3
    pool = Four.remote()
    refs = [pool.work.remote() for _ in range(30)]
    del pool
    assert len(shoal.get(refs)) == 30


def test_a_handle_returned_by_a_threaded_actor_keeps_it():
    @shoal.remote(max_concurrency=3)
    class Me:
        def me(self, gate):
            with gate:
                return shoal.get_runtime_context().current_actor

        def hello(self):
            return "hello"

    gate = shoal.lock()
    gate.acquire()
    ref = Me.remote().me.remote(gate)
    gate.release()
    me = shoal.get(ref)
    assert shoal.get(me.hello.remote()) == "hello"


def test_groups_have_threads_of_their_own():
    @shoal.remote(concurrency_groups={"io": 2, "slow": 1})
    class Grouped:
        def __init__(self):
            self.names = {}
            self.both = threading.Barrier(2)

        @shoal.method(concurrency_group="io")
        def io(self):
            self.both.wait(timeout=30)
            return threading.current_thread().name

        @shoal.method(concurrency_group="slow")
        def slow(self, gate):
            with gate:
                return threading.current_thread().name

        def plain(self):
            return threading.current_thread().name

        def dynamic(self):
            return threading.current_thread().name

    grouped, gate = Grouped.remote(), shoal.lock()
    gate.acquire()
    slow = [grouped.slow.remote(gate) for _ in range(3)]
    io = shoal.get([grouped.io.remote() for _ in range(4)])
    plain = shoal.get([grouped.plain.remote() for _ in range(5)])
    assert shoal.wait(slow, timeout=0)[0] == []
    gate.release()
    names = [set(shoal.get(slow)), set(io), set(plain)]
    assert [len(group) for group in names] == [1, 2, 1]
    assert not names[0] & names[1] and not names[1] & names[2]
    (of_slow,) = names[0]
    chosen = grouped.dynamic.options(concurrency_group="slow").remote()
    assert shoal.get(chosen) == of_slow
