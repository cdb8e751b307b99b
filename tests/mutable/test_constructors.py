"""empty, zeros and full: mutable arrays made directly in shared memory."""

import re

import numpy as np
import pytest

import shoal
from conftest import at_rest, quiet, until
from shoal import _core
from shoal.exceptions import NotMutableError, ObjectStoreFullError

pytestmark = pytest.mark.usefixtures("session")


def address(array):
    return array.__array_interface__["data"][0]


def anonymous_kb():
    with open("/proc/self/status") as file:
        return int(re.search(r"RssAnon:\s+(\d+)", file.read()).group(1))


@pytest.mark.parametrize("shape", [5, (3,), (2, 3), (), (0,), (4, 0, 2), [2, 2], np.int64(7), (300, 300)])
@pytest.mark.parametrize("dtype", [float, "int8", "c16", "?", "U5", "M8[ns]", [("a", "i4"), ("b", "f8", (2,))]])
def test_shape_and_dtype_are_those_of_numpy(shape, dtype):
    want = np.zeros(shape, dtype)
    array = shoal.get(shoal.zeros(shape, dtype))
    assert type(array) is np.ndarray
    assert (array.shape, array.dtype, array.flags.c_contiguous) == (want.shape, want.dtype, True)
    assert array.flags.writeable
    assert (array == want).all()
    uninitialized = shoal.get(shoal.empty(shape, dtype))
    assert (uninitialized.shape, uninitialized.dtype) == (want.shape, want.dtype)


def test_the_default_is_float64():
    assert shoal.get(shoal.empty(2)).dtype == shoal.get(shoal.zeros(2)).dtype == np.float64


@pytest.mark.parametrize("size", [100, 5000, 3 << 20])
def test_zeros_are_zeros_in_memory_that_was_used_before(size):
    ref = shoal.full(size, 0xEE, "u1")
    used = address(shoal.get(ref))
    del ref
    array = shoal.get(shoal.zeros(size, "u1"))
    assert address(array) == used
    assert not array.any()


def test_empty_leaves_the_memory_as_it_was():
    ref = shoal.full(3 << 20, 0xEE, "u1")
    used = address(shoal.get(ref))
    del ref
    array = shoal.get(shoal.empty(3 << 20, "u1"))
    assert address(array) == used
    assert (array[4096:] == 0xEE).all()


def test_there_is_no_private_copy():
    shoal.get(shoal.zeros(10))
    before = anonymous_kb()
    refs = [
        make()
        for make in (
            lambda: shoal.zeros(4 << 20),
            lambda: shoal.empty(4 << 20),
            lambda: shoal.full(4 << 20, 1.5),
        )
    ]
    assert len(refs) * (32 << 20) == sum(shoal.get(ref).nbytes for ref in refs)
    assert anonymous_kb() - before < 8 << 10


def test_full_takes_the_dtype_of_its_value():
    assert shoal.get(shoal.full(3, 7)).tolist() == [7, 7, 7]
    assert shoal.get(shoal.full(3, 7)).dtype == np.asarray(7).dtype
    assert shoal.get(shoal.full(2, 1.5)).dtype == np.float64
    assert shoal.get(shoal.full(2, "abc")).tolist() == ["abc", "abc"]
    assert shoal.get(shoal.full(2, 300, "f4")).dtype == np.float32
    assert shoal.get(shoal.full((2, 3), [1, 2, 3])).tolist() == [[1, 2, 3]] * 2


def test_tasks_fill_disjoint_slices_without_a_lock():
    @shoal.remote
    def fill(refs, first, last):
        shoal.get(refs[0])[first:last] = first

    ref = shoal.empty(100_000, "i4")
    shoal.get([fill.remote([ref], n, n + 10_000) for n in range(0, 100_000, 10_000)])
    assert (shoal.get(ref) == np.arange(100_000) // 10_000 * 10_000).all()


def test_results_of_numpy_go_straight_into_it():
    array = shoal.get(ref := shoal.empty((50, 50)))
    np.add(np.ones((50, 50)), 1, out=array)
    np.matmul(np.eye(50), array.copy(), out=array)
    assert (shoal.get(ref) == 2).all()


def test_it_has_a_lock_of_its_own():
    ref = shoal.zeros(3)
    with shoal.lock(ref):
        shoal.get(ref)[:] += 1
    assert shoal.get(ref).tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [object, [("a", object)], "V0"])
def test_elements_must_be_bytes(dtype):
    with pytest.raises(NotMutableError, match="dtype"):
        shoal.zeros(3, dtype)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="negative"):
        shoal.empty(-1)
    with pytest.raises(ValueError, match="negative"):
        shoal.zeros((2, -1))
    with pytest.raises(TypeError):
        shoal.zeros(2.5)
    with pytest.raises(TypeError):
        shoal.zeros(3, "no such type")
    with pytest.raises(ValueError, match="broadcast"):
        shoal.full(3, [1, 2])


def test_more_than_there_is_is_refused_and_nothing_is_lost():
    until(at_rest)
    used = _core.statistics()["used_bytes"]
    for make in (shoal.empty, shoal.zeros, lambda n: shoal.full(n, 1.0)):
        with pytest.raises(ObjectStoreFullError):
            make(1 << 45)
    until(lambda: _core.statistics()["used_bytes"] <= used)  # less if a worker left, and what it kept for itself with it
    until(lambda: quiet() and _core.check() == "")
