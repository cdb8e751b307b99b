"""Versioned: one value, its newest version, several writers."""

import pickle
import threading

import numpy as np
import pytest

import shoal
from conftest import at_rest, run_python, until
from shoal import Versioned, _core
from shoal.exceptions import NotMutableError, VersionConflictError

pytestmark = pytest.mark.usefixtures("session")


def test_the_first_value_is_version_0():
    v = Versioned({"a": 1})
    assert v.get() == {"a": 1}
    assert v.version == 0
    assert v.get_with_version() == ({"a": 1}, 0)
    assert Versioned().get() is None


@pytest.mark.parametrize("value", [None, True, 5, 2**100, 1.5, "x", b"y" * 5000, (1, 2), [1, [2]], {"k": {"n": (1,)}}, {1, 2}])
def test_any_value_goes_in_and_comes_out(value):
    v = Versioned(0)
    assert v.set(value) == 1
    for _ in range(5):
        assert v.get() == value
        assert type(v.get()) is type(value)


def test_set_publishes_and_what_is_held_stays():
    v = Versioned(np.full(1000, 0))
    held = []
    for n in range(1, 6):
        held.append(v.get())
        assert v.set(np.full(1000, n)) == n == v.version
    assert [int(a[0]) for a in held] == [0, 1, 2, 3, 4]
    assert all((a == a[0]).all() for a in held)


def test_arrays_are_read_only_and_not_copied():
    v = Versioned(np.arange(10_000))
    first, second = v.get(), v.get()
    assert not first.flags.writeable
    assert first.__array_interface__["data"] == second.__array_interface__["data"]
    with pytest.raises(ValueError, match="read-only"):
        first += 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        v.get().flags.writeable = True


def test_what_a_reader_does_to_its_containers_is_its_own_affair():
    v = Versioned({"a": np.zeros(1000), "list": [1, np.ones(1000)], "n": 3})
    for _ in range(100):
        value = v.get()
        assert list(value) == ["a", "list", "n"]
        assert value["list"][0] == 1
        assert value["a"].shape == (1000,)
        value["a"].shape = (10, 100)
        value["list"].clear()
        value["n"] = 4


def test_an_object_that_occurs_twice_is_one_object():
    shared = np.arange(1000)
    v = Versioned({"a": shared, "b": shared, "lists": [[shared]] * 2})
    kept = []
    for _ in range(5):
        value = v.get()
        kept.append(value)
        assert value["a"] is value["b"]
        assert value["lists"][0] is value["lists"][1]


def test_compare_and_set():
    v = Versioned("a")
    assert v.compare_and_set(0, "b") is True
    assert v.compare_and_set(0, "c") is False
    assert v.get_with_version() == ("b", 1)
    assert v.set("d", expected_version=1) == 2
    with pytest.raises(VersionConflictError) as caught:
        v.set("e", expected_version=1)
    assert (caught.value.expected, caught.value.found) == (1, 2)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert v.get() == "d"
    with pytest.raises(TypeError, match="integer"):
        v.compare_and_set("1", "x")


def test_no_increment_is_lost_with_compare_and_set():
    @shoal.remote
    def add(v, n):
        for _ in range(n):
            while True:
                value, version = v.get_with_version()
                if v.compare_and_set(version, value + 1):
                    break

    v = Versioned(0)
    calls = [add.remote(v, 500) for _ in range(2)]
    add._function(v, 500)
    shoal.get(calls)
    assert v.get() == v.version == 1500


def test_the_last_to_publish_wins_and_every_publication_counts():
    @shoal.remote
    def publish(v, who, n):
        for i in range(n):
            v.set((who, i))

    v = Versioned(None)
    shoal.get([publish.remote(v, who, 300) for who in range(2)])
    assert v.version == 600
    assert v.get()[1] == 299


def test_it_goes_to_tasks_and_actors_and_into_objects():
    @shoal.remote
    class Learner:
        def __init__(self, v):
            self.v = v

        def step(self):
            with self.v.update() as weights:
                weights += 1

    @shoal.remote
    def look(box):
        return float(box["v"].get().sum()), box["v"]

    v = Versioned(np.zeros(1000))
    learner = Learner.remote(v)
    shoal.get([learner.step.remote() for _ in range(3)])
    total, same = shoal.get(look.remote(shoal.put({"v": v})))
    assert total == 3000
    assert same == v and hash(same) == hash(v) and same != Versioned(0)
    same.set(1)
    assert v.get() == 1


def test_by_name_everybody_gets_the_same():
    @shoal.remote
    def publish():
        Versioned(name="weights").set("from a task")

    v = Versioned("first", name="weights")
    assert v.get() == "first"
    assert Versioned("not looked at", name="weights").get() == "first"
    assert Versioned(name="other") != v
    shoal.get(publish.remote())
    assert v.get() == "from a task"
    assert v.name == "weights"
    assert repr(v) == "<shoal.Versioned 'weights'>"
    assert pickle.loads(pickle.dumps(v)).name == "weights"


def test_references_inside_a_version_live_with_it():
    def used():
        return _core.statistics()["used_bytes"]

    v = Versioned(None)
    for _ in range(2):  # the allocator keeps the first span of each class of sizes that was ever used
        until(at_rest)
        before = used()
        v.set({"ref": shoal.put(np.zeros(1 << 20))})
        for _ in range(3):
            assert shoal.get(v.get()["ref"]).shape == (1 << 20,)
        assert used() > before
        v.set(None)
    until(lambda: used() <= before)  # less if a worker left, and what it kept for itself with it


def test_mistakes_are_named():
    v = Versioned(0)
    ref = shoal.put(1)
    for wrong in (lambda: Versioned(ref), lambda: v.set(ref), lambda: v.compare_and_set(0, ref)):
        with pytest.raises(TypeError, match="ObjectRef"):
            wrong()
    for name in ("", 5):
        with pytest.raises(ValueError, match="name"):
            Versioned(0, name=name)
    with pytest.raises(shoal.exceptions.PicklingError):
        v.set({"a": threading.Lock()})
    with pytest.raises(TypeError, match="Versioned"):
        shoal.get(v._ref)
    with pytest.raises(NotMutableError):
        shoal.lock(v._ref)


def test_after_the_session_it_says_so():
    done = run_python(
        """
        import numpy as np, shoal
        shoal.init(num_cpus=1)
        v = shoal.Versioned(np.arange(1000))
        held = v.get()
        shoal.shutdown()
        for use in (v.get, lambda: v.set(1), lambda: v.version, v.wait, lambda: v.update().__enter__()):
            try:
                use()
            except shoal.exceptions.SessionError as error:
                print(type(error).__name__)
        print(held.sum())
        """
    )
    assert done.stdout.split() == [*["SessionEndedError"] * 5, "499500"], done.stderr
