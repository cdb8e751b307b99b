"""How actors end: killed, by themselves, by a crash, in their constructor; what becomes of their calls."""

import os
import signal
import sys
import threading

import pytest

import shoal
from conftest import until
from shoal import _core
from shoal.exceptions import ActorDiedError, TaskError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
class Mortal:
    def pid(self):
        return os.getpid()

    def spin(self, started):
        shoal.get(started[0]).flags = 1
        while True:
            pass

    def wait(self, gate):
        with gate:
            return "waited"

    def sleep(self):
        threading.Event().wait()

    def exit_actor(self):
        shoal.exit_actor()

    def sys_exit(self):
        sys.exit(3)

    def hard_exit(self, code):
        os._exit(code)

    def raise_signal(self, number):
        os.kill(os.getpid(), number)
        threading.Event().wait(30)

    def crash(self):
        import ctypes

        ctypes.string_at(0)

    def well(self):
        return "well"


def die_of(mortal, end):
    """Ends `mortal` while it has calls waiting; checks that all of them fail, and later ones too."""
    shoal.get(mortal.well.remote())
    last = end(mortal)
    waiting = [mortal.well.remote() for _ in range(5)]
    two = mortal.well.options(num_returns=2).remote()
    none = mortal.well.options(num_returns=0).remote()
    assert none is None
    errors = []
    for ref in [last, *waiting, *two]:
        if ref is not None:
            with pytest.raises(ActorDiedError) as caught:
                shoal.get(ref)
            errors.append(str(caught.value))
    with pytest.raises(ActorDiedError):
        shoal.get(mortal.well.remote())
    with pytest.raises(ActorDiedError):
        [shoal.get(ref) for ref in mortal.well.options(num_returns="streaming").remote()]
    return errors


ENDS = {
    "kill": (lambda m: shoal.kill(m), "killed with shoal.kill"),
    "exit_actor": (lambda m: m.exit_actor.remote(), "ended itself"),
    "sys.exit": (lambda m: m.sys_exit.remote(), "ended itself"),
    "os._exit": (lambda m: m.hard_exit.remote(7), "exited with code 7"),
    "os._exit(0)": (lambda m: m.hard_exit.remote(0), "exited with code 0"),
    "SIGKILL": (lambda m: m.raise_signal.remote(signal.SIGKILL), "SIGKILL"),
    "SIGTERM": (lambda m: m.raise_signal.remote(signal.SIGTERM), "SIGTERM"),
}


@pytest.mark.parametrize("how", ENDS)
def test_waiting_and_later_calls_fail_with_the_reason(how):
    end, reason = ENDS[how]
    bystander = Mortal.remote()
    errors = die_of(Mortal.remote(), end)
    assert all("Mortal" in error for error in errors)
    assert all(reason in error for error in errors), errors
    assert shoal.get(bystander.well.remote()) == "well"


def test_a_crash_in_native_code():
    mortal = Mortal.remote()
    with pytest.raises(ActorDiedError, match="SIGSEGV"):
        shoal.get(mortal.crash.remote())


def test_a_process_killed_from_outside():
    mortal = Mortal.remote()
    pid = shoal.get(mortal.pid.remote())
    sleeping = mortal.sleep.remote()
    queued = mortal.well.remote()
    os.kill(pid, signal.SIGKILL)
    for ref in (sleeping, queued, mortal.well.remote()):
        with pytest.raises(ActorDiedError, match=rf"Mortal \(pid {pid}, id \w+\).*SIGKILL"):
            shoal.get(ref)


def test_killing_an_actor_that_is_busy_in_a_loop():
    class Flag:
        flags = 0

    @shoal.remote
    class Busy:
        def spin(self, flag):
            import numpy as np

            assert isinstance(flag, np.ndarray)
            flag[0] = 1
            while True:
                pass

    import numpy as np

    started = shoal.put(np.zeros(1, np.int64), mutable=True)
    busy = Busy.remote()
    ref = busy.spin.remote(started)
    until(lambda: shoal.get(started)[0] == 1)
    shoal.kill(busy)
    with pytest.raises(ActorDiedError, match="killed"):
        shoal.get(ref)


