"""get(ref, private=True): writable arrays of one's own over immutable memory, copied as it is written."""

import ctypes
import dataclasses
import re
import sys

import numpy as np
import pytest

import shoal
from conftest import at_rest, quiet, run_python, until
from shoal import _core
from shoal.exceptions import GetTimeoutError

pytestmark = pytest.mark.usefixtures("session")


def private_bytes():
    with open("/proc/self/status") as file:
        return int(re.search(r"RssAnon:\s+(\d+)", file.read()).group(1)) << 10


def windows():
    with open("/proc/self/maps") as file:
        return sum(" rw-p " in line and "memfd:shoal" in line for line in file)


def test_it_is_writable_and_nobody_else_sees_it():
    ref = shoal.put(np.arange(10_000))
    mine, also_mine, shared = shoal.get(ref, private=True), shoal.get(ref, private=True), shoal.get(ref)
    mine[:] = 7
    assert mine.flags.writeable
    assert (shared == np.arange(10_000)).all()
    assert (also_mine == np.arange(10_000)).all()
    assert (mine == 7).all()

    @shoal.remote
    def total(array):
        return int(array.sum())

    assert shoal.get(total.remote(ref)) == shared.sum()


def test_it_satisfies_code_that_insists_on_writing():
    ref = shoal.put(np.arange(10_000, dtype="u1"))
    with pytest.raises(TypeError, match="not writable"):
        (ctypes.c_char * 100).from_buffer(shoal.get(ref))
    (ctypes.c_char * 100).from_buffer(shoal.get(ref, private=True))[0] = 3
    np.random.default_rng(0).shuffle(shoal.get(ref, private=True))
    assert (shoal.get(ref) == np.arange(10_000, dtype="u1")).all()


def test_only_what_is_written_is_copied():
    ref = shoal.put(np.zeros(8 << 20))
    mine = shoal.get(ref, private=True)
    before = private_bytes()
    assert mine.sum() == 0  # reading takes no memory
    mine[1 << 20] = 1
    assert private_bytes() - before < 2 << 20
    mine[: 4 << 20] = 2
    assert private_bytes() - before > 30 << 20


def test_nested_values_small_arrays_and_read_only_ones():
    @dataclasses.dataclass
    class Model:
        weights: np.ndarray
        bias: np.ndarray
        names: list

    frozen = np.arange(5000.0)
    frozen.flags.writeable = False
    table = np.zeros(500, [("x", "f8"), ("n", "i4")])
    fortran = np.asfortranarray(np.ones((100, 40)))
    ref = shoal.put(
        {
            "m": Model(frozen, np.arange(3.0), ["a"]),
            "t": (table, fortran),
            "n": 5,
            "s": table[:3].view(np.recarray),
        }
    )
    value = shoal.get(ref, private=True)
    arrays = [value["m"].weights, value["m"].bias, *value["t"], value["s"]]
    for array in arrays:
        assert array.flags.writeable
        array.flat[0] = array.flat[-1]
    assert value["t"][1].flags.f_contiguous
    value["m"].weights[1:] = -1
    assert value["m"].names == ["a"]
    assert value["n"] == 5
    again = shoal.get(ref)
    assert (again["m"].weights == np.arange(5000.0)).all()
    assert again["m"].bias[0] == 0
    assert not again["m"].weights.flags.writeable


def test_values_without_arrays_are_as_ever():
    for value in (None, True, 5, 1.5, "text", b"bytes" * 1000, [1, {"a": 2}], bytearray(5000)):
        assert shoal.get(shoal.put(value), private=True) == value


def test_it_keeps_the_object_alive_and_is_unmapped_with_the_last_array():
    until(at_rest)
    used, mapped = _core.statistics()["used_bytes"], windows()
    value = shoal.get(shoal.put([np.full(1 << 20, 3.0), np.zeros(5000)]), private=True)
    assert windows() == mapped + 1
    part = value[0][5:10]
    del value
    assert _core.statistics()["used_bytes"] > used
    shoal.put(np.zeros(1 << 20))  # would take its memory, if it were free
    assert (part == 3).all()
    part[:] = 4
    del part
    assert windows() == mapped
    until(lambda: _core.statistics()["used_bytes"] <= used)  # less if a worker left, and what it kept for itself with it
    until(lambda: quiet() and _core.check() == "")


def test_many_references_at_a_time():
    refs = [shoal.put(np.full(1000, n)) for n in range(5)]
    arrays = shoal.get(refs, private=True)
    for n, array in enumerate(arrays):
        array += 1
        assert (array == n + 1).all()


def test_a_frozen_object_may_be_copied_but_not_a_mutable_one():
    ref = shoal.zeros(1000)
    with pytest.raises(ValueError, match="freeze"):
        shoal.get(ref, private=True)
    mine = shoal.get(shoal.freeze(ref), private=True)
    mine += 1
    assert not shoal.get(ref).any()


def test_it_waits_fails_and_times_out_as_ever():
    @shoal.remote
    def make(gate):
        with shoal.lock(gate):
            return np.zeros(1000)

    @shoal.remote
    def fail():
        raise KeyError("x")

    with shoal.lock("gate"):
        ref = make.remote("gate")
        with pytest.raises(GetTimeoutError):
            shoal.get(ref, private=True, timeout=0.01)
    shoal.get(ref, private=True)[0] = 1
    for refs in (fail.remote(), [fail.remote()]):
        with pytest.raises(KeyError):
            shoal.get(refs, private=True)
    with pytest.raises(TypeError, match="ObjectRef"):
        shoal.get(5, private=True)


def test_it_outlives_the_session():
    done = run_python(
        """
        import numpy as np, shoal
        shoal.init(num_cpus=1)
        array = shoal.get(shoal.put(np.arange(100_000)), private=True)
        array[0] = 9
        shoal.shutdown()
        array[50_000] += 1
        print(array[0], array[50_000], array[99_999])
        """
    )
    assert done.stdout.split() == ["9", "50001", "99999"], done.stderr


def test_scikit_learn_takes_it():
    linear = pytest.importorskip("sklearn.linear_model")
    x = np.random.default_rng(0).normal(size=(200, 5))
    ref = shoal.put((x, x @ np.arange(5.0)))
    features, target = shoal.get(ref, private=True)
    model = linear.LinearRegression(copy_X=False).fit(features, target)
    assert np.allclose(model.coef_, np.arange(5.0))
    assert (shoal.get(ref)[0] == x).all()
    assert "sklearn" in sys.modules
