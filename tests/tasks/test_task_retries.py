"""Workers that die and tasks that raise: how often a task is run again, and what its caller gets in the end."""

import os
import signal

import numpy as np
import pytest

import shoal
from conftest import audit, until
from shoal import _core
from shoal.exceptions import TaskCancelledError, TaskError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("audited")


def count_up(path) -> int:
    """How often it was called with this path, this time included; survives the death of the process."""
    with path.open("ab") as file:
        file.write(b"x")
    return path.stat().st_size


@shoal.remote
def dies_until(path, times, how=signal.SIGKILL):
    """Kills its worker at its first `times` attempts."""
    attempt = count_up(path)
    if attempt <= times:
        os.kill(os.getpid(), how)
        signal.pause()
    return attempt


@shoal.remote
def raises_until(path, times, kind=ValueError):
    attempt = count_up(path)
    if attempt <= times:
        raise kind(f"attempt {attempt}")
    return attempt


@shoal.remote
def same(x):
    return x


# --- workers that die ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT], ids=lambda s: s.name)
def test_a_killed_worker_is_replaced_and_its_task_run_again(tmp_path, how):
    assert shoal.get(dies_until.remote(tmp_path / "a", 2, how)) == 3


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_max_retries_counts_exactly(tmp_path, retries):
    path = tmp_path / "a"
    task = dies_until.options(max_retries=retries)
    assert shoal.get(task.remote(path, retries)) == retries + 1
    path.unlink()
    with pytest.raises(WorkerCrashedError, match="SIGKILL") as caught:
        shoal.get(task.remote(path, retries + 1))
    assert path.stat().st_size == retries + 1
    assert "dies_until" in str(caught.value) and "max_retries" in str(caught.value)


def test_retries_without_end(tmp_path):
    assert shoal.get(dies_until.options(max_retries=-1).remote(tmp_path / "a", 8)) == 9


def test_the_default_is_three_retries(tmp_path):
    with pytest.raises(WorkerCrashedError):
        shoal.get(dies_until.remote(tmp_path / "a", 100))
    assert (tmp_path / "a").stat().st_size == 4


def test_attempts_counted_in_a_mutable_array():
    attempts = shoal.put(np.zeros(1, int), mutable=True)

    @shoal.remote(max_retries=5)
    def task(container):
        array = shoal.get(container[0])
        array[0] += 1
        if array[0] < 4:
            os._exit(3)
        return int(array[0])

    assert shoal.get(task.remote([attempts])) == 4
    assert shoal.get(attempts)[0] == 4


def test_os_exit_is_a_crash_that_names_the_code():
    @shoal.remote(max_retries=0)
    def leaves():
        os._exit(17)

    with pytest.raises(WorkerCrashedError, match="exited with code 17"):
        shoal.get(leaves.remote())


def test_all_returns_of_a_crashed_task_fail_and_its_dependents_too(tmp_path):
    refs = dies_until.options(max_retries=0, num_returns=3).remote(tmp_path / "a", 1)
    for ref in refs:
        with pytest.raises(WorkerCrashedError):
            shoal.get(ref)
    with pytest.raises(WorkerCrashedError):
        shoal.get(same.remote(refs[1]))


def test_a_task_without_returns_is_run_again_too(tmp_path):
    path = tmp_path / "a"
    assert dies_until.options(num_returns=0).remote(path, 2) is None
    until(lambda: path.exists() and path.stat().st_size == 3)


def test_the_arguments_of_a_task_live_through_its_retries(tmp_path):
    @shoal.remote
    def task(path, array, container, direct):
        if count_up(path) <= 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return array.sum(), shoal.get(container[0]), direct

    ref = task.remote(tmp_path / "a", np.ones(10_000), [shoal.put("nested")], shoal.put("direct"))
    assert shoal.get(ref) == (10_000, "nested", "direct")


def test_the_other_tasks_are_not_disturbed(tmp_path):
    crashes = [dies_until.remote(tmp_path / str(i), 2) for i in range(6)]
    others = [same.remote(i) for i in range(500)]
    assert shoal.get(others) == list(range(500))
    assert shoal.get(crashes) == [3] * 6


def test_what_a_dead_worker_held_is_freed(tmp_path):
    @shoal.remote(max_retries=0)
    def holds(array):
        mine = [shoal.put(np.zeros(5000)) for _ in range(100)]
        futures = [same.remote(ref) for ref in mine]
        os.kill(os.getpid(), signal.SIGKILL)
        return futures

    audit()
    with pytest.raises(WorkerCrashedError):
        shoal.get(holds.remote(np.zeros(10_000)))
    audit()


def test_killed_from_outside_while_it_waits(tmp_path):
    @shoal.remote(max_retries=1)
    def outer(path):
        if count_up(path) == 1:
            (path.parent / "pid").write_text(str(os.getpid()))
            shoal.get(hold.remote(path.parent / "go"), timeout=60)
        return "second"

    @shoal.remote
    def hold(path):
        until(path.exists, 60)

    ref = outer.remote(tmp_path / "a")
    until(lambda: any(p["blocked"] for p in _core.processes()))
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert shoal.get(ref) == "second"
    (tmp_path / "go").touch()


def test_the_death_of_a_nested_task_is_the_callers_to_handle(tmp_path):
    @shoal.remote(max_retries=0, num_cpus=0)
    def outer():
        try:
            return shoal.get(dies_until.options(max_retries=0).remote(tmp_path / "a", 1), timeout=60)
        except WorkerCrashedError:
            return "handled"

    assert shoal.get(outer.remote()) == "handled"


# --- tasks that raise ---------------------------------------------------------------------------------------


def test_exceptions_are_not_retried_by_default(tmp_path):
    with pytest.raises(ValueError, match="attempt 1"):
        shoal.get(raises_until.remote(tmp_path / "a", 1))


