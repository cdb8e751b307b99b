"""Resources limit what runs at a time, exactly; and a task that waits lends its CPU to others."""

import os

import pytest

import shoal
from conftest import audit, run_python, until
from shoal import _core


@pytest.fixture(scope="module", autouse=True)
def session():
    shoal.init(num_cpus=2, num_gpus=2, resources={"license": 3, "odd/name ü": 1.5})
    yield
    audit()
    shoal.shutdown()


class Gauge:
    """Counts in shared memory how many tasks run at a time; without a lock, as who waits for one lends out its CPU."""

    def __init__(self):
        self.now, self.highest = shoal.Counter(), shoal.Counter()

    def __enter__(self):
        now = self.now.add(1)
        while now > (highest := self.highest.value):
            self.highest.compare_exchange(highest, now)

    def __exit__(self, *_):
        self.now.add(-1)

    @property
    def most(self):
        return self.highest.value


@shoal.remote
def meet(gauge, wanted):
    """Stays until `wanted` are there at a time, or for a moment if they never are."""
    with gauge:
        try:
            until(lambda: gauge.most >= wanted, 0.1 if wanted == 99 else 20)
        except AssertionError:
            pass


@pytest.mark.parametrize(
    ("demand", "at_a_time"),
    [
        ({}, 2),
        ({"num_cpus": 2}, 1),
        ({"num_cpus": 1.5}, 1),
        ({"num_cpus": 0.5}, 4),
        ({"num_cpus": 1 / 3}, 6),
        ({"num_cpus": 0, "num_gpus": 1}, 2),
        ({"num_cpus": 0, "num_gpus": 0.5}, 4),
        ({"num_cpus": 0, "resources": {"license": 1}}, 3),
        ({"num_cpus": 0, "resources": {"license": 2}}, 1),
        ({"num_cpus": 0, "resources": {"odd/name ü": 0.3}}, 5),
        ({"num_cpus": 1, "resources": {"license": 3}}, 1),
        ({"num_cpus": 0.1, "num_gpus": 0.4, "resources": {"license": 0.7}}, 4),
    ],
    ids=str,
)
def test_exactly_so_many_run_at_a_time(demand, at_a_time):
    gauge = Gauge()
    refs = [meet.options(**demand).remote(gauge, at_a_time) for _ in range(at_a_time + 2)]
    shoal.get(refs)
    assert gauge.most == at_a_time
    gauge = Gauge()
    shoal.get([meet.options(**demand).remote(gauge, 99) for _ in range(at_a_time + 1)])
    assert gauge.most <= at_a_time


def test_memory_limits_too():
    total = shoal.cluster_resources()["memory"]
    gauge = Gauge()
    shoal.get([meet.options(num_cpus=0, memory=int(total / 2.5)).remote(gauge, 2) for _ in range(4)])
    assert gauge.most == 2


def test_no_cpus_means_no_limit():
    gauge = Gauge()
    shoal.get([meet.options(num_cpus=0).remote(gauge, 8) for _ in range(10)])
    assert gauge.most >= 8


def test_tasks_that_wait_for_each_other_need_no_cpu(tmp_path):
    """Each sees the others' files before it ends: they must all run at the same time."""

    @shoal.remote(num_cpus=0)
    def gather(i, n):
        (tmp_path / str(i)).touch()
        until(lambda: all((tmp_path / str(k)).exists() for k in range(n)), 60)
        return i

    assert shoal.get([gather.remote(i, 12) for i in range(12)]) == list(range(12))


def test_different_demands_do_not_starve_each_other():
    @shoal.remote
    def work(i):
        return i

    refs = []
    for i in range(300):
        options = [
            {},
            {"num_cpus": 2},
            {"num_cpus": 0.5},
            {"num_gpus": 1},
            {"num_cpus": 0, "resources": {"license": 3}},
        ][i % 5]
        refs.append(work.options(**options).remote(i))
    assert shoal.get(refs, timeout=60) == list(range(300))


def test_what_is_granted_shows_and_is_given_back(tmp_path):
    audit()
    free = shoal.available_resources()
    assert (free["CPU"], free["GPU"], free["license"]) == (2, 2, 3)

    @shoal.remote(num_cpus=1.5, num_gpus=0.5, resources={"license": 1})
    def hold():
        until((tmp_path / "go").exists, 60)

    ref = hold.remote()
    until(lambda: shoal.available_resources().get("CPU") == 0.5)
    now = shoal.available_resources()
    assert (now["GPU"], now["license"]) == (1.5, 2)
    assert shoal.cluster_resources()["CPU"] == 2
    (tmp_path / "go").touch()
    shoal.get(ref)
    until(lambda: shoal.available_resources() | {"object_store_memory": 0} == free | {"object_store_memory": 0})


def test_a_dead_workers_share_is_given_back():
    @shoal.remote(num_cpus=2, num_gpus=2, resources={"license": 3}, max_retries=0)
    def die():
        os._exit(1)

    for _ in range(3):
        with pytest.raises(shoal.exceptions.WorkerCrashedError):
            shoal.get(die.remote())
    until(lambda: all(total == free for total, free in _core.resources().values()))


def test_a_task_that_waits_lends_its_cpu_and_nothing_else():
    @shoal.remote(num_cpus=2)
    def inner():
        return "ran"

    @shoal.remote(num_cpus=2)
    def outer():
        return shoal.get(inner.remote(), timeout=60)

    assert shoal.get(outer.remote(), timeout=60) == "ran"

    @shoal.remote(num_cpus=0, resources={"license": 2})
    def licensed(inside):
        if inside:
            return "ran"
        try:
            return shoal.get(licensed.remote(True), timeout=0.3)
        except shoal.exceptions.GetTimeoutError:
            return "kept"

    assert shoal.get(licensed.remote(False)) == "kept"


def test_wait_lends_the_cpu_too():
    @shoal.remote(num_cpus=2)
    def inner(x):
        return x

    @shoal.remote(num_cpus=2)
    def outer():
        refs = [inner.remote(i) for i in range(5)]
        ready, rest = shoal.wait(refs, num_returns=3, timeout=60)
        return len(ready), shoal.get(refs, timeout=60)

    assert shoal.get(outer.remote(), timeout=60) == (3, [0, 1, 2, 3, 4])


def test_many_demands_and_their_limit():
    @shoal.remote
    def work(i):
        return i

    refs = [work.options(num_cpus=0.01 + i / 1000).remote(i) for i in range(100)]
    assert shoal.get(refs) == list(range(100))
    with pytest.raises(shoal.exceptions.LimitError, match="MAX_DEMANDS"):
        work.options(resources={f"r{i}": 1 for i in range(9)}).remote(0)


def test_a_session_without_cpus():
    done = run_python(
        """
        import warnings, shoal
        from shoal.exceptions import GetTimeoutError, SchedulingWarning
        shoal.init(num_cpus=0)
        assert "CPU" not in shoal.available_resources()

        @shoal.remote
        def work(x):
            return x

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ref = work.remote(1)
        assert [w.category for w in caught] == [SchedulingWarning]
        assert shoal.wait([ref], timeout=0.2) == ([], [ref])
        free = work.options(num_cpus=0)
        assert shoal.get([free.remote(i) for i in range(50)]) == list(range(50))

        @shoal.remote(num_cpus=0)
        def nested(n):
            return n if n == 0 else 1 + shoal.get(nested.remote(n - 1))

        assert shoal.get(nested.remote(60)) == 60
        """
    )
    assert done.returncode == 0, done.stderr
