"""Generators as tasks: items as they come, errors in the middle, and generators that nobody finishes."""

import asyncio
import os
import signal

import numpy as np
import pytest

import shoal
from conftest import audit, until
from shoal import _core
from shoal.exceptions import PicklingError, TaskCancelledError, TaskError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
def count(n):
    yield from range(n)


@shoal.remote
def steps(folder, n):
    """Yields the i-th item when the i-th file is there."""
    for i in range(n):
        until((folder / str(i)).exists, 60)
        yield i


@shoal.remote(max_retries=0)
def breaks(n, error=ValueError):
    yield from range(n)
    raise error("broken")


@shoal.remote
def same(x):
    return x


# --- streaming ----------------------------------------------------------------------------------------------


def test_a_generator_function_streams_by_default():
    generator = count.remote(5)
    assert isinstance(generator, shoal.ObjectRefGenerator)
    assert [shoal.get(ref) for ref in generator] == [0, 1, 2, 3, 4]
    assert list(generator) == [] and generator.is_finished()
    assert shoal.get(list(count.options(num_returns="streaming").remote(3))) == [0, 1, 2]
    assert list(count.remote(0)) == []


@pytest.mark.parametrize("n", [1, 1000])
def test_items_in_order(n):
    assert shoal.get(list(count.remote(n))) == list(range(n))


def test_items_are_there_as_soon_as_they_are_yielded(tmp_path):
    generator = steps.remote(tmp_path, 3)
    assert not generator.next_ready()
    for i in range(3):
        (tmp_path / str(i)).touch()
        until(generator.next_ready)
        ref = next(generator)
        assert shoal.get(ref, timeout=0) == i
    with pytest.raises(StopIteration):
        next(generator)


def test_an_ordinary_function_that_returns_an_iterable_may_stream():
    @shoal.remote(num_returns="streaming")
    def values(kind):
        return kind([1, 2, 3])

    for kind in (list, tuple, iter):
        assert shoal.get(list(values.remote(kind))) == [1, 2, 3]

    @shoal.remote(num_returns="streaming")
    def one():
        return 5

    with pytest.raises(TypeError, match="generator"):
        shoal.get(list(one.remote()))


def test_items_of_every_kind():
    @shoal.remote
    def mixed():
        yield None
        yield np.ones(10_000)
        yield [shoal.put("inside")]
        yield shoal.put("direct")
        yield "x" * 100_000
        yield lambda: 7

    nothing, array, nested, direct, text, function = (shoal.get(ref) for ref in mixed.remote())
    assert nothing is None and array.sum() == 10_000 and not array.flags.writeable
    assert shoal.get(nested[0]) == "inside" and shoal.get(direct) == "direct"
    assert len(text) == 100_000 and function() == 7


def test_an_item_can_be_an_argument_before_it_is_looked_at():
    assert shoal.get([same.remote(ref) for ref in count.remote(20)]) == list(range(20))


def test_an_error_in_the_middle_is_the_last_item():
    refs = list(breaks.remote(3))
    assert shoal.get(refs[:3]) == [0, 1, 2] and len(refs) == 4
    with pytest.raises(ValueError, match="broken") as caught:
        shoal.get(refs[3])
    assert "in breaks" in str(caught.value)
    (ref,) = breaks.remote(0)
    with pytest.raises(ValueError):
        shoal.get(ref)
    *_, last = breaks.remote(2, SystemExit)
    with pytest.raises(TaskError):
        shoal.get(last)


def test_an_item_that_cannot_be_pickled_ends_the_generator():
    @shoal.remote
    def bad():
        yield 1
        yield (x for x in "abc")
        yield 3

    first, second = bad.remote()
    assert shoal.get(first) == 1
    with pytest.raises(PicklingError, match="generator"):
        shoal.get(second)