def test_retry_exceptions(tmp_path):
    assert shoal.get(raises_until.options(retry_exceptions=True).remote(tmp_path / "a", 3)) == 4
    with pytest.raises(ValueError, match="attempt 4"):
        shoal.get(raises_until.options(retry_exceptions=True).remote(tmp_path / "b", 4))
    with pytest.raises(ValueError, match="attempt 2"):
        shoal.get(raises_until.options(retry_exceptions=True, max_retries=1).remote(tmp_path / "c", 9))
    with pytest.raises(ValueError, match="attempt 1"):
        shoal.get(raises_until.options(retry_exceptions=True, max_retries=0).remote(tmp_path / "d", 9))
    assert shoal.get(raises_until.options(retry_exceptions=True, max_retries=-1).remote(tmp_path / "e", 20)) == 21


def test_retry_exceptions_with_a_list(tmp_path):
    some = raises_until.options(retry_exceptions=[LookupError, OSError])
    assert shoal.get(some.remote(tmp_path / "a", 2, KeyError)) == 3
    assert shoal.get(some.remote(tmp_path / "b", 2, FileNotFoundError)) == 3
    with pytest.raises(ValueError, match="attempt 1"):
        shoal.get(some.remote(tmp_path / "c", 2, ValueError))
    none = raises_until.options(retry_exceptions=[])
    with pytest.raises(KeyError, match="attempt 1"):
        shoal.get(none.remote(tmp_path / "d", 2, KeyError))
    back = some.options(retry_exceptions=False)
    with pytest.raises(KeyError, match="attempt 1"):
        shoal.get(back.remote(tmp_path / "e", 2, KeyError))


class Mine(Exception):
    pass


def test_retry_exceptions_with_a_class_of_the_users_own(tmp_path):
    assert shoal.get(raises_until.options(retry_exceptions=[Mine]).remote(tmp_path / "a", 2, Mine)) == 3

    @shoal.remote(retry_exceptions=[Mine])
    def wraps(path):
        return shoal.get(raises_until.remote(path, 2, Mine))  # raises it as a TaskError that is a Mine

    assert shoal.get(wraps.remote(tmp_path / "b")) == 3


def test_what_is_no_exception_is_not_retried(tmp_path):
    for kind in (SystemExit, KeyboardInterrupt):
        with pytest.raises(TaskError):
            shoal.get(raises_until.options(retry_exceptions=True).remote(tmp_path / kind.__name__, 1, kind))
        assert (tmp_path / kind.__name__).stat().st_size == 1


def test_deaths_and_exceptions_share_the_budget(tmp_path):
    @shoal.remote(max_retries=3, retry_exceptions=True)
    def both(path):
        attempt = count_up(path)
        if attempt % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError(f"attempt {attempt}")

    with pytest.raises(ValueError, match="attempt 4"):
        shoal.get(both.remote(tmp_path / "a"))


def test_a_retry_can_be_cancelled(tmp_path):
    @shoal.remote(max_retries=-1, retry_exceptions=True)
    def forever(path):
        count_up(path)
        raise ValueError

    ref = forever.remote(tmp_path / "a")
    until(lambda: (tmp_path / "a").exists() and (tmp_path / "a").stat().st_size > 3)
    until(lambda: shoal.cancel(ref) or bool(shoal.wait([ref], timeout=0.05)[0]))
    with pytest.raises(TaskCancelledError):
        shoal.get(ref)


# --- max_calls ----------------------------------------------------------------------------------------------


def test_max_calls_ends_the_worker_after_so_many_calls():
    @shoal.remote(max_calls=2, num_cpus=2)
    def pid(value=None):
        return os.getpid()

    pids = [shoal.get(pid.remote()) for _ in range(8)]
    assert all(pids.count(p) <= 2 for p in pids) and len(set(pids)) >= 4
    pids = shoal.get([pid.remote() for _ in range(20)])
    assert all(pids.count(p) <= 2 for p in pids)


def test_max_calls_holds_for_nested_tasks_and_does_not_end_their_caller():
    @shoal.remote(max_calls=1)
    def once():
        return os.getpid()

    @shoal.remote(max_retries=0)
    def outer():
        return [os.getpid(), *[shoal.get(once.remote()) for _ in range(3)]]

    for pids in shoal.get([outer.remote() for _ in range(3)]):
        assert len(set(pids)) == 4


def test_max_calls_with_errors_and_several_returns():
    @shoal.remote(max_calls=1, num_returns=2)
    def task(fail):
        if fail:
            raise ValueError(os.getpid())
        return os.getpid(), 1

    pids = set()
    for fail in (False, True, False, True):
        refs = task.remote(fail)
        try:
            pids.add(shoal.get(refs)[0])
        except ValueError as error:
            pids.add(error.args[0])
    assert len(pids) == 4


# --- what a task does to its process ------------------------------------------------------------------------


def test_environment_variables_are_those_of_the_task_alone():
    @shoal.remote
    def read():
        return os.environ.get("SHOAL_TEST_A"), os.environ.get("SHOAL_TEST_B")

    special = read.options(runtime_env={"env_vars": {"SHOAL_TEST_A": "1"}})
    other = read.options(runtime_env={"env_vars": {"SHOAL_TEST_A": "2", "SHOAL_TEST_B": 3}})
    for _ in range(5):
        assert shoal.get([special.remote(), other.remote(), read.remote()]) == [
            ("1", None),
            ("2", "3"),
            (None, None),
        ]

    @shoal.remote
    def outer():
        return shoal.get(other.remote()), shoal.get(read.remote())

    assert shoal.get(outer.remote()) == (("2", "3"), (None, None))
