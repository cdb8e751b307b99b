"""shoal.util: what has the names of ray.util."""

import asyncio
import itertools
import os
import threading

import pytest

import shoal
import shoal.util.queue
from shoal.exceptions import GetTimeoutError
from shoal.util import ActorPool, as_completed, list_named_actors, map_unordered

pytestmark = pytest.mark.usefixtures("session")


@shoal.remote
class Worker:
    def square(self, x):
        return x * x

    def when(self, gate, x):
        gate.wait(20)
        return x

    def fail(self, x):
        raise KeyError(x)


@shoal.remote
def square(x):
    return x * x


@shoal.remote
def when(gate, x):
    gate.wait(20)
    return x


# -- ActorPool ----------------------------------------------------------------------------------------------


def test_actor_pool_maps_in_order_and_out_of_order():
    pool = ActorPool([Worker.remote(), Worker.remote()])
    assert list(pool.map(lambda actor, x: actor.square.remote(x), range(7))) == [x * x for x in range(7)]
    assert sorted(pool.map_unordered(lambda actor, x: actor.square.remote(x), range(7))) == [x * x for x in range(7)]


def test_actor_pool_gives_the_next_value_to_whoever_is_free():
    pool, gate = ActorPool([Worker.remote(), Worker.remote()]), shoal.sync.Event()
    pool.submit(lambda actor, _: actor.when.remote(gate, "slow"), None)
    for x in range(3):
        pool.submit(lambda actor, x: actor.square.remote(x), x)
    assert sorted(pool.get_next_unordered() for _ in range(3)) == [0, 1, 4]
    assert pool.has_next()
    gate.set()
    assert pool.get_next_unordered() == "slow" and not pool.has_next()
    with pytest.raises(StopIteration):
        pool.get_next()


def test_actor_pool_timeouts_errors_and_changes_of_its_actors():
    first, gate = Worker.remote(), shoal.sync.Event()
    pool = ActorPool([first])
    pool.submit(lambda actor, x: actor.when.remote(gate, x), 1)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0)
    assert not pool.has_free() and pool.pop_idle() is None
    with pytest.raises(ValueError, match="already"):
        pool.push(first)
    gate.set()
    assert pool.get_next() == 1
    pool.submit(lambda actor, x: actor.fail.remote(x), 5)
    with pytest.raises(KeyError):
        pool.get_next()
    assert pool.has_free() and pool.pop_idle() == first
    pool.push(Worker.remote())
    assert list(pool.map(lambda actor, x: actor.square.remote(x), [3])) == [9]


def test_actor_pool_drops_a_call_that_takes_too_long_if_asked():
    pool, gate = ActorPool([Worker.remote()]), shoal.sync.Event()
    pool.submit(lambda actor, x: actor.when.remote(gate, x), 1)
    pool.submit(lambda actor, x: actor.square.remote(x), 2)
    with pytest.raises(GetTimeoutError, match="dropped"):
        pool.get_next(timeout=0, ignore_if_timedout=True)
    gate.set()
    assert pool.get_next() == 4


# -- as_completed, map_unordered ----------------------------------------------------------------------------


def test_as_completed_yields_what_is_done_before_what_is_not():
    gate = shoal.sync.Event()
    results = as_completed([when.remote(gate, "late"), square.remote(3)], chunk_size=1)
    assert next(results) == 9
    gate.set()
    assert list(results) == ["late"]
    refs = [square.remote(i) for i in range(25)]
    assert set(as_completed(refs, yield_obj_refs=True)) == set(refs)


def test_map_unordered_reads_no_further_than_its_results_are_taken():
    read = []

    def endless():
        for i in itertools.count():
            read.append(i)
            yield i

    results = map_unordered(square, endless(), backpressure_size=4, chunk_size=1)
    assert len({next(results) for _ in range(6)}) == 6 and len(read) <= 10
    assert sorted(map_unordered(Worker.remote().square, [1, 2])) == [1, 4]
    assert list(map_unordered(square, [])) == []
    with pytest.raises(TypeError, match="remote function"):
        map_unordered(len, [1])
    with pytest.raises(ValueError):
        map_unordered(square, [1], backpressure_size=0)


# -- the rest -----------------------------------------------------------------------------------------------