def test_a_wrong_argument_is_the_first_item():
    (ref,) = count.remote(1, 2)
    with pytest.raises(TypeError):
        shoal.get(ref)
    (ref,) = count.remote(same.remote("no number"))
    with pytest.raises(TypeError):
        shoal.get(ref)


def test_a_worker_that_dies_between_two_items():
    @shoal.remote
    def dies(n):
        yield from range(n)
        os.kill(os.getpid(), signal.SIGKILL)

    refs = list(dies.remote(3))
    assert shoal.get(refs[:3]) == [0, 1, 2]
    with pytest.raises(WorkerCrashedError):
        shoal.get(refs[3])


def test_a_worker_that_dies_before_the_first_item_is_replaced(tmp_path):
    @shoal.remote
    def dies():
        if not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield "second attempt"

    assert shoal.get(list(dies.remote())) == ["second attempt"]


def test_an_abandoned_generator_finishes_and_leaves_nothing(tmp_path):
    audit()
    generator = steps.remote(tmp_path, 3)
    (tmp_path / "0").touch()
    first = next(generator)
    del generator
    for i in (1, 2):
        (tmp_path / str(i)).touch()
    assert shoal.get(first) == 0
    del first
    count.remote(100)
    generators = [count.remote(50) for _ in range(10)]
    for generator in generators:
        next(generator)
    del generator, generators
    audit()


def test_items_that_were_taken_and_dropped_are_freed():
    audit()
    for ref in count.remote(500):
        shoal.get(ref)
    del ref
    audit()


def test_a_consumer_that_keeps_up_needs_no_more_memory_than_a_few_items(tmp_path):
    @shoal.remote
    def large():
        for i in range(12):
            yield np.full(1 << 18, i)
            until((tmp_path / str(i)).exists, 60)

    audit()
    before = _core.statistics()["used_bytes"]
    for i, ref in enumerate(large.remote()):
        assert shoal.get(ref)[0] == i
        assert _core.statistics()["used_bytes"] - before < 4 * (1 << 21)
        (tmp_path / str(i)).touch()


def test_a_generator_can_be_cancelled_before_and_after_its_first_items(tmp_path):
    @shoal.remote
    def forever(n):
        for i in range(n):
            yield i
        until((tmp_path / "never").exists, 60)

    for n in (0, 1, 5):
        generator = forever.remote(n)
        refs = [next(generator) for _ in range(n)]
        until(lambda g=generator: shoal.cancel(g) or g.next_ready())
        refs += list(generator)
        assert shoal.get(refs[:n]) == list(range(n)) and len(refs) == n + 1
        with pytest.raises(TaskCancelledError):
            shoal.get(refs[n])


def test_a_generator_that_is_ahead_of_its_reader_can_be_cancelled(tmp_path):
    @shoal.remote
    def ahead(n):
        yield from range(n)
        (tmp_path / "ahead").touch()
        until((tmp_path / "never").exists, 60)

    generator = ahead.remote(50)
    assert shoal.get(next(generator)) == 0
    until((tmp_path / "ahead").exists)
    shoal.cancel(generator)
    *refs, last = generator
    assert shoal.get(refs) == list(range(1, 50))
    with pytest.raises(TaskCancelledError):
        shoal.get(last)


def test_an_endless_generator_can_be_cancelled():
    @shoal.remote
    def endless():
        i = 0
        while True:
            yield i
            i += 1

    generator = endless.remote()
    assert shoal.get([next(generator) for _ in range(3)]) == [0, 1, 2]
    shoal.cancel(generator)
    with pytest.raises(TaskCancelledError):
        shoal.get(generator.completed(), timeout=20)
    del generator
    audit()


def test_completed_is_ready_at_the_end_whether_or_not_items_were_taken(tmp_path):
    generator = steps.remote(tmp_path, 2)
    (tmp_path / "0").touch()
    until(generator.next_ready)
    assert shoal.wait([generator.completed()], timeout=0) == ([], [generator.completed()])
    (tmp_path / "1").touch()
    assert shoal.get(generator.completed(), timeout=20) is None
    assert shoal.get(list(generator)) == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        shoal.get(breaks.remote(3).completed())


