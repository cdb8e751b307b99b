"""Locks, semaphores and events in event loops: they wait without blocking the loop."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from tests.conftest import quiet, until

import shoal
from shoal import _core
from shoal.sync import Event, Semaphore

pytestmark = pytest.mark.usefixtures("session")


async def soon(condition):
    async def poll():
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), 20)


def test_coroutines_of_one_loop_exclude_each_other_in_order():
    lock = shoal.lock()
    order, inside = [], 0

    async def one(i):
        nonlocal inside
        async with lock:
            inside += 1
            assert inside == 1
            order.append(i)
            await asyncio.sleep(0)
            inside -= 1

    async def main():
        await asyncio.gather(*(one(i) for i in range(300)))

    asyncio.run(main())
    assert order == list(range(300)) and not lock.locked()


def test_the_loop_goes_on_while_a_thread_holds_the_lock():
    lock = shoal.lock()
    taken, let_go = threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            let_go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(30)

    async def main():
        task = asyncio.create_task(lock.acquire_async())
        await soon(lambda: lock.statistics()["waiters"] == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        let_go.set()
        assert await asyncio.wait_for(task, 20)
        assert lock.locked()
        lock.release()

    asyncio.run(main())
    thread.join()
    assert not lock.locked()


def test_shared_mode_and_a_writer():
    lock = shoal.lock()

    async def main():
        async with lock.shared(), lock.shared():
            writer = asyncio.create_task(lock.acquire_async())
            await soon(lambda: lock.statistics()["waiters"] == 1)
            reader = asyncio.create_task(lock.shared().acquire_async())
            await soon(lambda: lock.statistics()["waiters"] == 2)
        await asyncio.wait_for(writer, 20)
        assert not reader.done()
        lock.release()
        await asyncio.wait_for(reader, 20)
        lock.shared().release()

    asyncio.run(main())
    assert not lock.locked()
    until(lambda: _core.check() == "")


def test_cancelled_waits_leave_no_trace():
    lock, semaphore, event = shoal.lock(), Semaphore(0), Event()

    async def main():
        await lock.acquire_async()
        waits = [
            lock.acquire_async(),
            lock.acquire_async(),
            lock.shared().acquire_async(),
            semaphore.acquire_async(),
            event.wait_async(),
            event.wait_async(),
        ]
        tasks = [asyncio.create_task(w) for w in waits]
        await soon(lambda: lock.statistics()["waiters"] == 2 and semaphore.statistics()["waiters"] == 1)
        for t in tasks:
            t.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert lock.statistics()["waiters"] == semaphore.statistics()["waiters"] == event.statistics()["waiters"] == 0
        # cancelled in the moment in which it gets what it waits for
        task = asyncio.create_task(semaphore.acquire_async())
        await soon(lambda: semaphore.statistics()["waiters"] == 1)
        semaphore.release()
        await soon(lambda: semaphore.statistics()["waiters"] == 0)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        assert semaphore.statistics()["value"] == (0 if result is True else 1)
        lock.release()

    asyncio.run(main())
    until(lambda: _core.check() == "")


def test_event_reaches_those_who_waited():
    event = Event()

    async def main():
        first = [asyncio.create_task(event.wait_async()) for _ in range(100)]
        await soon(lambda: event.statistics()["waiters"] == 1)  # they share a place
        event.set()
        event.clear()
        second = asyncio.create_task(event.wait_async())
        assert await asyncio.wait_for(asyncio.gather(*first), 20) == [True] * 100
        await soon(lambda: event.statistics()["waiters"] == 1)
        assert not second.done()
        event.set()
        assert await asyncio.wait_for(second, 20)

    asyncio.run(main())


@shoal.remote
class Counter:
    """An asynchronous actor: its methods interleave at each await."""

    async def add(self, lock, array, n):
        for _ in range(n):
            async with lock:
                value = int(array[0])
                await asyncio.sleep(0)
                array[0] = value + 1


@pytest.mark.parametrize("make", [shoal.lock, lambda: Semaphore(1)], ids=["lock", "semaphore"])
def test_between_processes_and_with_threads(make):
    lock = make()
    ref = shoal.put(np.zeros(1, np.int64), mutable=True)
    actors = [Counter.options(max_concurrency=4).remote() for _ in range(2)]
    calls = [a.add.remote(lock, ref, 50) for a in actors for _ in range(4)]
    array = shoal.get(ref)
    for _ in range(200):
        with lock:
            array[0] += 1
    shoal.get(calls)
    assert array[0] == 600
    del actors, calls
    until(lambda: quiet() and _core.check() == "")


def test_a_second_loop_in_the_same_process():
    lock = shoal.lock()
    counts = [0]

    async def run():
        for _ in range(100):
            async with lock:
                value = counts[0]
                await asyncio.sleep(0)
                counts[0] = value + 1

    threads = [threading.Thread(target=lambda: asyncio.run(run())) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert counts == [300]
