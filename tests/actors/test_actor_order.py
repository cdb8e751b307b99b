"""The order of an actor's calls: each caller's own, whoever else calls and whatever an argument waits for."""

import threading

import pytest

import shoal
from conftest import until
from shoal import _core

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
class Log:
    def __init__(self):
        self.entries = []

    def add(self, who, number):
        self.entries.append((who, number))
        return len(self.entries)

    def read(self, clear=False):
        entries = self.entries
        if clear:
            self.entries = []
        return entries

    def hold(self, lock):
        with lock:
            self.entries.append(("hold", 0))


@shoal.remote
def after(lock, value):
    with lock:
        return value


@shoal.remote
def call_many(log, who, n):
    refs = [log.add.remote(who, i) for i in range(n)]
    shoal.get(refs)


def numbers(entries, who):
    return [n for name, n in entries if name == who]


def test_calls_of_one_caller_run_in_their_order():
    log = Log.remote()
    refs = [log.add.remote("driver", i) for i in range(500)]
    assert shoal.get(refs) == list(range(1, 501))
    assert shoal.get(log.read.remote()) == [("driver", i) for i in range(500)]


def test_calls_made_before_the_actor_is_there_keep_their_order():
    gate = shoal.lock()
    with gate:

        @shoal.remote
        class Slow(Log._class):
            def __init__(self, gate):
                with gate:
                    super().__init__()

        slow = Slow.remote(gate)
        refs = [slow.add.remote("early", i) for i in range(50)]
        assert shoal.wait(refs, timeout=0.01)[0] == []
    assert shoal.get(refs) == list(range(1, 51))
    assert numbers(shoal.get(slow.read.remote()), "early") == list(range(50))


def test_a_pending_argument_holds_up_its_caller_only():
    log, gate = Log.remote(), shoal.lock()
    gate.acquire()
    first = log.add.remote("driver", after.remote(gate, 0))
    later = [log.add.remote("driver", i) for i in range(1, 10)]
    shoal.get(call_many.remote(log, "task", 20))  # goes ahead
    assert shoal.wait([first, *later], timeout=0.05)[0] == []
    gate.release()
    assert shoal.get(first) == 21
    shoal.get(later)
    entries = shoal.get(log.read.remote())
    assert numbers(entries, "driver") == list(range(10))
    assert entries[:20] == [("task", i) for i in range(20)]


def test_several_pending_arguments_finishing_in_reverse():
    log = Log.remote()
    gates = [shoal.lock() for _ in range(4)]
    for gate in gates:
        gate.acquire()
    values = [after.remote(gate, i) for i, gate in enumerate(gates)]
    refs = [log.add.remote("driver", value) for value in values]
    for gate, value in reversed(list(zip(gates, values, strict=True))):
        gate.release()
        shoal.get(value)
    assert shoal.get(refs) == [1, 2, 3, 4]
    assert numbers(shoal.get(log.read.remote()), "driver") == [0, 1, 2, 3]


def test_a_pending_argument_that_fails_lets_the_rest_go_on():
    @shoal.remote
    def broken(lock):
        with lock:
            raise OSError("no disk")

    log, gate = Log.remote(), shoal.lock()
    gate.acquire()
    bad = log.add.remote("driver", broken.remote(gate))
    good = log.add.remote("driver", 1)
    gate.release()
    with pytest.raises(OSError, match="no disk"):
        shoal.get(bad)
    assert shoal.get(good) == 1


def test_results_of_the_actor_as_arguments_of_its_own_calls():
    log = Log.remote()
    ref = log.add.remote("x", 0)
    for _ in range(20):
        ref = log.add.remote("x", ref)
    assert shoal.get(ref) == 21
    assert numbers(shoal.get(log.read.remote()), "x") == list(range(21))


def test_many_callers_each_keep_their_order():
    log = Log.remote()
    callers = [f"task {i}" for i in range(6)]
    refs = [call_many.remote(log, who, 40) for who in callers]
    shoal.get([log.add.remote("driver", i) for i in range(40)])
    shoal.get(refs)
    entries = shoal.get(log.read.remote())
    assert len(entries) == 280
    for who in [*callers, "driver"]:
        assert numbers(entries, who) == list(range(40))


def test_actors_as_callers_keep_their_order():
    @shoal.remote
    class Relay:
        def __init__(self, name, log):
            self.name, self.log, self.n = name, log, 0

        def send(self):
            self.n += 1
            return [self.log.add.remote(self.name, self.n)]

    log = Log.remote()
    relays = {f"relay {i}": Relay.remote(f"relay {i}", log) for i in range(3)}
    sent = [relay.send.remote() for _ in range(20) for relay in relays.values()]
    shoal.get([ref for (ref,) in shoal.get(sent)])
    entries = shoal.get(log.read.remote())
    for name in relays:
        assert numbers(entries, name) == list(range(1, 21))


def test_threads_of_one_process_call_one_actor():
    log = Log.remote()
    failures = []

    def call(who):
        try:
            last = 0
            for i in range(50):
                place = shoal.get(log.add.remote(who, i))
                assert place > last
                last = place
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(f"thread {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    entries = shoal.get(log.read.remote())
    assert len(entries) == 400
    for i in range(8):
        assert numbers(entries, f"thread {i}") == list(range(50))


def test_a_call_that_runs_does_not_let_the_next_one_in():
    log, gate = Log.remote(), shoal.lock()
    gate.acquire()
    held = log.hold.remote(gate)
    others = [log.add.remote("driver", i) for i in range(3)] + [call_many.remote(log, "task", 3)]
    until(lambda: _core.actor_info(log._ref._handle)["waiting"] == 6)
    gate.release()
    shoal.get([held, *others])
    assert shoal.get(log.read.remote())[0] == ("hold", 0)


def test_results_are_there_in_any_order_of_getting():
    log = Log.remote()
    refs = [log.add.remote("driver", i) for i in range(100)]
    assert [shoal.get(ref) for ref in reversed(refs)] == list(range(100, 0, -1))
    ready, rest = shoal.wait(refs, num_returns=100)
    assert ready == refs and not rest
