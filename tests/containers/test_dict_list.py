"""Dict, List, Value: the conventions of the built-in ones, from several processes, also when one is killed."""

import os
import random
import signal

import numpy as np
import pytest

import shoal
from conftest import at_rest, quiet, until
from shoal import _core

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module", autouse=True)
def whole_arena(session):
    yield
    until(lambda: quiet() and _core.check() == "")


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


def test_numbers_of_numpy_are_keys_like_pythons():
    d = shoal.Dict({np.int64(3): "three", np.float64(2.5): "half", (np.uint8(1), "x"): 1})
    assert d[3] == "three" and d[2.5] == "half" and d[1, "x"] == 1 and d[np.int16(3)] == "three"
    assert list(map(type, d)) == [int, float, tuple]
    with pytest.raises(TypeError, match="array"):
        d[np.zeros(2)] = 1


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


def test_operators_of_dict():
    d = shoal.Dict({"a": 1, "b": 2})
    assert d | {"b": 3} == {"a": 1, "b": 3} and {"b": 3} | d == {"b": 2, "a": 1}
    assert list(reversed(d)) == ["b", "a"] and d.copy() == {"a": 1, "b": 2} and type(d.copy()) is dict
    same = d
    d |= {"c": 3}
    d.update([("d", 4)], e=5)
    assert same is d and same.copy() == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    assert dict(shoal.Dict.fromkeys("xy", 0)) == {"x": 0, "y": 0} and {**d} == d.copy() and d == dict(d)
    match d:
        case {"a": a, **_rest}:
            assert a == 1
    with pytest.raises(TypeError):
        d | [1]


def test_operators_of_list():
    values = shoal.List([3, 1, 2, 1])
    assert values + [5] == [3, 1, 2, 1, 5] and [5] + values == [5, 3, 1, 2, 1] and values.copy() == [3, 1, 2, 1]
    values += [0]
    assert 2 in values and values.count(1) == 2 and values.index(2) == 2 and list(reversed(values)) == [0, 1, 2, 1, 3]
    values.remove(1)
    values.reverse()
    assert values == [0, 1, 2, 3]
    values.sort(key=lambda x: x % 2, reverse=True)  # stable, as list.sort is
    assert values == [1, 3, 0, 2]
    values.sort()
    assert values == [0, 1, 2, 3] and values[1:3] == [1, 2]
    with pytest.raises(ValueError, match="not in the List"):
        values.remove(7)
    with pytest.raises(ZeroDivisionError):
        values.sort(key=lambda x: 1 // x)
    with pytest.raises(TypeError):
        shoal.List([1, "a"]).sort()
    assert values == [0, 1, 2, 3]
    empty = shoal.List()
    empty.sort()
    empty.reverse()
    assert empty == []


def test_a_comparison_that_changes_the_list():
    class Meddler:
        """Equal to nothing, and changes the list while it is compared."""

        def __init__(self, values):
            self.values = values

        def __eq__(self, other):
            if len(self.values) < 20:
                self.values.insert(0, -1)
            return other == 3

        __hash__ = None

    values = shoal.List([1, 2, 3, 4])
    values.remove(Meddler(values))
    assert [v for v in values if v > 0] == [1, 2, 4] and len(values) == 19
    counted = shoal.Counter()

    def key(value):
        if counted.add() < 5:
            values.append(100)
        return value

    values.sort(key=key)  # begins again as long as the list changes meanwhile
    assert values == sorted(values.copy()) and values.count(100) == 4


def test_what_is_removed_is_what_was_found():
    """Many remove and append at once: as many go as were removed, of each kind."""

    @shoal.remote(num_cpus=0)
    def churn(values, seed):
        rng, removed = random.Random(seed), [0] * 5
        for _ in range(300):
            kind = rng.randrange(5)
            values.append(kind)
            if rng.randrange(10) == 0:
                rng.choice([values.sort, values.reverse])()
            try:
                kind = rng.randrange(5)
                values.remove(kind)
                removed[kind] += 1
            except ValueError:
                pass
        return removed

    values = shoal.List(list(range(5)) * 4)
    before = len(values)
    removed = shoal.get([churn.remote(values, seed) for seed in range(3)])
    assert len(values) == before + 900 - sum(map(sum, removed))


def test_an_update_whose_process_is_killed_has_not_happened():
    best = shoal.Value(1)

    @shoal.remote(max_retries=0)
    def die(best):
        best.update(lambda old: os.kill(os.getpid(), signal.SIGKILL))

    for _ in range(2):
        with pytest.raises(shoal.exceptions.WorkerCrashedError):
            shoal.get(die.remote(best))
        before = best.value
        assert best.update(lambda old: old + 1) == before + 1


def test_a_value_takes_its_lock_along():
    until(at_rest)
    shoal.Value(0, name="once").update(lambda old: old + 1)
    before = _core.statistics()["objects"]
    for name in (None, "once", None, "once"):
        best = shoal.Value(1, name=name)
        assert best.update(lambda old: old + 1) == best.value and not best.lock.locked()
    assert best.value == 3
    del best
    assert _core.statistics()["objects"] == before


def test_everything_is_given_back():
    until(at_rest)
    before = _core.statistics()["objects"]
    d = shoal.Dict({i: [i] for i in range(1000)})
    d["list"] = shoal.List(range(100))
    d["list"].insert(50, "middle")
    with d.lock, d["list"].lock:  # each has one of its own, which goes with it
        assert d.lock.locked() and d["list"].lock.locked() and not shoal.List().lock.locked()
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
            values.append(os.getpid())
            values.remove(os.getpid())
            rng.choice([values.sort, values.reverse])()

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
    until(lambda: quiet() and _core.check() == "")
