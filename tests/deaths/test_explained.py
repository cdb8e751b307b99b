"""What the error tells of a process that died: who it was, why, what it printed last, where its Python code was."""

import contextlib
import ctypes
import os
import pickle
import signal
import sys

import pytest

import shoal
from conftest import until
from shoal.exceptions import ActorDiedError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote(max_retries=0)
def crash_in_native_code(depth):
    return crash_in_native_code._function(depth - 1) if depth else ctypes.string_at(0)


@shoal.remote(max_retries=0)
def print_and_die(how, *lines):
    for line in lines:
        print(line)
    print("no newline at the end", end="", file=sys.stderr)
    sys.stderr.flush()
    os.kill(os.getpid(), how)
    signal.pause()


@shoal.remote
def pid_of():
    return os.getpid()


@shoal.remote
class Mortal:
    def __init__(self, line=None):
        if line:
            print(line)

    def say(self, line):
        print(line)
        return os.getpid()

    def write(self, text):
        os.write(2, text)

    def crash(self):
        ctypes.string_at(0)

    def die(self):
        os._exit(5)

    def name(self):
        return "alive"


def death_of(ref):
    with pytest.raises((WorkerCrashedError, ActorDiedError)) as caught:
        shoal.get(ref)
    return caught.value


def test_a_crash_in_native_code_names_the_signal_and_shows_the_python_stack():
    error = death_of(crash_in_native_code.remote(2))
    assert error.signal_name == "SIGSEGV" and error.exit_code is None
    assert error.task_name == "crash_in_native_code" and error.attempt == 0 and error.pid
    assert "Segmentation fault" in error.python_stack
    assert error.python_stack.count("in crash_in_native_code") == 3 and "test_explained.py" in error.python_stack
    assert "worker.py" not in error.python_stack and "supervisor.py" not in error.python_stack
    assert error.python_stack.splitlines()[-1] in str(error) and "SIGSEGV" in str(error)


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL], ids=lambda n: n.name)
def test_other_signals_of_native_code(number):
    error = death_of(print_and_die.remote(number))
    assert error.signal_name == number.name and "in print_and_die" in error.python_stack


def test_an_actor_that_crashes_shows_its_stack_too():
    actor = Mortal.remote()
    for error in (death_of(actor.crash.remote()), death_of(actor.name.remote())):
        assert error.signal_name == "SIGSEGV" and "in crash" in error.python_stack and error.class_name == "Mortal"


def test_the_last_lines_of_a_task():
    error = death_of(print_and_die.remote(signal.SIGKILL, *[f"line {i}" for i in range(50)]))
    lines = error.last_output.splitlines()
    assert lines[-2:] == ["line 49", "no newline at the end"] and 10 <= len(lines) <= 20
    assert "    line 49\n    no newline at the end" in str(error) and error.python_stack == ""


def test_only_the_lines_of_the_task_that_died():
    @shoal.remote
    def prints():
        print("an earlier task")

    @shoal.remote(max_retries=0)
    def silent():
        os._exit(3)

    shoal.get([prints.remote() for _ in range(20)])
    error = death_of(silent.remote())
    assert error.last_output == "" and error.exit_code == 3 and error.signal_name is None


def test_lines_longer_than_what_is_kept_and_text_that_is_no_unicode():
    @shoal.remote(max_retries=0)
    def prints():
        print("x" * 100_000)
        print("last")
        os.write(1, b"\xff\xfe natively\n")
        os._exit(1)

    lines = death_of(prints.remote()).last_output.splitlines()
    assert "last" in lines and lines[-1].endswith("natively") and max(map(len, lines)) < 1000


def test_the_last_lines_of_an_actor_are_those_of_all_its_calls():
    actor = Mortal.options(name="talkative").remote("made")
    pid = shoal.get(actor.say.remote("first call"))
    shoal.get(actor.write.remote(b"from C\n"))
    ends = [death_of(actor.die.remote()), death_of(actor.say.remote("too late"))]
    for error in ends:
        assert error.last_output.splitlines() == ["made", "first call", "from C"]
        assert (error.name, error.class_name, error.pid, error.exit_code) == ("talkative", "Mortal", pid, 5)
        assert error.actor_id == actor._actor_id
        for part in ("Mortal", "'talkative'", str(pid), actor._actor_id, "exited with code 5", "    first call"):
            assert part in str(error)


def test_a_killed_actor_says_so():
    actor = Mortal.remote()
    shoal.get(actor.say.remote("working"))
    shoal.kill(actor)
    error = death_of(actor.name.remote())
    assert "shoal.kill" in str(error) and error.last_output == "working"


def test_the_errors_travel_with_all_that_they_know():
    error = death_of(crash_in_native_code.remote(0))
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) and vars(copy) == vars(error)

    @shoal.remote
    def dependent(_):
        return 1

    passed_on = death_of(dependent.remote(crash_in_native_code.remote(0)))
    assert passed_on.python_stack and passed_on.task_name == "crash_in_native_code"


def test_the_users_own_faulthandler_is_left_alone(tmp_path):
    @shoal.remote(max_retries=0)
    def own(path):
        import faulthandler

        assert faulthandler.is_enabled()
        file = open(path, "w")  # noqa: SIM115
        faulthandler.enable(file=file)
        ctypes.string_at(0)

    error = death_of(own.remote(str(tmp_path / "stack")))
    assert error.signal_name == "SIGSEGV"
    assert "in own" in (tmp_path / "stack").read_text()

    @shoal.remote
    def default():
        import faulthandler

        faulthandler.dump_traceback()
        faulthandler.enable()
        return faulthandler.is_enabled()

    assert shoal.get(default.remote())


def test_the_attempts_are_visible(tmp_path):
    @shoal.remote(max_retries=2)
    def dies(path):
        with path.open("a") as file:
            print(shoal.get_runtime_context().get_attempt_number(), file=file)
        os._exit(1)

    error = death_of(dies.remote(tmp_path / "attempts"))
    assert (tmp_path / "attempts").read_text().split() == ["0", "1", "2"]
    assert error.attempt == 2 and "3 attempts" in str(error)

    @shoal.remote(max_retries=2, retry_exceptions=[OSError])
    def raises():
        raise OSError(f"attempt {shoal.get_runtime_context().get_attempt_number()}")

    with pytest.raises(OSError, match="attempt 2") as caught:
        shoal.get(raises.remote())
    assert caught.value._task_error.attempt == 2 and "(pid=" in str(caught.value) and "attempt 2)" in str(caught.value)
    assert shoal.get_runtime_context().get_attempt_number() == 0


def test_objects_outlive_the_process_that_made_them():
    import numpy as np

    @shoal.remote
    def make():
        return [shoal.put(np.arange(100_000)), shoal.put({"small": 1}), os.getpid()]

    large, small, pid = shoal.get(make.remote())
    with contextlib.suppress(ProcessLookupError):  # one worker too many, which has left
        os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in {p["pid"] for p in shoal._core.processes()})
    assert shoal.get(large).sum() == 100_000 * 99_999 // 2 and shoal.get(small) == {"small": 1}
    view = shoal.get(large)
    del large
    assert view[-1] == 99_999


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_process_that_dies_while_it_unpickles_a_function_names_that_function():
    deadly = Deadly()

    @shoal.remote(max_retries=0)
    def loads():
        return deadly

    shoal.get([pid_of.remote() for _ in range(4)])
    with pytest.raises(WorkerCrashedError, match=r"that ran loads\(\) exited with code 3"):
        shoal.get(loads.remote())
