"""__shoal_save__ and __shoal_restore__: the state of an actor outlives its process, with each call's effect in it once."""

import os
import signal
import threading

import numpy as np
import pytest

import shoal
from conftest import until
from shoal.exceptions import ActorDiedError

pytestmark = pytest.mark.usefixtures("audited")


class Plain:
    """Adds numbers; counts what its hooks did."""

    def __init__(self, saves=None):
        self.total = 0
        self.restored = None
        self.saves = saves

    def __shoal_save__(self):
        if self.saves is not None:
            self.saves.add()
        return {"total": self.total}

    def __shoal_restore__(self, state):
        self.restored = dict(state)
        self.total = state["total"]

    def add(self, n):
        self.total += n
        return self.total

    def add_and_raise(self, n):
        self.total += n
        raise ValueError("after the change")

    def add_and_die(self, n, times):
        self.total += n
        if shoal.get_runtime_context().get_attempt_number() < times:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.total

    def facts(self):
        return self.restored, os.getpid(), shoal.get_runtime_context().was_current_actor_reconstructed

    def die(self):
        os._exit(1)


Adder = shoal.remote(max_restarts=-1, max_task_retries=-1)(Plain)


def test_the_state_is_there_again():
    adder = Adder.remote()
    assert shoal.get([adder.add.remote(i) for i in range(10)]) == [0, 1, 3, 6, 10, 15, 21, 28, 36, 45]
    restored, pid, again = shoal.get(adder.facts.remote())
    assert restored is None and not again
    os.kill(pid, signal.SIGKILL)
    assert shoal.get(adder.add.remote(5)) == 50
    restored, other, again = shoal.get(adder.facts.remote())
    assert restored == {"total": 45} and other != pid and again


def test_a_repeated_call_counts_once():
    adder = Adder.remote()
    shoal.get(adder.add.remote(1))
    assert shoal.get(adder.add_and_die.remote(10, 3)) == 11
    assert shoal.get(adder.add.remote(100)) == 111


def test_a_call_that_raised_is_in_the_state():
    adder = Adder.remote()
    with pytest.raises(ValueError, match="after the change"):
        shoal.get(adder.add_and_raise.remote(7))
    shoal.kill(adder, no_restart=False)
    assert shoal.get(adder.add.remote(0)) == 7


def test_deaths_at_random_moments_lose_nothing_and_double_nothing():
    adder = Adder.remote()
    refs = []
    for _ in range(8):
        refs += [adder.add.remote(1) for _ in range(50)]
        pid = shoal.get(adder.facts.remote())[1]
        refs += [adder.add.remote(1) for _ in range(50)]
        os.kill(pid, signal.SIGKILL)
    assert shoal.get(refs) == list(range(1, 801))


def test_nothing_has_changed():
    class Lazy(Plain):
        def __shoal_save__(self):
            return super().__shoal_save__() if self.total % 10 == 0 else NotImplemented

    adder = shoal.remote(max_restarts=1, max_task_retries=1)(Lazy).remote()
    assert shoal.get([adder.add.remote(5), adder.add.remote(5), adder.add.remote(1)]) == [5, 10, 11]
    shoal.kill(adder, no_restart=False)
    assert shoal.get(adder.add.remote(0)) == 10


def test_no_saves_where_there_is_no_restart():
    saves = shoal.Counter()
    once = shoal.remote(Plain).remote(saves)
    shoal.get([once.add.remote(1) for _ in range(10)])
    assert saves.value == 0
    often = Adder.remote(saves)
    shoal.get([often.add.remote(1) for _ in range(10)])
    assert saves.value == 10


def test_arrays_and_references_in_the_state():
    @shoal.remote(max_restarts=1, max_task_retries=1)
    class Model:
        def __init__(self):
            self.weights = shoal.put(np.zeros(100_000), mutable=True)
            self.bias = np.zeros(1000)

        def __shoal_save__(self):
            return self.weights, self.bias

        def __shoal_restore__(self, state):
            self.weights, bias = state
            self.bias = bias.copy()

        def step(self):
            shoal.get(self.weights)[:] += 1
            self.bias += 1
            return float(shoal.get(self.weights).sum()), float(self.bias.sum())

    model = Model.remote()
    assert shoal.get(model.step.remote()) == (100_000.0, 1000.0)
    shoal.kill(model, no_restart=False)
    assert shoal.get(model.step.remote()) == (200_000.0, 2000.0)


