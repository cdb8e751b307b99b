"""Many at once: tasks in the queue, threads of the driver, tasks that submit, all at the same time."""

import errno
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import shoal
from conftest import audit, only_worker, stop, until
from shoal import _core

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
def double(x):
    return x * 2


@shoal.remote
def hold(path):
    until(path.exists, 60)


def in_threads(n, work):
    """Runs work(0) ... work(n - 1) in as many threads; raises what one of them raised."""
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(work, range(n)))


def test_a_hundred_thousand_queued_tasks(tmp_path):
    blockers = [hold.remote(tmp_path / "go") for _ in range(2)]
    refs = [double.remote(i) for i in range(100_000)]
    (tmp_path / "go").touch()
    assert sum(shoal.get(refs)) == 99_999 * 100_000
    shoal.get(blockers)
    refs.clear()
    blockers.clear()
    audit()
    assert _core.statistics()["used_bytes"] < 16 << 20


def test_eight_threads_submit_and_get():
    def work(n):
        for k in range(60):
            ref = shoal.put(n)
            assert shoal.get(double.remote(k)) == 2 * k
            assert shoal.get([double.remote(ref) for _ in range(5)]) == [2 * n] * 5
            ready, rest = shoal.wait([double.remote(i) for i in range(4)], num_returns=2)
            assert len(ready) == 2 and len(rest) == 2

    in_threads(8, work)


def test_eight_threads_with_arrays_and_errors():
    @shoal.remote(max_retries=0)
    def check(array, n):
        assert (array == n).all()
        if n % 2:
            raise ValueError(n)
        return array * 2

    def work(n):
        for _ in range(15):
            try:
                assert (shoal.get(check.remote(np.full(50_000, n), n)) == 2 * n).all()
            except ValueError as error:
                assert error.args == (n,)

    in_threads(8, work)


def test_eight_threads_submit_calls_with_large_records():
    """Records of more than a megabyte; while one is made ready, other threads must not submit into it."""

    @shoal.remote
    def count(*values):
        return len(values)

    def work(_):
        for _ in range(5):
            assert shoal.get(count.remote(*[b"x" * 60_000] * 20)) == 20

    in_threads(8, work)


def test_threads_share_references():
    refs = [double.remote(i) for i in range(200)]

    def work(n):
        return sum(shoal.get(refs[n % 3 :: 3])) + sum(shoal.get(ref) for ref in refs[:50])

    results = in_threads(8, work)
    assert results[0] == results[3] == results[6]


def test_one_thread_waits_while_another_works(tmp_path):
    waiting = hold.remote(tmp_path / "go")
    got = []
    thread = threading.Thread(target=lambda: got.append(shoal.get(waiting)))
    thread.start()
    assert shoal.get([double.remote(i) for i in range(100)]) == list(range(0, 200, 2))
    assert got == []
    (tmp_path / "go").touch()
    thread.join(60)
    assert got == [None]


def test_threads_inside_a_task():
    @shoal.remote
    def outer():
        def work(n):
            return shoal.get([double.remote(n * 100 + k) for k in range(20)])

        with ThreadPoolExecutor(4) as pool:
            return sum(sum(part) for part in pool.map(work, range(4)))

    expected = sum(2 * (n * 100 + k) for n in range(4) for k in range(20))
    assert shoal.get([outer.remote() for _ in range(3)]) == [expected] * 3


def test_many_tasks_submit_many_tasks():
    @shoal.remote
    def spread(n):
        return [double.remote(i) for i in range(n)]

    groups = shoal.get([spread.remote(50) for _ in range(40)])
    assert all(shoal.get(group) == list(range(0, 100, 2)) for group in groups)


def test_a_pipeline_of_large_arrays_recycles_its_memory():
    @shoal.remote
    def step(array):
        return array + 1

    audit()
    before = _core.statistics()["used_bytes"]
    refs = [shoal.put(np.zeros(1 << 18)) for _ in range(4)]
    for _ in range(40):
        refs = [step.remote(ref) for ref in refs]
    assert all((array == 40).all() for array in shoal.get(refs))
    del refs
    audit()
    assert _core.statistics()["used_bytes"] - before < 4 << 20


