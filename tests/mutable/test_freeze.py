"""freeze: a mutable object becomes immutable, without a copy, once nobody can write to it."""

import os

import numpy as np
import pytest

import shoal
from conftest import at_rest, quiet, until
from shoal import _core
from shoal.exceptions import NotMutableError, WritableViewsError

pytestmark = pytest.mark.usefixtures("session")


def address(array):
    return array.__array_interface__["data"][0]


def frozen(ref):
    try:
        shoal.freeze(ref)
    except WritableViewsError:
        return False
    return True


@shoal.remote
class Holder:
    """Holds the reference, and a view of the object when told to."""

    def __init__(self, refs):
        self.ref = refs[0]
        self.view = None

    def pid(self):
        return os.getpid()

    def look(self):
        self.view = shoal.get(self.ref)
        return self.view.flags.writeable

    def drop(self):
        self.view = None

    def write(self):
        self.view[:] = 9


def test_frozen_it_is_read_only_and_where_it_was():
    ref = shoal.put(np.arange(10), mutable=True)
    shoal.get(ref)[0] = 5
    assert shoal.freeze(ref) is ref
    array = shoal.get(ref)
    assert array[0] == 5
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def test_nothing_is_copied():
    until(at_rest)
    ref = shoal.empty(1 << 20)
    used = _core.statistics()["used_bytes"]
    shoal.freeze(ref)
    first, second = shoal.get(ref), shoal.get(ref)
    assert address(first) == address(second)
    assert _core.statistics()["used_bytes"] <= used  # less if a worker left, and what it kept for itself with it


def test_an_own_view_prevents_it():
    ref = shoal.zeros(100)
    array = shoal.get(ref)
    with pytest.raises(WritableViewsError, match=rf"process {os.getpid()} \(this one\)") as caught:
        shoal.freeze(ref)
    assert caught.value.pids == (os.getpid(),)
    array[0] = 1  # nothing has changed
    del array
    shoal.freeze(ref)
    assert shoal.get(ref)[0] == 1


@pytest.mark.parametrize("derive", [lambda a: a[2:5], lambda a: a.reshape(2, 50).T, memoryview, lambda a: iter([a])])
def test_what_was_made_from_a_view_prevents_it_too(derive):
    ref = shoal.zeros(100)
    derived = derive(shoal.get(ref))
    with pytest.raises(WritableViewsError):
        shoal.freeze(ref)
    del derived
    shoal.freeze(ref)


def test_one_array_of_many_is_enough():
    ref = shoal.put({"a": np.zeros(10), "b": [np.zeros(2000), bytearray(8)]}, mutable=True)
    kept = shoal.get(ref)["b"][1]
    with pytest.raises(WritableViewsError):
        shoal.freeze(ref)
    del kept
    value = shoal.get(shoal.freeze(ref))
    assert not value["a"].flags.writeable
    assert value["b"][1].readonly


def test_a_view_that_is_only_garbage_does_not_count():
    ref = shoal.zeros(100)
    cycle = [shoal.get(ref)]
    cycle.append(cycle)
    del cycle
    shoal.freeze(ref)


def test_a_view_in_another_process_prevents_it_and_is_named():
    ref = shoal.zeros(100)
    holders = [Holder.remote([ref]) for _ in range(2)]
    pids = shoal.get([h.pid.remote() for h in holders])
    assert shoal.get([h.look.remote() for h in holders]) == [True, True]
    with pytest.raises(WritableViewsError) as caught:
        shoal.freeze(ref)
    assert sorted(caught.value.pids) == sorted(pids)
    assert all(f"Holder (process {pid})" in str(caught.value) for pid in pids)
    shoal.get(holders[0].drop.remote())
    with pytest.raises(WritableViewsError) as caught:
        shoal.freeze(ref)
    assert caught.value.pids == (pids[1],)
    shoal.get(holders[1].drop.remote())  # both still have the reference
    shoal.freeze(ref)
    assert shoal.get(holders[0].look.remote()) is False
    with pytest.raises(ValueError, match="read-only"):
        shoal.get(holders[0].write.remote())


def test_a_dead_process_has_no_views():
    ref = shoal.zeros(100)
    holder = Holder.remote([ref])
    shoal.get(holder.look.remote())
    shoal.kill(holder)
    until(lambda: frozen(ref))
    assert not shoal.get(ref).flags.writeable
    until(lambda: _core.check() == "")


def test_who_is_told_of_a_death_can_freeze():
    @shoal.remote(max_retries=0)
    def die(refs):
        array = shoal.get(refs[0])
        array[0] = 1
        os._exit(1)

    for _ in range(5):
        ref = shoal.zeros(100)
        with pytest.raises(shoal.exceptions.WorkerCrashedError):
            shoal.get(die.remote([ref]))
        assert shoal.get(shoal.freeze(ref))[0] == 1


def test_it_has_no_lock_any_more():
    ref = shoal.zeros(3)
    shoal.lock(ref)
    shoal.freeze(ref)
    with pytest.raises(NotMutableError, match="frozen"):
        shoal.lock(ref)


def test_a_task_builds_a_result_in_place_and_returns_it():
    @shoal.remote
    def build(n):
        ref = shoal.empty(n)
        array = shoal.get(ref)
        array[:] = np.arange(n)
        del array
        return shoal.freeze(ref)

    ref = shoal.get(build.remote(100_000))
    assert isinstance(ref, shoal.ObjectRef)
    array = shoal.get(ref)
    assert (array == np.arange(100_000)).all()
    assert not array.flags.writeable

    @shoal.remote
    def total(array):
        return float(array.sum()), array.flags.writeable

    assert shoal.get(total.remote(ref)) == (array.sum(), False)


def test_freezing_again_does_no_harm():
    ref = shoal.freeze(shoal.zeros(3))
    array = shoal.get(ref)
    assert shoal.freeze(ref) is ref
    assert array.tolist() == [0, 0, 0]


def test_what_was_never_mutable_cannot_be_frozen():
    for value in (1, "text", np.zeros(10_000)):
        with pytest.raises(NotMutableError, match="freeze"):
            shoal.freeze(shoal.put(value))
    with pytest.raises(TypeError, match="freeze"):
        shoal.freeze(np.zeros(3))


def test_of_many_who_look_and_write_none_writes_after_the_freeze():
    @shoal.remote
    def write(refs):
        writes = 0
        while (array := shoal.get(refs[0])).flags.writeable:
            array[0] += 1
            writes += 1
            del array
            sum(range(2000))  # without a view, so that there are moments when nobody has one
        return writes

    ref = shoal.zeros(10, int)
    calls = [write.remote([ref]) for _ in range(2)]
    until(lambda: int(shoal.get(ref)[0]) > 100)
    until(lambda: frozen(ref))
    after = int(shoal.get(ref)[0])
    assert sum(shoal.get(calls)) > 100
    assert int(shoal.get(ref)[0]) == after


def test_memory_comes_back():
    until(at_rest)
    before = _core.statistics()["used_bytes"]
    ref = shoal.freeze(shoal.zeros(1 << 20))
    array = shoal.get(ref)
    del ref
    assert array.sum() == 0
    assert _core.statistics()["used_bytes"] > before
    del array
    until(lambda: _core.statistics()["used_bytes"] <= before)
    until(lambda: quiet() and _core.check() == "")