def test_killing_twice_and_killing_the_dead():
    mortal = Mortal.remote()
    pid = shoal.get(mortal.pid.remote())
    shoal.kill(mortal)
    shoal.kill(mortal)
    with pytest.raises(ActorDiedError):
        shoal.get(mortal.well.remote())
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    shoal.kill(mortal)
    shoal.kill(mortal, no_restart=False)


def test_killing_at_once_after_creation():
    for _ in range(10):
        mortal = Mortal.remote()
        ref = mortal.well.remote()
        shoal.kill(mortal)
        with pytest.raises(ActorDiedError):
            shoal.get([ref, mortal.well.remote()])


def test_killing_while_the_constructor_runs():
    gate = shoal.lock()
    gate.acquire()

    @shoal.remote
    class Slow:
        def __init__(self, gate):
            with gate:
                pass

        def get(self):
            return 1

    slow = Slow.remote(gate)
    ref = slow.get.remote()
    until(lambda: _core.actor_info(slow._ref._handle)["hosted"])
    shoal.kill(slow)
    with pytest.raises(ActorDiedError, match="killed"):
        shoal.get(ref, timeout=20)
    gate.release()


def test_killing_an_actor_that_waits_for_resources():
    @shoal.remote(num_cpus=2)
    class Large:
        def get(self):
            return 1

    first, second = Large.remote(), Large.options(name="second").remote()
    assert shoal.get(first.get.remote()) == 1
    ref = second.get.remote()
    shoal.kill(second)
    with pytest.raises(ActorDiedError, match="killed.*before it had started"):
        shoal.get(ref, timeout=20)
    with pytest.raises(ActorDiedError):
        shoal.get(second.get.remote())
    third = Large.options(name="second").remote()
    shoal.kill(first)
    assert shoal.get(third.get.remote()) == 1


def test_killing_an_actor_that_waits_for_an_argument():
    gate = shoal.lock()
    gate.acquire()

    @shoal.remote
    def later(gate):
        with gate:
            return 1

    @shoal.remote
    class Holder:
        def __init__(self, value):
            self.value = value

        def get(self):
            return self.value

    holder = Holder.remote(later.remote(gate))
    ref = holder.get.remote()
    shoal.kill(holder)
    with pytest.raises(ActorDiedError, match="killed"):
        shoal.get(ref, timeout=20)
    gate.release()


def test_killing_with_calls_that_wait_for_arguments():
    gate = shoal.lock()
    gate.acquire()

    @shoal.remote
    def later(gate):
        with gate:
            return 1

    @shoal.remote
    class Taker:
        def take(self, value):
            return value

    taker = Taker.remote()
    shoal.get(taker.take.remote(0))
    value = later.remote(gate)
    refs = [taker.take.remote(value) for _ in range(5)]
    shoal.kill(taker)
    for ref in refs:
        with pytest.raises(ActorDiedError):
            shoal.get(ref, timeout=20)
    gate.release()
    assert shoal.get(value) == 1


def test_a_task_can_kill_an_actor_and_an_actor_itself():
    mortal = Mortal.remote()

    @shoal.remote
    def kill(mortal):
        shoal.kill(mortal)

    shoal.get(kill.remote(mortal))
    with pytest.raises(ActorDiedError):
        shoal.get(mortal.well.remote())

    @shoal.remote
    class Suicidal:
        def end(self):
            shoal.kill(shoal.get_runtime_context().current_actor)
            threading.Event().wait(30)

    with pytest.raises(ActorDiedError, match="killed"):
        shoal.get(Suicidal.remote().end.remote())


def test_terminating_after_the_calls_before():
    mortal = Mortal.remote()
    before = [mortal.well.remote() for _ in range(10)]
    end = mortal.__ray_terminate__.remote()
    after = mortal.well.remote()
    assert shoal.get(before) == ["well"] * 10
    for ref in (end, after):
        with pytest.raises(ActorDiedError):
            shoal.get(ref)


