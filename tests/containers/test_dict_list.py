"""Dict, List, Value: the conventions of the built-in ones, from several processes, also when one is killed."""

import os
import random

import numpy as np
import pytest

import shoal
from conftest import quiet, until
from shoal import _core

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module", autouse=True)
def whole_arena(session):
    yield
    until(quiet)
    assert _core.check() == ""


def test_dict_behaves_like_dict():
    rng = random.Random(1)
    shared, plain = shoal.Dict(), {}
    for _ in range(5000):
        key = rng.choice([rng.randrange(300), str(rng.randrange(300)), (1, str(rng.randrange(50))), 2.5, None, b"x"])
        match rng.randrange(5):
            case 0 | 1:
                value = rng.random()
                shared[key] = value
                plain[key] = value
            case 2:
                assert shared.pop(key, "no") == plain.pop(key, "no")
            case 3:
                assert shared.setdefault(key, 1) == plain.setdefault(key, 1)
            case 4:
                assert shared.get(key) == plain.get(key) and (key in shared) == (key in plain)
    assert list(shared) == list(plain) and dict(shared.items()) == plain and len(shared) == len(plain)
    while plain:
        assert shared.popitem() == plain.popitem()
    assert not shared and shared == {}
    with pytest.raises(KeyError):
        shared.popitem()


def test_equal_keys_are_one_key():
    d = shoal.Dict()
    d[1] = "int"
    d[1.0] = "float"
    d[True] = "bool"
    a = "".join(["ab", "c"])
    d[(a, a)] = 1
    d[("abc", "ab" + "c")] = 2
    assert dict(d.items()) == {1: "bool", ("abc", "abc"): 2}


def test_dict_errors():
    d = shoal.Dict({"a": 1})
    with pytest.raises(KeyError):
        d["b"]
    with pytest.raises(KeyError):
        del d["b"]
    with pytest.raises(TypeError, match="key"):
        d[[1]] = 2
    with pytest.raises(TypeError, match="key"):
        d[object()]


def test_a_large_dict_grows_and_shrinks():
    d = shoal.Dict()
    for i in range(20_000):
        d[f"key {i}"] = i
    assert len(d) == 20_000 and all(d[f"key {i}"] == i for i in range(0, 20_000, 97))
    d.clear()
    assert len(d) == 0 and list(d) == []


def test_dict_from_several_processes():
    @shoal.remote
    def work(d, k):
        for i in range(500):
            d[k, i] = i
            with d.lock:
                d["sum"] = d.get("sum", 0) + 1
        return sum(d.pop(("ticket", i), None) is not None for i in range(100))

    d = shoal.Dict({("ticket", i): 1 for i in range(100)})
    assert sum(shoal.get([work.remote(d, k) for k in range(4)], timeout=60)) == 100
    assert d["sum"] == 2000 and len(d) == 2001


def test_containers_by_name_in_one_another_and_with_arrays():
    d = shoal.Dict({"x": np.arange(1000)}, name="test_by_name")
    assert shoal.Dict({"ignored": 1}, name="test_by_name")["x"][-1] == 999
    inner = shoal.List([1])
    d["list"] = inner
    d["list"].append(2)
    assert inner == [1, 2]
    assert not d["x"].flags.owndata


def test_list_behaves_like_list():
    rng = random.Random(2)
    shared, plain = shoal.List(), []
    for step in range(3000):
        n = len(plain)
        match rng.randrange(6):
            case 0 | 1:
                shared.append(step)
                plain.append(step)
            case 2:
                i = rng.randint(-n - 2, n + 2)
                shared.insert(i, step)
                plain.insert(i, step)
            case 3 if n:
                i = rng.randrange(-n, n)
                assert shared.pop(i) == plain.pop(i)
            case 4 if n:
                i = rng.randrange(-n, n)
                shared[i] = plain[i] = step
            case 5 if n:
                i = rng.randrange(-n, n)
                assert shared[i] == plain[i]
    assert list(shared) == plain and shared == plain and len(shared) == len(plain)
    assert shared[3:9:2] == plain[3:9:2] and shared.index(plain[5]) == plain.index(plain[5])
    shared.clear()
    assert shared == [] and not shared
    for bad in (lambda: shared[0], lambda: shared.pop(), lambda: shared.__setitem__(0, 1)):
        with pytest.raises(IndexError):
            bad()
    with pytest.raises(TypeError, match="slices"):
        shared[:] = [1]


def test_list_and_value_from_several_processes():
    @shoal.remote
    def work(values, best, k):
        for i in range(300):
            values.append((k, i))
            best.update(lambda old: old + 1)

    values, best = shoal.List(), shoal.Value(0)
    shoal.get([work.remote(values, best, k) for k in range(3)], timeout=60)
    assert len(values) == 900 and best.value == 900
    for k in range(3):
        assert [i for who, i in values if who == k] == list(range(300))
    assert repr(best) == "Value(900)" and best.statistics() == {"locked": False}


def test_everything_is_given_back():
    until(quiet)
    before = _core.statistics()["objects"]
    d = shoal.Dict({i: [i] for i in range(1000)})
    d["list"] = shoal.List(range(100))
    d["list"].insert(50, "middle")
    del d
    assert _core.statistics()["objects"] == before


def test_writers_killed_at_any_moment_leave_it_whole():
    @shoal.remote(max_retries=0, num_cpus=0)
    def churn(d, values, beats):
        rng = random.Random(os.getpid())
        while True:
            beats.add()
            d[rng.randrange(500)] = os.getpid()
            d.pop(rng.randrange(500), None)
            values.append(1)
            values.insert(3, 2)
            values.pop(rng.randrange(2))
            values.pop()

    d, values, beats = shoal.Dict(), shoal.List([0] * 10), shoal.Counter()
    for _ in range(10):
        refs = [churn.remote(d, values, beats) for _ in range(2)]
        start = beats.value
        until(lambda start=start: beats.value > start + 300)
        for ref in refs:
            shoal.cancel(ref, force=True)
        for ref in refs:
            with pytest.raises(shoal.exceptions.ShoalError):
                shoal.get(ref, timeout=30)
        d["alive"] = 1
        assert len(list(d)) == len(d) and len(list(values)) == len(values)
    until(quiet)
    assert _core.check() == ""
