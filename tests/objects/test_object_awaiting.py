"""References in event loops (`await`) and as `concurrent.futures`."""

import asyncio
import concurrent.futures
import os
import threading
import time

import numpy as np
import pytest

import shoal
from conftest import audit, until
from shoal import _futures
from shoal.exceptions import TaskError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
def double(x):
    return x * 2


@shoal.remote
def hold(path, value=None):
    until(path.exists, 60)
    return value


@shoal.remote
def fail(error):
    raise error


def test_await():
    async def main():
        assert await shoal.put(1) == 1
        assert await double.remote(4) == 8
        assert await asyncio.gather(*[double.remote(i) for i in range(300)]) == list(range(0, 600, 2))
        ref = double.remote(5)
        assert [await ref, await ref] == [10, 10]
        view = await double.remote(np.ones(10_000))
        assert not view.flags.writeable and view.sum() == 20_000

    asyncio.run(main())


def test_await_lets_the_loop_go_on(tmp_path):
    async def main():
        ref = hold.remote(tmp_path / "go", "held")
        waiting = asyncio.ensure_future(ref.as_future())
        for _ in range(3):
            await asyncio.sleep(0)
            assert not waiting.done()
        (tmp_path / "go").touch()
        return await waiting

    assert asyncio.run(main()) == "held"


def test_exceptions_arrive_as_their_own_type():
    async def main():
        for error in (
            ValueError("v"),
            KeyError("k"),
            StopIteration("s"),
            StopAsyncIteration("a"),
            OSError(2, "o"),
        ):
            kind = type(error) if not isinstance(error, StopIteration) else RuntimeError
            with pytest.raises(kind):
                await fail.remote(error)
        for error in (SystemExit(3), KeyboardInterrupt()):
            with pytest.raises(TaskError):
                await fail.options(max_retries=0).remote(error)
        results = await asyncio.gather(fail.remote(ValueError(1)), double.remote(1), return_exceptions=True)
        assert isinstance(results[0], ValueError) and results[1] == 2

    asyncio.run(main())


def test_asyncio_tools_take_references(tmp_path):
    async def main():
        slow, quick = hold.remote(tmp_path / "go", "slow"), double.remote(1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slow, timeout=0.05)
        done, pending = await asyncio.wait(
            [asyncio.ensure_future(slow), asyncio.ensure_future(quick)], return_when=asyncio.FIRST_COMPLETED
        )
        assert [d.result() for d in done] == [2] and len(pending) == 1
        (tmp_path / "go").touch()
        assert await asyncio.wait_for(slow, timeout=60) == "slow"
        assert await next(iter(pending)) == "slow"
        got = [await f for f in asyncio.as_completed([double.remote(i).as_future() for i in range(5)])]
        assert sorted(got) == [0, 2, 4, 6, 8]

    asyncio.run(main())


def test_a_task_that_waits_can_be_cancelled_and_lets_go_of_the_reference(tmp_path):
    async def main():
        ref = hold.remote(tmp_path / "go")

        async def wait():
            await ref

        waiters = [asyncio.create_task(wait()) for _ in range(10)]
        await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert all(isinstance(r, asyncio.CancelledError) for r in results)
        (tmp_path / "go").touch()
        assert await ref is None
        del ref, wait, waiters, results, waiter
        await asyncio.to_thread(audit)  # the loop goes on: it is in it that what nobody awaits any more is dropped

    audit()
    asyncio.run(main())


def test_a_wait_that_is_given_up_again_and_again_leaves_no_list_of_them(tmp_path):
    async def main():
        ref = hold.remote(tmp_path / "go")
        for _ in range(1000):
            waits = asyncio.ensure_future(wait(ref))
            await asyncio.sleep(0)
            waits.cancel()
            await asyncio.wait([waits])
        (waiter,) = (waiter for loop, waiter in _futures._waiters.items() if loop is asyncio.get_running_loop())
        assert len(waiter._refs) <= 70
        (tmp_path / "go").touch()
        assert await ref is None

    async def wait(ref):
        await ref

    asyncio.run(main())


