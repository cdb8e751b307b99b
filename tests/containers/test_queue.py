"""Queue: order, bounds, blocking, batches, event loops, and what is left when a producer or consumer is killed."""

import asyncio
import os
import signal
import threading

import numpy as np
import pytest

import shoal
from conftest import at_rest, quiet, run_python, until
from shoal import _core

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module", autouse=True)
def whole_arena(session):
    yield
    until(lambda: quiet() and _core.check() == "")


def test_first_in_first_out_of_all_kinds_of_values():
    queue = shoal.Queue()
    values = [1, "two", b"3", None, {"four": [4]}, (5, 6), 7.5]
    for value in values:
        queue.put(value)
    assert len(queue) == queue.qsize() == queue.size() == len(values)
    assert [queue.get() for _ in values] == values
    assert queue.empty()


def test_arrays_come_out_as_views_without_a_copy():
    queue = shoal.Queue()
    queue.put(np.arange(100_000))
    array = queue.get()
    assert not array.flags.writeable and not array.flags.owndata and array[-1] == 99_999


def test_bounds_and_time_limits():
    queue = shoal.Queue(maxsize=2)
    queue.put_batch([1, 2])
    assert queue.full()
    with pytest.raises(shoal.containers.Full):
        queue.put_nowait(3)
    with pytest.raises(shoal.containers.Full):
        queue.put(3, timeout=0.01)
    with pytest.raises(shoal.containers.Full) as caught:
        shoal.Queue(maxsize=2).put_batch([1, 2, 3], block=False)
    assert caught.value.done == 2
    with pytest.raises(shoal.containers.Full):
        queue.put_nowait_batch([3])
    assert queue.get_batch(10) == [1, 2]
    with pytest.raises(shoal.containers.Empty):
        queue.get_nowait()
    with pytest.raises(shoal.containers.Empty):
        queue.get(timeout=0.01)
    with pytest.raises(shoal.containers.Empty):
        queue.get_nowait_batch(1)
    assert queue.statistics() == {"length": 0, "maxsize": 2, "put": 2}


def test_a_queue_without_limit_grows():
    queue = shoal.Queue()
    queue.put_batch(range(50_000))
    assert queue.get_batch(100_000) == list(range(50_000))


def test_growing_while_the_oldest_item_lies_anywhere():
    queue = shoal.Queue()
    queue.put_batch(range(60))
    assert queue.get_batch(30) == list(range(30))
    queue.put_batch(range(60, 1000))
    assert queue.get_batch(2000) == list(range(30, 1000))


def test_producers_and_consumers_in_several_processes():
    @shoal.remote(num_cpus=0)
    def produce(queue, start, n):
        for i in range(start, start + n):
            queue.put(i)

    @shoal.remote(num_cpus=0)
    def consume(queue, n):
        return [queue.get() for _ in range(n)]

    queue = shoal.Queue(maxsize=7)
    consumers = [consume.remote(queue, 500) for _ in range(2)]
    producers = [produce.remote(queue, 1000 * k, 500) for k in range(2)]
    taken = shoal.get(consumers, timeout=60)
    shoal.get(producers, timeout=60)
    assert sorted(taken[0] + taken[1]) == [*range(500), *range(1000, 1500)]
    for part in taken:  # each producer's items keep their order
        for low in (0, 1000):
            mine = [x for x in part if low <= x < low + 500]
            assert mine == sorted(mine)


def test_by_name_in_objects_and_as_arguments():
    queue = shoal.Queue(name="test_by_name")
    assert shoal.Queue(name="test_by_name")._ref == queue._ref

    @shoal.remote
    def work(box):
        box["queue"].put("from the task")
        shoal.Queue(name="test_by_name").put("by name")

    shoal.get(work.remote({"queue": queue}))
    assert queue.get_batch(2) == ["from the task", "by name"]
    queue.shutdown()


def test_event_loops_do_other_things_meanwhile():
    async def main():
        queue = shoal.Queue(maxsize=1)

        async def put():
            for i in range(20):
                await queue.put_async(i)

        async def get():
            return [await queue.get_async() for _ in range(20)]

        _, out = await asyncio.gather(put(), get())
        with pytest.raises(shoal.containers.Empty):
            await queue.get_async(timeout=0.01)
        return out

    assert asyncio.run(main()) == list(range(20))


def test_a_waiting_thread_gets_what_another_thread_puts():
    queue = shoal.Queue()
    got = []
    thread = threading.Thread(target=lambda: got.append(queue.get(timeout=30)))
    thread.start()
    queue.put("here")
    thread.join(30)
    assert got == ["here"]


def test_what_was_put_survives_its_producer_and_is_taken_once():
    @shoal.remote(max_retries=0, num_cpus=0)
    def produce(queue, acknowledged):
        i = 0
        while True:
            queue.put(i)
            acknowledged.value = i + 1
            i += 1

    @shoal.remote
    class Consumer:
        def pid(self):
            return os.getpid()

        def consume(self, queue, taken):
            for _ in range(50_000):  # some are left, however late the signal comes
                value = queue.get()
                taken.value = value + 1
            threading.Event().wait()

    for _ in range(5):
        queue, acknowledged = shoal.Queue(), shoal.Counter()
        ref = produce.remote(queue, acknowledged)
        until(lambda counter=acknowledged: counter.value > 100)
        shoal.cancel(ref, force=True)
        with pytest.raises((shoal.exceptions.TaskCancelledError, shoal.exceptions.WorkerCrashedError)):
            shoal.get(ref, timeout=30)
        length = len(queue)
        assert length - acknowledged.value in (0, 1)  # at most the one put when it was killed
        assert queue.get_batch(length) == list(range(length))

        queue.put_batch(range(100_000))
        consumer, taken = Consumer.remote(), shoal.Counter()
        pid = shoal.get(consumer.pid.remote())
        ref = consumer.consume.remote(queue, taken)
        until(lambda counter=taken: counter.value > 100)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(shoal.exceptions.ActorDiedError):
            shoal.get(ref, timeout=30)
        first = queue.get()
        assert first - taken.value in (0, 1)
        rest = queue.get_batch(100_000)
        assert rest == list(range(first + 1, 100_000))


def test_a_coroutine_that_waits_is_told_of_the_end_of_the_session():
    done = run_python(
        """
        import asyncio, shoal
        shoal.init(num_cpus=1)

        async def main():
            waiting = asyncio.create_task(shoal.Queue().get_async())
            await asyncio.sleep(0)
            shoal.shutdown()
            await waiting

        try:
            asyncio.run(main())
        except shoal.exceptions.SessionEndedError:
            print("told")
        """
    )
    assert done.stdout.split() == ["told"], done.stderr


def test_a_queue_full_of_objects_gives_them_back():
    until(at_rest)
    before = _core.statistics()["objects"]
    queue = shoal.Queue()
    queue.put_batch([np.ones(1000) for _ in range(100)])
    inner = shoal.Queue()
    inner.put(queue)
    del queue, inner
    assert _core.statistics()["objects"] == before


def test_bad_arguments():
    with pytest.raises(TypeError, match="integer"):
        shoal.Queue(maxsize="3")
    with pytest.raises(ValueError, match="name"):
        shoal.Queue(name="")
    with pytest.raises(shoal.exceptions.PicklingError):
        shoal.Queue().put(threading.Lock())
