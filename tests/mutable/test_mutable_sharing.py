"""Mutable objects: everybody looks at the same memory, however the reference came to them."""

import gc
import os
import signal
import threading

import numpy as np
import pytest

import shoal
from conftest import until
from shoal import _core
from shoal.exceptions import ActorDiedError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
class Holder:
    def __init__(self, *arrays):
        self.arrays = list(arrays)

    def take(self, array):
        self.arrays.append(array)

    def open(self, box):
        self.arrays.append(shoal.get(box[0]))

    def write(self, which, where, what):
        self.arrays[which][where] = what

    def read(self, which, where):
        return float(self.arrays[which][where])

    def writable(self):
        return [a.flags.writeable for a in self.arrays]

    def pid(self):
        return os.getpid()


@shoal.remote
def write(array, where, what):
    array[where] = what
    return array.flags.writeable


def test_as_a_direct_argument_it_arrives_writable():
    ref = shoal.put(np.zeros(10), mutable=True)
    assert shoal.get(write.remote(ref, 0, 1.0)) is True
    holder = Holder.remote(ref)
    shoal.get([holder.take.remote(ref), holder.write.remote(0, 1, 2.0), holder.write.remote(1, 2, 3.0)])
    assert shoal.get(holder.writable.remote()) == [True, True]

    @shoal.remote
    def by_keyword(*, array):
        array[3] = 4.0

    shoal.get(by_keyword.remote(array=ref))
    assert shoal.get(ref)[:4].tolist() == [1, 2, 3, 4]


def test_an_immutable_object_stays_read_only_everywhere():
    ref = shoal.put(np.zeros(10_000))
    with pytest.raises(ValueError, match="read-only"):
        shoal.get(write.remote(ref, 0, 1.0))
    with pytest.raises(ValueError, match="read-only"):
        shoal.get(ref)[0] = 1
    holder = Holder.remote(ref)
    assert shoal.get(holder.writable.remote()) == [False]
    assert shoal.get(ref).sum() == 0


def test_changes_are_seen_at_once_by_everybody():
    ref = shoal.put(np.zeros(3, np.int64), mutable=True)
    mine = shoal.get(ref)
    holders = [Holder.remote(ref) for _ in range(3)]
    for round_ in range(5):
        for i, holder in enumerate(holders):
            shoal.get(holder.write.remote(0, i, round_ + i))
            assert mine[i] == round_ + i
            assert [shoal.get(other.read.remote(0, i)) for other in holders] == [round_ + i] * 3
    mine[:] = 7
    assert shoal.get([holder.read.remote(0, 2) for holder in holders]) == [7, 7, 7]


def test_a_loop_in_another_process_sees_a_change_without_any_call():
    ref = shoal.put(np.zeros(2, np.int64), mutable=True)
    mine = shoal.get(ref)

    @shoal.remote
    def ping(array):
        array[0] = 1
        while array[1] == 0:  # ended by the driver, below
            os.sched_yield()
        return int(array[1])

    pong = ping.remote(ref)
    until(lambda: mine[0] == 1)
    mine[1] = 42
    assert shoal.get(pong) == 42


def test_through_closures_results_and_other_objects():
    ref = shoal.put(np.zeros(5), mutable=True)

    @shoal.remote
    def pass_on(box):
        return {"again": box[0]}

    again = shoal.get(pass_on.remote([ref]))["again"]
    assert again == ref
    boxed = shoal.put([ref])
    shoal.get(write.remote(shoal.get(boxed)[0], 1, 2.0))
    shoal.get(again)[0] = 1
    assert shoal.get(ref)[:2].tolist() == [1, 2]


def test_a_task_returns_a_mutable_object_by_reference():
    @shoal.remote
    def make(n):
        return [shoal.put(np.zeros(n), mutable=True)]

    (ref,) = shoal.get(make.remote(4))
    shoal.get(write.remote(ref, 3, 1.0))
    assert shoal.get(ref).tolist() == [0, 0, 0, 1]
    with shoal.lock(ref):
        shoal.get(ref)[:] = 0


