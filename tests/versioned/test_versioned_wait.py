"""Waiting for a newer version: sleeping, spinning, with a time limit, and in an event loop."""

import asyncio
import threading
import time

import pytest

import shoal
from conftest import quiet, run_python, until
from shoal import Versioned, _core

pytestmark = pytest.mark.usefixtures("session")


def test_a_newer_version_that_is_there_is_not_waited_for():
    v = Versioned(0)
    v.set(1)
    assert v.wait(0) == 1
    assert v.wait(newer_than=0, timeout=0) == 1
    v.set(2)
    assert v.wait(0) == 2


def test_the_time_limit():
    v = Versioned(0)
    assert v.wait(timeout=0) is None
    start = time.monotonic()
    assert v.wait(timeout=0.05) is None
    assert 0.05 <= time.monotonic() - start < 5
    assert v.wait(newer_than=7, timeout=0.01) is None
    with pytest.raises(ValueError, match="negative"):
        v.wait(timeout=-1)
    with pytest.raises(TypeError, match="version"):
        v.wait("x")


def test_another_process_wakes_the_waiter_each_time():
    @shoal.remote
    class Echo:
        def run(self, ask, answer, n):
            version = 0
            for _ in range(n):
                version = ask.wait(version)
                answer.set(ask.get())

    ask, answer = Versioned(None), Versioned(None)
    call = Echo.remote().run.remote(ask, answer, 1000)
    for n in range(1000):
        ask.set(n)
        assert answer.wait(n) == n + 1
        assert answer.get() == n
    shoal.get(call)


def test_all_who_wait_are_woken():
    @shoal.remote
    def wait(v):
        return v.wait(0, timeout=60)

    v = Versioned(0)
    calls = [wait.remote(v) for _ in range(4)]
    threads = [threading.Thread(target=v.wait, args=(0,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    v.set(1)
    assert shoal.get(calls) == [1] * 4
    for thread in threads:
        thread.join()


def test_a_waiting_task_lends_its_cpu():
    @shoal.remote
    def wait(v):
        return v.wait(0)

    @shoal.remote
    def publish(v):
        return v.set("x")

    v = Versioned(0)
    calls = [wait.remote(v) for _ in range(6)]  # more than there are CPUs
    assert shoal.get(publish.remote(v)) == 1
    assert shoal.get(calls) == [1] * 6


def test_no_version_is_waited_for_in_vain():
    @shoal.remote
    def publish(v, n):
        for i in range(n):
            v.set(i)

    v = Versioned(None)
    call = publish.remote(v, 3000)
    version = 0
    while version < 3000:
        newer = v.wait(version, timeout=60)
        assert newer is not None and newer > version
        version = newer
    shoal.get(call)


def test_event_loops_wait_too():
    async def main():
        v = Versioned(0)
        task = asyncio.create_task(v.wait_async(0))
        other = asyncio.create_task(v.wait_async())
        cancelled = asyncio.create_task(v.wait_async(0))
        await asyncio.sleep(0)
        assert not task.done()
        cancelled.cancel()

        @shoal.remote
        def publish(v):
            v.set("x")

        await publish.remote(v)
        assert await asyncio.wait_for(asyncio.gather(task, other), 20) == [1, 1]
        assert await v.wait_async(0) == 1
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(TypeError):
            await v.wait_async("x")
        return True

    assert asyncio.run(main())


def test_a_loop_follows_a_writer():
    @shoal.remote
    def publish(v, n):
        for i in range(n):
            v.set(i)

    async def main():
        v = Versioned(None)
        call = publish.remote(v, 1000)
        version = 0
        while version < 1000:
            version = await asyncio.wait_for(v.wait_async(version), 30)
        await call
        return v.get()

    assert asyncio.run(main()) == 999


def test_await_and_the_time_limit_of_an_event_loop():
    async def main():
        v = Versioned(0)
        assert await v.wait_async(timeout=0) is None
        start = time.monotonic()
        assert await v.wait_async(newer_than=0, timeout=0.02) is None
        assert time.monotonic() - start >= 0.02

        async def next_version():
            return await v

        task = asyncio.create_task(next_version())
        await asyncio.sleep(0)
        v.set(1)
        assert await asyncio.wait_for(task, 20) == 1
        return await v.wait_async(newer_than=0, timeout=20)

    assert asyncio.run(main()) == 1


def test_who_waits_is_told_of_the_end_of_the_session():
    done = run_python(
        """
        import asyncio, threading, shoal
        shoal.init(num_cpus=1)
        v = shoal.Versioned(0)

        def wait():
            try:
                v.wait()
            except shoal.exceptions.SessionEndedError:
                print("thread")

        async def main():
            waiting = asyncio.create_task(v.wait_async())
            thread = threading.Thread(target=wait)
            thread.start()
            await asyncio.sleep(0)
            shoal.shutdown()
            thread.join()
            await waiting

        try:
            asyncio.run(main())
        except shoal.exceptions.SessionEndedError:
            print("loop")
        """
    )
    assert done.stdout.split() == ["thread", "loop"], done.stderr


def test_nothing_is_left():
    until(lambda: quiet() and _core.check() == "")