def test_what_a_closed_loop_still_awaited_is_forgotten_when_another_one_awaits(tmp_path):
    """Also if what that awaits is done already."""

    async def main(ref, limit):
        return await asyncio.wait_for(asyncio.ensure_future(wait(ref)), limit)

    async def wait(ref):
        return await ref

    done = double.remote(1)
    assert shoal.get(done) == 2
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main(hold.remote(tmp_path / "go"), 0.05))
    (tmp_path / "go").touch()
    assert asyncio.run(main(done, 30)) == 2
    del done
    audit()


def test_one_loop_after_another_leaves_no_threads_and_no_descriptors():
    async def main(i):
        return await double.remote(hold.remote(gone, i))

    class Gone:
        def exists(self):
            return True

    gone = Gone()
    asyncio.run(main(0))
    threads, descriptors = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
    for i in range(20):
        assert asyncio.run(main(i)) == 2 * i
    assert len(os.listdir("/proc/self/task")) <= threads + 1
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 3


def test_loops_in_several_threads():
    async def main(n):
        return sum(await asyncio.gather(*[double.remote(i) for i in range(n)]))

    results = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: asyncio.run(main(n))})) for n in range(40, 48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: n * (n - 1) for n in range(40, 48)}


def test_await_inside_a_task():
    @shoal.remote(num_cpus=0)  # a get() gives the CPU to others while it waits; an await does not, as in Ray
    def outer(n):
        async def main():
            return sum(await asyncio.gather(*[double.remote(i) for i in range(n)]))

        return asyncio.run(main())

    assert shoal.get([outer.remote(20), outer.remote(30)]) == [380, 870]


# --- concurrent.futures -------------------------------------------------------------------------------------


def test_future(tmp_path):
    assert shoal.put("x").future().result() == "x"
    future = hold.remote(tmp_path / "go", 7).future()
    assert isinstance(future, concurrent.futures.Future)
    assert not future.done()
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.05)
    (tmp_path / "go").touch()
    assert future.result(timeout=60) == 7 and future.done()


def test_future_callbacks_and_tools():
    called = threading.Event()
    future = double.remote(3).future()
    future.add_done_callback(lambda f: called.set() if f.result() == 6 else None)
    assert called.wait(60)
    futures = [double.remote(i).future() for i in range(100)]
    done, rest = concurrent.futures.wait(futures, timeout=60)
    assert not rest and sorted(f.result() for f in done) == list(range(0, 200, 2))
    futures = {double.remote(i).future(): i for i in range(20)}
    assert all(f.result() == 2 * futures[f] for f in concurrent.futures.as_completed(futures, timeout=60))
    assert isinstance(fail.remote(ValueError("v")).future().exception(timeout=60), ValueError)
    with pytest.raises(ValueError):
        fail.remote(ValueError("v")).future().result(timeout=60)


def test_futures_keep_their_object_and_let_it_go(tmp_path):
    audit()
    future = hold.remote(tmp_path / "go", np.ones(10_000)).future()
    (tmp_path / "go").touch()
    assert future.result(60).sum() == 10_000
    del future
    audit()
    with pytest.raises(ValueError):
        fail.remote(ValueError("v")).future().result(timeout=60)
    audit()


def test_a_future_in_an_event_loop(tmp_path):
    async def main():
        wrapped = asyncio.wrap_future(hold.remote(tmp_path / "go", 1).future())
        (tmp_path / "go").touch()
        return await wrapped

    assert asyncio.run(main()) == 1


def test_get_works_inside_a_coroutine():
    async def main():
        return shoal.get([double.remote(1), double.remote(2)])

    assert asyncio.run(main()) == [2, 4]


def test_awaiting_ten_thousand_takes_no_quadratic_time():
    async def main(n):
        start = time.perf_counter()
        assert len(await asyncio.gather(*[double.remote(i) for i in range(n)])) == n
        return time.perf_counter() - start

    asyncio.run(main(100))
    assert asyncio.run(main(10_000)) < 30