def test_a_callers_death_does_not_end_the_actor():
    @shoal.remote(max_retries=0)
    def call_and_die(mortal):
        mortal.well.remote()
        mortal.well.remote()
        os._exit(1)

    mortal = Mortal.remote()
    with pytest.raises(shoal.exceptions.WorkerCrashedError):
        shoal.get(call_and_die.remote(mortal))
    assert shoal.get(mortal.well.remote()) == "well"


def test_an_actor_whose_creator_died():
    @shoal.remote
    class Parent:
        def __init__(self):
            self.child = Mortal.remote()

        def handle(self):
            return self.child

    parent = Parent.remote()
    child = shoal.get(parent.handle.remote())
    shoal.kill(parent)
    with pytest.raises(ActorDiedError):
        shoal.get(parent.handle.remote())
    assert shoal.get(child.well.remote()) == "well"


# -- constructors that fail ---------------------------------------------------------------------------------


@shoal.remote
class Stillborn:
    def __init__(self, how):
        if how == "raise":
            raise LookupError("no such place")
        if how == "unpicklable":
            error = LookupError("holds a lock")
            error.lock = threading.Lock()
            raise error
        if how == "sys.exit":
            sys.exit(4)
        if how == "os._exit":
            os._exit(5)
        if how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit_actor":
            shoal.exit_actor()

    def get(self):
        return "never"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise", "__init__ failed.*no such place"),
        ("unpicklable", "__init__ failed.*holds a lock"),
        ("sys.exit", "SystemExit"),
        ("os._exit", "exited with code 5"),
        ("SIGKILL", "SIGKILL"),
        ("exit_actor", "Stillborn"),
    ],
)
def test_constructors_that_fail(how, reason):
    stillborn = Stillborn.remote(how)
    refs = [stillborn.get.remote() for _ in range(3)]
    import re

    for ref in refs:
        with pytest.raises(ActorDiedError) as caught:
            shoal.get(ref)
        assert re.search(reason, str(caught.value), re.DOTALL), caught.value
        assert "Stillborn" in str(caught.value)
    with pytest.raises(ActorDiedError):
        shoal.get(stillborn.get.remote())


def test_the_cause_of_a_failed_constructor_is_at_hand():
    stillborn = Stillborn.remote("raise")
    with pytest.raises(ActorDiedError) as caught:
        shoal.get(stillborn.get.remote())
    assert isinstance(caught.value.cause, TaskError)
    assert isinstance(caught.value.cause.cause, LookupError)
    assert caught.value.actor_init_failed and not isinstance(caught.value, LookupError)


def test_a_constructor_argument_that_failed():
    @shoal.remote
    def broken():
        raise OSError("no argument")

    stillborn = Stillborn.remote(broken.remote())
    with pytest.raises(ActorDiedError, match="no argument"):
        shoal.get(stillborn.get.remote())


def test_wrong_constructor_arguments():
    stillborn = Stillborn.remote()
    with pytest.raises(ActorDiedError, match="missing 1 required positional argument: 'how'"):
        shoal.get(stillborn.get.remote())


def test_many_failed_constructors_leave_the_session_working():
    refs = [Stillborn.remote("raise").get.remote() for _ in range(20)]
    for ref in refs:
        with pytest.raises(ActorDiedError):
            shoal.get(ref)
    assert shoal.get(Mortal.remote().well.remote()) == "well"


# -- the supervisor's bookkeeping ---------------------------------------------------------------------------


def test_an_actor_that_closed_its_output_is_not_taken_for_another():
    """The numbers of its pipes in the supervisor go to the next processes: not to be closed a second time."""

    @shoal.remote
    class Silent:
        def close(self):
            os.close(1)
            os.close(2)

    silent = [Silent.remote() for _ in range(3)]
    shoal.get([s.close.remote() for s in silent])
    others = [Mortal.remote() for _ in range(3)]
    pids = shoal.get([other.pid.remote() for other in others])
    for s in silent:
        shoal.kill(s)
    with pytest.raises(ActorDiedError):
        shoal.get(silent[-1].close.remote())
    for other, pid in zip(others, pids, strict=True):
        ref = other.sleep.remote()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ActorDiedError):
            shoal.get(ref, timeout=20)
