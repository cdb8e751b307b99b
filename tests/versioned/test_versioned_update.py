"""Versioned.update: the next version is prepared in place and published in one step."""

import dataclasses
import threading

import numpy as np
import pytest

import shoal
from conftest import at_rest, quiet, until
from shoal import Versioned, _core
from shoal.exceptions import VersionConflictError

pytestmark = pytest.mark.usefixtures("session")


def used():
    return _core.statistics()["used_bytes"]


def used_at_rest():
    """Later it may be less, if a worker leaves, and what it kept for itself with it; it must not be more."""
    until(at_rest)
    return used()


def address(array):
    return array.__array_interface__["data"][0]


def test_a_draft_is_published_whole_at_the_end_of_the_block():
    v = Versioned({"w": np.zeros(10_000), "b": np.zeros(3), "step": 0})
    before = v.get()
    with v.update() as draft:
        draft["w"] += 1
        assert v.version == 0
        assert not v.get()["w"].any()
        draft["b"][1] = 5
        draft["step"] += 1
    after, version = v.get_with_version()
    assert version == 1
    assert (after["w"] == 1).all()
    assert after["b"].tolist() == [0, 5, 0]
    assert after["step"] == 1
    assert not before["w"].any()
    assert not after["w"].flags.writeable


def test_an_exception_discards_it():
    v = Versioned(np.zeros(10_000))
    before = used_at_rest()
    with pytest.raises(KeyError), v.update() as draft:
        draft[:] = 1
        raise KeyError
    assert (v.version, v.get().any()) == (0, False)
    draft[:] = 2  # whoever keeps it may play with it
    assert not v.get().any()
    del draft
    assert used() <= before


@pytest.mark.parametrize("size", [100, 5000, 1 << 20])
def test_a_draft_that_is_kept_cannot_reach_the_published_version(size):
    v = Versioned([np.zeros(size)])
    with v.update() as draft:
        part = draft[0][10:20]
        draft[0][:] = 1
    draft[0][:] = 7
    part[:] = 8
    assert (v.get()[0] == 1).all()
    assert (part == 8).all()
    with v.update() as draft:
        assert (draft[0] == 1).all()
        draft[0] += 1
    assert (v.get()[0] == 2).all()


def test_arrays_are_prepared_where_they_are_published():
    v = Versioned({"w": np.zeros(1 << 20), "n": 0})
    before = used_at_rest()
    with v.update() as draft:
        draft["w"][0] = 1
        draft["n"] = 1
        assert used() - before < 9 << 20
        peak = _core.statistics()["peak_bytes"]
    assert _core.statistics()["peak_bytes"] == peak
    del draft
    assert used() <= before
    assert v.get()["w"][0] == v.get()["n"] == 1


def test_memory_of_old_versions_is_used_again():
    v = Versioned(np.zeros(1 << 18))
    seen = set()
    for n in range(20):
        with v.update() as draft:
            draft[0] = n
        del draft
        seen.add(address(v.get()))
    assert len(seen) <= 3


def test_the_shape_of_a_draft_may_change():
    v = Versioned({"a": np.zeros(1000), "b": np.ones(1000)})
    with v.update() as draft:
        draft["a"], draft["b"] = draft["b"], draft["a"]  # trade places
    assert v.get()["a"][0] == 1 and v.get()["b"][0] == 0
    with v.update() as draft:
        draft["a"] = np.full(1000, 5.0)  # another of the same size
        draft["b"][0] = 3
    assert (v.get()["a"] == 5).all() and v.get()["b"][0] == 3
    with v.update() as draft:
        draft["c"] = np.zeros((50, 50))  # one more
        draft["long"] = "text" * 1000
    assert v.get()["c"].shape == (50, 50) and len(v.get()["long"]) == 4000
    assert (v.get()["a"] == 5).all()
    with v.update() as draft:
        draft["a"] = draft["a"][::2]
        del draft["b"]
    assert v.get()["a"].shape == (500,) and "b" not in v.get()


def test_plain_values_can_be_updated_too():
    v = Versioned({"n": 1, "list": []})
    with v.update() as draft:
        draft["n"] = 2
        draft["list"].append("x")
    assert v.get() == {"n": 2, "list": ["x"]}
    for fixed in (5, "text", None, (1, 2)):
        with pytest.raises(TypeError, match="set"), Versioned(fixed).update():
            pass


def test_instances_and_references():
    @dataclasses.dataclass
    class Model:
        weights: np.ndarray
        data: list

    ref = shoal.put("data")
    v = Versioned(Model(np.zeros(2000), [ref]))
    for _ in range(3):
        with v.update() as model:
            model.weights += 1
        assert shoal.get(v.get().data[0]) == "data"
    with v.update() as model:
        model.data = [shoal.put("new")]
    del ref
    assert shoal.get(v.get().data) == ["new"]
    assert (v.get().weights == 3).all()


def test_an_expected_version():
    v = Versioned(np.zeros(1000))
    with pytest.raises(VersionConflictError), v.update(expected_version=0) as draft:
        draft += 1
        v.set(np.full(1000, 7.0))
    assert (v.get() == 7).all()
    with v.update(expected_version=1) as draft:
        draft += 1
    assert (v.version, v.get()[0]) == (2, 8)
    with pytest.raises(VersionConflictError), v.update(expected_version=1):
        raise AssertionError("it knows at the start")


def test_what_cannot_be_pickled_is_not_published():
    v = Versioned({"a": np.zeros(1000)})
    before = used_at_rest()
    with pytest.raises(shoal.exceptions.PicklingError), v.update() as draft:
        draft["a"] += 1
        draft["lock"] = threading.Lock()
    assert v.version == 0 and not v.get()["a"].any()
    del draft
    assert used() <= before


def test_one_update_is_one_draft():
    v = Versioned([1])
    update = v.update()
    with update, pytest.raises(RuntimeError, match="again"), update:
        pass


def test_a_thread_that_goes_on_writing_does_not_tear_what_is_published():
    v = Versioned(np.zeros(200_000, np.int64))
    stop = threading.Event()

    def scribble(array):
        n = 0
        while not stop.is_set():
            n += 1
            array[:] = n

    for _ in range(5):
        with v.update() as draft:
            thread = threading.Thread(target=scribble, args=(draft,))
            thread.start()
        published = v.get()
        first = published.copy()
        for _ in range(5):
            assert (v.get() == first).all()
        stop.set()
        thread.join()
        stop.clear()
    del draft, published
    until(lambda: quiet() and _core.check() == "")
