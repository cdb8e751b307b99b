"""What an actor keeps alive, and that all of it is given back: views, references, arguments, results."""

import gc
import os
import signal

import numpy as np
import pytest

import shoal
from conftest import quiet, until
from shoal import _core
from shoal.exceptions import ActorDiedError

pytestmark = pytest.mark.usefixtures("audited")
SIZE = 100_000


@shoal.remote
class Keeper:
    def __init__(self, *kept):
        self.kept = list(kept)

    def keep(self, *things):
        self.kept.extend(things)

    def put(self, n):
        refs = [shoal.put(np.full(SIZE, i)) for i in range(n)]
        self.kept.extend(refs)
        return refs

    def view(self, box):
        self.kept.append(shoal.get(box[0]))
        return float(self.kept[-1].sum())

    def sums(self):
        return [float(x.sum()) for x in self.kept]

    def forget(self):
        self.kept.clear()

    def read(self, array):
        return float(array.sum())

    def pid(self):
        return os.getpid()

    def make(self, n):
        return [np.full(SIZE, i) for i in range(n)]

    def die(self):
        os._exit(1)


def objects():
    return _core.statistics()["objects"]


@pytest.fixture(autouse=True)
def level():
    """Each test must leave as many objects as it found."""
    gc.collect()
    until(quiet)
    before, exported = objects(), len(_core.name_list(3))
    yield
    gc.collect()
    until(lambda: objects() - (len(_core.name_list(3)) - exported) == before)


def test_a_view_keeps_its_object():
    keeper = Keeper.remote()
    ref = shoal.put(np.ones(SIZE))
    assert shoal.get(keeper.view.remote([ref])) == SIZE
    del ref
    assert shoal.get(keeper.sums.remote()) == [SIZE]
    before = objects()
    shoal.get(keeper.forget.remote())
    until(lambda: objects() < before)


def test_arguments_that_it_keeps():
    keeper = Keeper.remote(np.ones(SIZE), shoal.put(np.ones(SIZE) * 2))
    shoal.get(keeper.keep.remote(np.ones(SIZE) * 3, shoal.put(np.ones(SIZE) * 4)))
    assert shoal.get(keeper.sums.remote()) == [SIZE, 2 * SIZE, 3 * SIZE, 4 * SIZE]


def test_arguments_that_it_does_not_keep():
    keeper = Keeper.remote()
    ref = shoal.put(np.ones(SIZE))
    assert shoal.get(keeper.read.remote(ref)) == SIZE
    level = objects()
    del ref
    until(lambda: objects() == level - 1)
    assert shoal.get(keeper.read.remote(np.ones(SIZE))) == SIZE
    until(lambda: objects() == level - 1)
    assert shoal.get(keeper.pid.remote())


def test_constructor_arguments_that_it_does_not_keep():
    @shoal.remote
    class Reader:
        def __init__(self, array, *, other):
            self.sum = float(array.sum() + other.sum())

        def get(self):
            return self.sum

    ref = shoal.put(np.ones(SIZE))
    reader = Reader.remote(ref, other=ref)
    assert shoal.get(reader.get.remote()) == 2 * SIZE
    level = objects()
    del ref
    until(lambda: objects() == level - 1)
    assert shoal.get(reader.get.remote()) == 2 * SIZE


@pytest.mark.parametrize("end", ["kill", "crash", "signal", "last handle"])
def test_its_end_gives_everything_back(end):
    before = objects()
    keeper = Keeper.remote(np.ones(SIZE))
    shoal.get(keeper.keep.remote(np.ones(SIZE), [shoal.put(b"x" * SIZE)]))
    refs = shoal.get(keeper.put.remote(5))
    shoal.get(keeper.view.remote([shoal.put(np.ones(SIZE))]))
    pid = shoal.get(keeper.pid.remote())
    assert objects() > before + 8
    if end == "kill":
        shoal.kill(keeper)
    elif end == "crash":
        keeper.die.remote()
    elif end == "signal":
        os.kill(pid, signal.SIGKILL)
    del keeper
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert [int(shoal.get(ref)[0]) for ref in refs] == list(range(5))  # these are ours too
    del refs


def test_what_it_made_outlives_it():
    keeper = Keeper.remote()
    arrays = shoal.get(keeper.make.remote(3))
    refs = shoal.get(keeper.put.remote(3))
    pending = keeper.make.remote(2)
    shoal.get(pending)
    shoal.kill(keeper)
    with pytest.raises(ActorDiedError):
        shoal.get(keeper.pid.remote())
    assert [int(a[0]) for a in arrays] == [0, 1, 2]
    assert [int(shoal.get(ref)[5]) for ref in refs] == [0, 1, 2]
    assert len(shoal.get(pending)) == 2


def test_calls_that_never_ran_give_their_arguments_back():
    keeper = Keeper.remote()
    shoal.get(keeper.pid.remote())
    gate = shoal.lock()
    gate.acquire()

    @shoal.remote
    def later(gate):
        with gate:
            return np.ones(SIZE)

    pending = later.remote(gate)
    refs = [keeper.keep.remote(np.ones(SIZE), [shoal.put(1)], pending) for _ in range(5)]
    shoal.kill(keeper)
    for ref in refs:
        with pytest.raises(ActorDiedError):
            shoal.get(ref)
    gate.release()
    assert shoal.get(pending).sum() == SIZE


def test_results_nobody_wants():
    keeper = Keeper.remote()
    for _ in range(5):
        keeper.make.remote(3)
        keeper.put.remote(0)
    shoal.get(keeper.pid.remote())


def test_errors_are_given_back():
    @shoal.remote
    class Bad:
        def fail(self, array):
            local = array * 2
            raise ValueError("with a large array in its frame", local.shape)

    bad = Bad.remote()
    ref = shoal.put(np.ones(SIZE))
    for _ in range(5):
        with pytest.raises(ValueError, match="large array"):
            shoal.get(bad.fail.remote(ref))
    level = objects()
    del ref
    until(lambda: objects() == level - 1)


def test_actors_that_hold_each_other_end_when_killed():
    one, other = Keeper.remote(), Keeper.remote()
    shoal.get([one.keep.remote(other), other.keep.remote(one)])
    pids = shoal.get([one.pid.remote(), other.pid.remote()])
    shoal.kill(one)
    del one, other
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_a_view_of_a_mutable_object_in_two_actors():
    ref = shoal.put(np.zeros(SIZE), mutable=True)

    @shoal.remote
    class Writer:
        def __init__(self, box):
            self.array = shoal.get(box[0])

        def write(self, where, what):
            self.array[where] = what

        def read(self, where):
            return float(self.array[where])

    one, other = Writer.remote([ref]), Writer.remote([ref])
    shoal.get(one.write.remote(7, 7.0))
    assert shoal.get(other.read.remote(7)) == 7.0
    del ref
    shoal.get(other.write.remote(8, 8.0))
    shoal.kill(other)
    assert shoal.get(one.read.remote(8)) == 8.0
