"""Counter: no update is lost, whoever adds."""

import pytest

import shoal

pytestmark = pytest.mark.usefixtures("session")


def test_the_operations():
    count = shoal.Counter(5)
    assert count.add() == 6 and count.add(4) == 10 and count.fetch_add(-3) == 10
    assert count.value == int(count) == 7
    assert count.exchange(1) == 7
    assert count.compare_exchange(1, 2) and not count.compare_exchange(1, 3) and count.value == 2
    count.value = -1
    assert repr(count) == "Counter(-1)"
    assert [10, 20, 30][shoal.Counter(1)] == 20


def test_statistics():
    assert shoal.Counter(5).statistics() == {"value": 5}


def test_it_wraps_around():
    assert shoal.Counter(2**63 - 1).add() == -(2**63)


def test_no_addition_is_lost():
    @shoal.remote
    def work(count, n):
        for _ in range(n):
            count.add()
        shoal.Counter(name="test_no_addition").add(n)

    count = shoal.Counter()
    named = shoal.Counter(name="test_no_addition")
    calls = [work.remote(count, 5000) for _ in range(4)]
    for _ in range(5000):
        count.add()
    shoal.get(calls)
    assert count.value == 25_000 and named.value == 20_000


def test_bad_arguments():
    with pytest.raises(TypeError):
        shoal.Counter().add("1")
    with pytest.raises(OverflowError):
        shoal.Counter().add(2**64)
    with pytest.raises(AttributeError):
        del shoal.Counter().value