def test_returning_the_array_itself_makes_a_copy():
    ref = shoal.put(np.zeros(10_000), mutable=True)

    @shoal.remote
    def same(array):
        return array

    copy = shoal.get(same.remote(ref))
    assert not copy.flags.writeable
    shoal.get(ref)[0] = 5
    assert copy[0] == 0


def test_views_outlive_the_reference():
    view = shoal.get(shoal.put(np.arange(10_000), mutable=True))
    part = view[100:200]
    del view
    gc.collect()
    part += 1
    assert part[0] == 101
    keep = [shoal.get(shoal.put(np.full(1000, i), mutable=True)) for i in range(50)]
    assert [int(a[5]) for a in keep] == list(range(50))


def test_the_memory_is_given_back_with_the_last_view():
    before = _core.statistics()["objects"]
    ref = shoal.put(np.zeros(10_000), mutable=True)
    holder = Holder.remote(ref)
    shoal.get(holder.pid.remote())
    del ref
    assert shoal.get(holder.read.remote(0, 5)) == 0
    shoal.kill(holder)
    del holder
    until(lambda: _core.statistics()["objects"] <= before + 1)  # a function may have been exported


def test_what_a_dying_process_has_written_stays():
    ref = shoal.put(np.zeros(3), mutable=True)

    @shoal.remote(max_retries=0)
    def write_and_die(array):
        array[0] = 1
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerCrashedError):
        shoal.get(write_and_die.remote(ref))
    holder = Holder.remote(ref)
    shoal.get(holder.write.remote(0, 1, 2.0))
    shoal.kill(holder)
    with pytest.raises(ActorDiedError):
        shoal.get(holder.pid.remote())
    assert shoal.get(ref).tolist() == [1, 2, 0]
    with shoal.lock(ref):  # which nobody held
        pass


def test_each_writes_its_own_slice():
    n, parts = 100_000, 8
    ref = shoal.put(np.zeros(n, np.int64), mutable=True)

    @shoal.remote
    def fill(array, part):
        size = len(array) // parts
        array[part * size : (part + 1) * size] = part

    shoal.get([fill.remote(ref, part) for part in range(parts)])
    assert (shoal.get(ref) == np.repeat(np.arange(parts), n // parts)).all()


def test_threads_get_and_drop_the_same_object():
    ref = shoal.put(np.zeros(1000, np.int64), mutable=True)
    failures = []

    def work(i):
        try:
            for _ in range(200):
                view = shoal.get(ref)
                view[i] += 1
                del view
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert shoal.get(ref)[:7].tolist() == [200] * 6 + [0]


def test_async_actors_and_generators_share_too():
    @shoal.remote
    class Async:
        async def add(self, box):
            view = shoal.get(box[0])
            async_view = await box[0]
            view[0] += 1
            async_view[0] += 1
            return view.flags.writeable and async_view.flags.writeable

        async def counts(self, box):
            for _ in range(3):
                (await box[0])[1] += 1
                yield float((await box[0])[1])

    ref = shoal.put(np.zeros(3), mutable=True)
    actor = Async.remote()
    assert shoal.get(actor.add.remote([ref])) is True
    assert [shoal.get(item) for item in actor.counts.remote([ref])] == [1, 2, 3]
    assert shoal.get(ref)[:2].tolist() == [2, 3]


def test_after_shutdown_the_array_can_still_be_read():
    from conftest import run_python

    result = run_python("""
        import numpy as np, shoal
        shoal.init(num_cpus=1)
        ref = shoal.put(np.arange(100_000), mutable=True)
        view = shoal.get(ref)
        shoal.shutdown()
        view[0] = 7
        print(view[0], view.sum())
        try:
            shoal.get(ref)
        except shoal.exceptions.SessionEndedError as error:
            print(type(error).__name__)
    """)
    assert result.stdout.split() == ["7", str(7 + 99999 * 50000), "SessionEndedError"], result.stderr