def test_async_for(tmp_path):
    async def main():
        got = [await ref async for ref in count.remote(20)]
        assert got == list(range(20))
        got = []
        async for ref in breaks.remote(2):
            try:
                got.append(await ref)
            except ValueError:
                got.append("error")
        assert got == [0, 1, "error"]

        async def drive(generator):
            return [await ref async for ref in generator]

        generators = [steps.remote(tmp_path / str(k), 2) for k in range(2)]
        waiting = [asyncio.ensure_future(drive(generator)) for generator in generators]
        await asyncio.sleep(0)
        for k in (1, 0):
            (tmp_path / str(k)).mkdir()
            for i in range(2):
                (tmp_path / str(k) / str(i)).touch()
        assert await asyncio.gather(*waiting) == [[0, 1], [0, 1]]

    asyncio.run(main())


def test_async_generators_and_generators_in_tasks():
    @shoal.remote
    async def async_count(n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    assert shoal.get(list(async_count.remote(5))) == [0, 1, 2, 3, 4]

    @shoal.remote
    def outer(n):
        return sum(shoal.get(ref) for ref in count.remote(n))

    assert shoal.get(outer.remote(50)) == 1225

    @shoal.remote
    def relay(n):
        for ref in count.remote(n):
            yield shoal.get(ref) * 2

    assert shoal.get(list(relay.remote(20))) == list(range(0, 40, 2))


def test_a_generator_object_can_be_sent_to_a_task():
    @shoal.remote
    def consume(container):
        return [shoal.get(ref) for ref in container[0]]

    assert shoal.get(consume.remote([count.remote(10)])) == list(range(10))


def test_a_generator_with_num_returns_gives_so_many():
    assert shoal.get(count.options(num_returns=3).remote(3)) == [0, 1, 2]
    for ref in count.options(num_returns=3).remote(4):
        with pytest.raises(ValueError, match="num_returns=3"):
            shoal.get(ref)


def test_the_users_finally_runs_when_an_item_cannot_be_stored(tmp_path):
    @shoal.remote
    def careful():
        try:
            yield 1
            yield (x for x in "ab")
        finally:
            (tmp_path / "closed").touch()

    list(careful.remote())
    until((tmp_path / "closed").exists)


# --- dynamic ------------------------------------------------------------------------------------------------


def dynamic(function):
    with pytest.warns(DeprecationWarning, match="streaming"):
        return function.options(num_returns="dynamic")


def test_dynamic_returns_one_reference_to_a_generator_of_references():
    ref = dynamic(count).remote(4)
    assert isinstance(ref, shoal.ObjectRef)
    generator = shoal.get(ref)
    assert isinstance(generator, shoal.DynamicObjectRefGenerator) and len(generator) == 4
    assert [shoal.get(item) for item in generator] == [0, 1, 2, 3]
    assert [shoal.get(item) for item in generator] == [0, 1, 2, 3]  # again
    assert list(shoal.get(dynamic(count).remote(0))) == []


def test_a_dynamic_generator_that_raises_in_the_middle_keeps_what_it_made():
    refs = list(shoal.get(dynamic(breaks).remote(2)))
    assert shoal.get(refs[:2]) == [0, 1] and len(refs) == 3
    with pytest.raises(ValueError, match="broken"):
        shoal.get(refs[2])


def test_dynamic_items_keep_their_objects_through_another_task():
    @shoal.remote
    def arrays():
        for i in range(3):
            yield np.full(10_000, i)

    @shoal.remote
    def total(generator):
        return [float(shoal.get(ref).sum()) for ref in generator]

    ref = dynamic(arrays).remote()
    assert shoal.get(total.remote(ref)) == [0, 10_000, 20_000]
    del ref
    audit()
