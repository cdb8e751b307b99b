"""What actors hold while they live: CPUs and other resources, processes, places in a mailbox."""

import os
import threading
import warnings

import pytest

import shoal
from conftest import at_rest, until
from shoal import _core
from shoal.exceptions import ActorDiedError, PendingCallsLimitExceeded


@pytest.fixture(scope="module", autouse=True)
def license_session():
    from conftest import audit

    shoal.init(num_cpus=2, resources={"license": 1})
    yield
    try:
        audit()
    finally:
        shoal.shutdown()


@shoal.remote
class Cell:
    def get(self):
        return os.getpid()

    def wait(self, gate):
        with gate:
            return "waited"


@shoal.remote
def one():
    return 1


def free(name="CPU"):
    return shoal.available_resources().get(name, 0)


def test_an_actor_holds_no_cpu_unless_it_says_so():
    cells = [Cell.remote() for _ in range(6)]
    assert len(set(shoal.get([cell.get.remote() for cell in cells]))) == 6
    until(lambda: free() == 2)
    assert shoal.get(one.remote()) == 1


def test_an_actor_with_a_cpu_holds_it_while_it_lives():
    cell = Cell.options(num_cpus=1).remote()
    shoal.get(cell.get.remote())
    until(lambda: free() == 1)
    other = Cell.options(num_cpus=1).remote()
    shoal.get(other.get.remote())
    until(lambda: free() == 0)
    waiting = one.remote()
    assert shoal.wait([waiting], timeout=0.05)[0] == []
    shoal.kill(other)
    assert shoal.get(waiting) == 1
    until(lambda: free() == 1)
    del cell
    until(lambda: free() == 2)


def test_custom_resources():
    first = Cell.options(resources={"license": 1}).remote()
    second = Cell.options(resources={"license": 1}).remote()
    shoal.get(first.get.remote())
    ref = second.get.remote()
    assert shoal.wait([ref], timeout=0.05)[0] == []
    assert free("license") == 0
    del first
    assert shoal.get(ref)
    shoal.kill(second)
    until(lambda: free("license") == 1)


def test_resources_come_back_after_a_failed_constructor():
    @shoal.remote(num_cpus=2, resources={"license": 1})
    class Bad:
        def __init__(self):
            raise OSError

        def get(self):
            pass

    for _ in range(3):
        with pytest.raises(ActorDiedError):
            shoal.get(Bad.remote().get.remote())
    until(lambda: free() == 2 and free("license") == 1)


def test_an_impossible_demand_is_warned_about():
    with pytest.warns(shoal.exceptions.SchedulingWarning, match="actor Cell demands.*64"):
        cell = Cell.options(num_cpus=64).remote()
    ref = cell.get.remote()
    assert shoal.wait([ref], timeout=0.01)[0] == []
    shoal.kill(cell)
    with pytest.raises(ActorDiedError):
        shoal.get(ref)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert shoal.get(one.remote()) == 1


def test_an_actor_that_waits_lends_its_cpu():
    @shoal.remote(num_cpus=2)
    class Boss:
        def work(self):
            return shoal.get([one.remote() for _ in range(4)])

    assert shoal.get(Boss.remote().work.remote()) == [1] * 4


def test_fifty_actors_at_a_time():
    cells = [Cell.remote() for _ in range(50)]
    pids = shoal.get([cell.get.remote() for cell in cells])
    assert len(set(pids)) == 50
    assert shoal.get([cell.get.remote() for cell in cells]) == pids
    del cells
    until(lambda: not any(p["role"] == _core.ACTOR for p in _core.processes()))


def test_actors_come_and_go():
    for _ in range(3):
        cells = [Cell.remote() for _ in range(8)]
        shoal.get([cell.get.remote() for cell in cells])
        for cell in cells[::2]:
            shoal.kill(cell)
        del cells, cell
    until(lambda: not any(p["role"] == _core.ACTOR for p in _core.processes()))


def test_more_calls_than_may_wait_are_refused():
    cell, gate = Cell.options(max_pending_calls=3).remote(), shoal.lock()
    shoal.get(cell.get.remote())
    gate.acquire()
    running = cell.wait.remote(gate)
    until(lambda: _core.actor_info(cell._ref._handle)["waiting"] == 0)
    waiting = [cell.get.remote() for _ in range(3)]
    for _ in range(2):
        with pytest.raises(PendingCallsLimitExceeded, match="actor Cell has 3 calls waiting, its max_pending_calls"):
            cell.get.remote()

    @shoal.remote
    def call(cell):
        with pytest.raises(PendingCallsLimitExceeded):
            cell.get.remote()
        return True

    assert shoal.get(call.remote(cell))
    gate.release()
    assert shoal.get(running) == "waited"
    assert len(set(shoal.get(waiting))) == 1
    assert shoal.get(cell.get.remote())


def test_refused_calls_leave_nothing():
    until(at_rest)
    cell, gate = Cell.options(max_pending_calls=1).remote(), shoal.lock()
    shoal.get(cell.get.remote())
    gate.acquire()
    running = cell.wait.remote(gate)
    until(lambda: _core.actor_info(cell._ref._handle)["waiting"] == 0)
    waiting = cell.get.remote()
    before = _core.statistics()["objects"]
    large = shoal.put(b"x" * 100_000)
    for _ in range(10):
        with pytest.raises(PendingCallsLimitExceeded):
            cell.wait.remote(large, [large])
    del large
    assert _core.statistics()["objects"] == before
    gate.release()
    shoal.get([running, waiting])


def test_a_burst_of_calls():
    @shoal.remote
    class Sum:
        def __init__(self):
            self.sum = 0

        def add(self, x):
            self.sum += x

        def get(self):
            return self.sum

    actor = Sum.remote()
    for i in range(5000):
        actor.add.remote(i)
    assert shoal.get(actor.get.remote()) == sum(range(5000))


def test_threads_create_and_call_actors_at_the_same_time():
    results, failures = [], []

    def run():
        try:
            cells = [Cell.remote() for _ in range(3)]
            results.extend(shoal.get([cell.get.remote() for cell in cells]))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(results) == 18