def test_a_state_that_cannot_be_saved_or_restored():
    @shoal.remote(max_restarts=5)
    class Bad:
        def __init__(self):
            self.state = 1

        def __shoal_save__(self):
            return self.state

        def __shoal_restore__(self, state):
            raise OSError("cannot restore")

        def set(self, kind):
            self.state = threading.Lock() if kind else 2
            return kind

        def die(self):
            os._exit(1)

    bad = Bad.remote()
    assert shoal.get(bad.set.remote(0)) == 0
    with pytest.raises(TypeError, match="__shoal_save__.*lock"):
        shoal.get(bad.set.remote(1))
    assert shoal.get(bad.set.remote(0)) == 0
    with pytest.raises(ActorDiedError):
        shoal.get(bad.die.remote())
    with pytest.raises(ActorDiedError, match="cannot restore"):
        shoal.get(bad.set.remote(0))


def test_async_and_threaded_actors():
    @shoal.remote(max_restarts=1, max_task_retries=2)
    class Async(Plain):
        async def add(self, n):
            self.total += n
            return self.total

    @shoal.remote(max_restarts=1, max_task_retries=2, max_concurrency=4)
    class Threaded(Plain):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

        def add(self, n):
            with self.lock:
                self.total += n

        def get(self):
            return self.total

    loop = Async.remote()
    assert shoal.get([loop.add.remote(1) for _ in range(50)])[-1] == 50
    shoal.kill(loop, no_restart=False)
    assert shoal.get(loop.add.remote(1)) == 51
    threads = Threaded.remote()
    shoal.get([threads.add.remote(1) for _ in range(50)])
    shoal.kill(threads, no_restart=False)
    until(lambda: shoal.get(threads.facts.remote())[2])
    assert shoal.get(threads.get.remote()) == 50


def test_generators_and_several_returns():
    @shoal.remote(max_restarts=1, max_task_retries=1)
    class Several(Plain):
        def items(self, n):
            for i in range(n):
                self.total += 1
                yield i

        @shoal.method(num_returns=2)
        def two(self):
            self.total += 1
            return 1, 2

        @shoal.method(num_returns=0)
        def none(self):
            self.total += 1

    several = Several.remote()
    assert [shoal.get(ref) for ref in several.items.remote(3)] == [0, 1, 2]
    assert shoal.get(several.two.remote()) == [1, 2]
    several.none.remote()
    assert shoal.get(several.add.remote(0)) == 5
    shoal.kill(several, no_restart=False)
    assert shoal.get(several.add.remote(0)) == 5


def test_hooks_come_in_pairs_and_are_not_async():
    with pytest.raises(TypeError, match="__shoal_restore__"):

        @shoal.remote
        class Half:
            def __shoal_save__(self):
                pass

    with pytest.raises(TypeError, match="async"):

        @shoal.remote
        class Wrong:
            async def __shoal_save__(self):
                pass

            def __shoal_restore__(self, state):
                pass

    assert not hasattr(Adder.remote(), "__shoal_save__")


@pytest.mark.skipif(not shoal._core.CRASH_POINTS, reason="needs a build with TEST_HOOKS=ON")
@pytest.mark.parametrize("nth", range(1, 60))
def test_killed_at_every_step_of_a_save(nth):
    @shoal.remote(max_restarts=1, max_task_retries=1)
    class Marked(Plain):
        def arm(self, spec):
            shoal._core.arm_crash_point(spec)

    adder = Marked.remote()
    shoal.get(adder.add.remote(1))
    adder.arm.options(max_task_retries=0).remote(f"tx.set:{nth}")
    assert shoal.get(adder.add.remote(10)) == 11
    assert shoal.get(adder.add.remote(100)) == 111