def test_put_and_drop_from_everywhere_at_once():
    @shoal.remote
    def churn(seed):
        rng = np.random.default_rng(seed)
        kept = {}
        for i in range(300):
            kept[int(rng.integers(10))] = (i, shoal.put(np.full(int(rng.integers(1, 20_000)), i)))
        return all((shoal.get(ref) == i).all() for i, ref in kept.values()), [ref for _, ref in kept.values()]

    def work(n):
        good, refs = shoal.get(churn.remote(n))
        assert good and len(shoal.get(refs)) == len(refs)

    in_threads(8, work)


@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 65_537, 1 << 20])
def test_arguments_and_results_around_every_limit(size):
    @shoal.remote
    def same(text, data, array):
        return text, data, array

    text, data, array = shoal.get(same.remote("x" * size, b"y" * size, np.ones(size, np.uint8)))
    assert (len(text), data, array.sum()) == (size, b"y" * size, size)


def workers():
    return [p["pid"] for p in _core.processes() if p["role"] == _core.WORKER]


def test_short_bursts_need_no_more_workers_than_there_are_cpus():
    """A worker that was woken, and does not run yet, is not missed: nobody is forked in its place."""

    def most():
        shoal.shutdown()
        shoal.init(num_cpus=2)
        most = 0
        for _ in range(500):
            shoal.get([double.remote(i) for i in range(100)])
            most = max(most, len(workers()))
        return most

    # It is 2, if none of them is kept off its core for more than a twentieth of a second; the machine may do that now and then.
    assert any(most() <= 4 for _ in range(5))


def test_a_worker_that_does_not_come_is_replaced():
    shoal.shutdown()
    shoal.init(num_cpus=1)
    shoal.get(double.remote(1))
    pid = only_worker()
    try:
        stop(pid)
        assert shoal.get([double.remote(i) for i in range(4)], timeout=60) == [0, 2, 4, 6]
        assert len(workers()) >= 2  # if the second one does not come soon either there is a third
    finally:
        os.kill(pid, signal.SIGCONT)


def test_tasks_that_sleep_spread_over_all_workers_though_there_are_fewer_cores(tmp_path):
    """Nobody is woken at once beyond the number of cores: who sleeps inside its task must not keep the others waiting."""
    shoal.shutdown()
    shoal.init(num_cpus=16)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    present = shoal.Queue()

    @shoal.remote
    def sleeps(present):
        present.put(os.getpid())
        with open(fifo, "rb") as pipe:  # until the driver, too, opens it
            return pipe.read()

    refs = [sleeps.remote(present) for _ in range(16)]
    pids = {present.get(timeout=60) for _ in range(16)}
    assert len(pids) == 16
    assert shoal.get([double.options(num_cpus=0).remote(i) for i in range(3)]) == [0, 2, 4], "and one more is made for these"

    def let_go():
        """All who have opened it; the last of them may only just have said that they are here."""
        try:
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            assert error.errno == errno.ENXIO  # nobody has it open
        return not shoal.wait(refs, num_returns=16, timeout=0)[1]

    until(let_go, 60)
    assert shoal.get(refs) == [b""] * 16


def test_short_tasks_are_done_by_as_many_workers_as_there_are_cores():
    """... and the workers beyond that sleep on: most of the tasks run where the first ones ran."""
    shoal.shutdown()
    shoal.init(num_cpus=32)

    @shoal.remote
    def where():
        return os.getpid()

    def most_by_few():
        shoal.get([where.remote() for _ in range(2000)])  # until all workers are there, and rest
        counts = Counter(shoal.get([where.remote() for _ in range(20_000)]))
        assert sum(counts.values()) == 20_000
        return sum(n for _, n in counts.most_common(8)) > 10_000

    assert any(most_by_few() for _ in range(10))  # other programs may keep the first ones off the cores: then more are woken
    shoal.get([double.remote(i) for i in range(100)])  # whoever went to sleep is not needed for these
