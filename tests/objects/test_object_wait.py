"""wait: which references are done, in the order given, at most as many as asked for."""

import math
import threading
import time

import numpy as np
import pytest

import shoal
from conftest import until

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
def hold(path, value=None):
    """Waits until `path` exists."""
    until(path.exists, 60)
    return value


@shoal.remote
def fail():
    raise KeyError("failed")


@pytest.fixture
def held(tmp_path):
    """Call it for two references to tasks that end when the test does, or when the i-th path is touched."""
    paths = [tmp_path / str(i) for i in range(2)]
    yield lambda: ([hold.remote(path, i) for i, path in enumerate(paths)], paths)
    for path in paths:
        path.touch()


def test_both_lists_are_in_the_order_given(held):
    pending, _ = held()
    done = [shoal.put(i) for i in range(4)]
    mixed = [done[2], pending[1], done[0], pending[0], done[3], done[1]]
    ready, rest = shoal.wait(mixed, num_returns=4, timeout=60)
    assert ready == [done[2], done[0], done[3], done[1]]
    assert rest == [pending[1], pending[0]]
    assert [type(x) for x in (ready, rest)] == [list, list]


def test_no_more_are_ready_than_asked_for(held):
    pending, _ = held()
    done = [shoal.put(i) for i in range(4)]
    assert shoal.wait(done) == (done[:1], done[1:])
    assert shoal.wait([pending[0], *done], num_returns=3) == (done[:3], [pending[0], done[3]])
    assert shoal.wait(done, num_returns=4) == (done, [])


def test_timeouts(held):
    pending, paths = held()
    for timeout in (0, 0.0, 1e-9, 0.05, np.float32(0.01)):
        start = time.monotonic()
        assert shoal.wait(pending, num_returns=2, timeout=timeout) == ([], pending)
        assert time.monotonic() - start >= timeout
    one = shoal.put(1)
    assert shoal.wait([*pending, one], num_returns=2, timeout=0) == ([one], pending)
    assert shoal.wait([*pending, one], num_returns=2, timeout=0.02) == ([one], pending)
    paths[1].touch()
    assert shoal.wait(pending, timeout=60) == (pending[1:], pending[:1])
    paths[0].touch()
    assert shoal.wait(pending, num_returns=2, timeout=None) == (pending, [])
    assert shoal.wait(pending, num_returns=2, timeout=math.inf) == (pending, [])


def test_a_failed_task_is_ready_and_wait_does_not_raise():
    ref = fail.remote()
    assert shoal.wait([ref]) == ([ref], [])
    with pytest.raises(KeyError):
        shoal.get(ref)


def test_fetch_local_makes_no_difference():
    refs = [shoal.put(1), shoal.put(2)]
    for fetch_local in (True, False):
        assert shoal.wait(refs, num_returns=2, fetch_local=fetch_local) == (refs, [])


def test_nothing_to_wait_for():
    assert shoal.wait([]) == ([], [])
    assert shoal.wait([], num_returns=3, timeout=0) == ([], [])


def test_a_tuple_and_an_iterator_do_too():
    refs = [shoal.put(1), shoal.put(2)]
    assert shoal.wait(tuple(refs), num_returns=2) == (refs, [])
    assert shoal.wait(iter(refs), num_returns=2) == (refs, [])


def test_bad_arguments():
    refs = [shoal.put(1), shoal.put(2)]
    with pytest.raises(TypeError, match=r"wait\(\[ref\]\)"):
        shoal.wait(refs[0])
    with pytest.raises(ValueError, match="twice"):
        shoal.wait([refs[0], refs[1], refs[0]])
    for count in (0, -1, 3, 10**30):
        with pytest.raises(ValueError, match="num_returns"):
            shoal.wait(refs, num_returns=count)
    for count in (1.0, "1", None, True):
        with pytest.raises(TypeError, match="num_returns"):
            shoal.wait(refs, num_returns=count)
    for timeout in (-1, -1e-9, math.nan, -math.inf):
        with pytest.raises(ValueError, match="timeout"):
            shoal.wait(refs, timeout=timeout)
    with pytest.raises(TypeError, match="timeout"):
        shoal.wait(refs, timeout="1")
    for wrong in ([1, 2], [refs[0], None], ["ref"], [[refs[0]]]):
        with pytest.raises(TypeError):
            shoal.wait(wrong)
    for wrong in (5, None):
        with pytest.raises(TypeError):
            shoal.wait(wrong)
    with pytest.raises(TypeError):
        shoal.wait(refs, 1)


def test_the_usual_loop_sees_every_task_once():
    @shoal.remote
    def square(x):
        return x * x

    left, got = [square.remote(i) for i in range(300)], []
    while left:
        ready, left = shoal.wait(left, num_returns=min(7, len(left)))
        got += shoal.get(ready)
    assert sorted(got) == [i * i for i in range(300)]


def test_many_references():
    refs = [shoal.put(i) for i in range(20_000)]
    ready, rest = shoal.wait(refs, num_returns=20_000)
    assert ready == refs and rest == []


def test_threads_wait_for_the_same_object(held):
    pending, paths = held()
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(shoal.wait(pending))) for _ in range(8)]
    for thread in threads:
        thread.start()
    paths[0].touch()
    for thread in threads:
        thread.join(60)
    assert seen == [(pending[:1], pending[1:])] * 8


@shoal.remote(num_cpus=0)
def items(n, error=None):
    yield from range(n)
    if error:
        raise error


def test_generators_are_ready_when_their_next_item_is(held):
    (ref, _), _ = held()
    stream = items.remote(2)
    assert shoal.wait([ref, stream], timeout=20) == ([stream], [ref])
    assert shoal.get(next(stream)) == 0
    assert shoal.wait([stream, ref]) == ([stream], [ref])
    assert [shoal.get(item) for item in stream] == [1]
    assert shoal.wait([stream, ref]) == ([stream], [ref])  # its end
    assert shoal.wait([items.remote(0), items.remote(1)], num_returns=2)[1] == []
    assert shoal.wait([ref], timeout=0) == ([], [ref])


def test_a_generator_and_its_last_item():
    stream = items.remote(0, KeyError("end"))
    (last,) = stream
    assert shoal.wait([stream, last], num_returns=2) == ([stream, last], [])
    assert shoal.wait([last, stream]) == ([last], [stream])
    with pytest.raises(ValueError, match="twice"):
        shoal.wait([stream, stream])