def test_queue_is_shoals_own():
    queue = shoal.util.queue.Queue(maxsize=2)
    queue.put_nowait_batch([1, 2])
    with pytest.raises(shoal.util.queue.Full):
        queue.put(3, timeout=0)

    @shoal.remote
    def take(queue):
        return [queue.get(), queue.get()]

    assert shoal.get(take.remote(queue)) == [1, 2]
    with pytest.raises(shoal.util.queue.Empty):
        queue.get(block=False)

    async def both():
        await queue.put_async(4)
        return await queue.get_async(timeout=20)

    assert asyncio.run(both()) == 4


def test_named_actors_are_listed():
    keep = Worker.options(name="listed").remote()
    other = Worker.options(name="elsewhere", namespace="other").remote()
    assert list_named_actors() == ["listed"]
    assert {"name": "elsewhere", "namespace": "other"} in list_named_actors(all_namespaces=True)
    del keep, other


def test_what_is_absent_says_what_to_use_instead():
    from shoal.util.placement_group import placement_group

    with pytest.raises(NotImplementedError, match="placement groups"):
        placement_group([{"CPU": 1}])
    assert shoal.util.placement_group is placement_group
    for name, hint in [("metrics", "shoal.Counter"), ("collective", "Barrier"), ("state", "list_named_actors")]:
        with pytest.raises(AttributeError, match=hint):
            getattr(shoal.util, name)
    for name in ("timeline", "data", "tune"):
        with pytest.raises(AttributeError, match="Ray"):
            getattr(shoal, name)
    assert not hasattr(shoal, "no_such_name")


# -- Pool ---------------------------------------------------------------------------------------------------


def test_pool_does_what_the_standard_librarys_does():
    offset = 3
    with shoal.util.multiprocessing.Pool(2) as pool:
        assert pool.map(lambda x: x + offset, range(20)) == list(range(3, 23))
        assert pool.map(abs, []) == []
        assert pool.starmap(divmod, [(7, 2), (9, 4)], chunksize=1) == [(3, 1), (2, 1)]
        assert pool.apply(sorted, ([2, 1],), {"reverse": True}) == [2, 1]
        assert list(pool.imap(abs, [-1, -2, -3], chunksize=2)) == [1, 2, 3]
        assert sorted(pool.imap_unordered(abs, [-1, -2, -3])) == [1, 2, 3]
        result = pool.map_async(abs, [-1, -2])
        result.wait()
        assert result.ready() and result.successful() and result.get() == [1, 2]
        assert pool.starmap_async(divmod, [(7, 2)]).get(timeout=20) == [(3, 1)]
    with pytest.raises(ValueError, match="closed"):
        pool.map(abs, [1])


def test_pool_reads_the_input_of_imap_as_results_are_taken():
    read = []

    def endless():
        for i in itertools.count():
            read.append(i)
            yield i

    with shoal.util.multiprocessing.Pool(2) as pool:
        results = pool.imap(abs, endless())
        assert [next(results) for _ in range(5)] == list(range(5)) and len(read) <= 10


def test_pool_initializes_each_process_and_replaces_it_after_its_work():
    def setup(value):
        os.environ["POOL_TEST"] = value

    with shoal.util.multiprocessing.Pool(2, setup, ["ready"], maxtasksperchild=1) as pool:
        seen = pool.map(lambda _: (os.environ.get("POOL_TEST"), os.getpid()), range(4), chunksize=1)
    assert {value for value, _ in seen} == {"ready"} and len({pid for _, pid in seen}) == 4


def test_pool_tells_of_errors_timeouts_and_calls_back():
    def fail(x):
        raise KeyError(x)

    gate, told, came = shoal.sync.Event(), [], threading.Event()
    with shoal.util.multiprocessing.Pool(1) as pool:
        with pytest.raises(KeyError):
            pool.map(fail, [1])
        result = pool.apply_async(fail, (1,), error_callback=lambda error: (told.append(error), came.set()))
        assert came.wait(20) and isinstance(told[0], KeyError) and not result.successful()
        assert pool.apply_async(abs, (-5,), callback=told.append).get() == 5 and told[1] == 5
        late = pool.apply_async(lambda gate: gate.wait(20), (gate,))
        with pytest.raises(shoal.util.multiprocessing.TimeoutError):
            late.get(timeout=0)
        with pytest.raises(ValueError, match="not ready"):
            late.successful()
        gate.set()
        assert late.get() is True
        with pytest.raises(ValueError, match="open"):
            pool.join()
        pool.close()
        pool.join()
    for wrong in [{"processes": 0}, {"maxtasksperchild": 0}]:
        with pytest.raises(ValueError):
            shoal.util.multiprocessing.Pool(**wrong)
    with pytest.raises(TypeError):
        shoal.util.multiprocessing.Pool(1, initializer=5)
