"""timeout_s: a task that takes too long is interrupted, then killed; its caller gets a TaskTimeoutError."""

import time

import pytest

import shoal
from conftest import until
from shoal.exceptions import GetTimeoutError, TaskTimeoutError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote(timeout_s=0.2)
def slow(folder=None):
    try:
        time.sleep(60)
    finally:
        if folder:
            (folder / "cleaned").touch()


@shoal.remote(timeout_s=0.2)
def native():
    return sum(range(10**12))  # an hour in one call of C code, which looks at no signals


@shoal.remote
def same(x):
    return x


def test_a_task_that_is_in_time():
    assert shoal.get([same.options(timeout_s=20).remote(i) for i in range(200)]) == list(range(200))
    assert shoal.get(same.options(timeout_s=20, num_returns=2).remote((1, 2))) == [1, 2]


def test_a_task_that_is_not(tmp_path):
    with pytest.raises(TimeoutError) as caught:
        shoal.get(slow.remote(tmp_path), timeout=30)
    error = caught.value
    assert isinstance(error, TaskTimeoutError) and not isinstance(error, GetTimeoutError)
    assert (error.task_name, error.timeout, error.attempt, error.forced) == ("slow", 0.2, 0, False)
    assert error.pid and f"slow() (pid {error.pid})" in str(error) and "timeout_s=0.2" in str(error)
    assert (tmp_path / "cleaned").exists()


def test_several_at_a_time_and_the_others_go_on():
    refs = [slow.remote() for _ in range(4)]
    assert shoal.get([same.options(num_cpus=0).remote(i) for i in range(50)]) == list(range(50))
    for ref in refs:
        with pytest.raises(TaskTimeoutError):
            shoal.get(ref, timeout=30)


def test_native_code_that_does_not_listen_is_killed():
    with pytest.raises(TaskTimeoutError) as caught:
        shoal.get(native.remote(), timeout=30)
    assert caught.value.forced and "killed" in str(caught.value) and caught.value.task_name == "native"
    assert shoal.get([same.remote(i) for i in range(20)]) == list(range(20))


def test_the_limit_is_for_each_run_not_for_waiting(tmp_path):
    @shoal.remote
    def hold(path):
        until(path.exists, 60)

    blockers = [hold.remote(tmp_path / "go") for _ in range(2)]
    ref = same.options(timeout_s=0.05).remote("in time")
    assert shoal.wait([ref], timeout=0.2)[0] == []
    (tmp_path / "go").touch()
    assert shoal.get(ref, timeout=30) == "in time"
    shoal.get(blockers)


@pytest.mark.parametrize(
    ("retry", "attempts"), [(False, 1), ([OSError], 3), (True, 3), ([TimeoutError], 3), ([TaskTimeoutError], 3), ([KeyError], 1)]
)
def test_retries(tmp_path, retry, attempts):
    """TaskTimeoutError is a TimeoutError, and so an OSError."""

    @shoal.remote(timeout_s=0.05, max_retries=2, retry_exceptions=retry)
    def task(path):
        with path.open("a") as file:
            file.write("x")
        time.sleep(60)

    with pytest.raises(TaskTimeoutError) as caught:
        shoal.get(task.remote(tmp_path / "runs"), timeout=30)
    assert len((tmp_path / "runs").read_text()) == attempts and caught.value.attempt == attempts - 1


def test_a_second_attempt_that_is_quick():
    @shoal.remote(timeout_s=0.1, max_retries=1, retry_exceptions=True)
    def task():
        if shoal.get_runtime_context().get_attempt_number() == 0:
            time.sleep(60)
        return "second"

    assert shoal.get(task.remote(), timeout=30) == "second"


def test_forced_and_repeated():
    @shoal.remote(timeout_s=0.1, max_retries=1, retry_exceptions=[TimeoutError])
    def task():
        if shoal.get_runtime_context().get_attempt_number() == 0:
            sum(range(10**12))
        return "second"

    assert shoal.get(task.remote(), timeout=30) == "second"


def test_its_children_end_with_it(tmp_path):
    @shoal.remote(num_cpus=0)
    def child(folder):
        (folder / "started").touch()
        until((folder / "never").exists, 60)

    @shoal.remote(timeout_s=0.5, num_cpus=0)
    def parent(folder, out):
        ref = child.remote(folder)
        out.put([ref])
        shoal.get(ref, timeout=60)

    out = shoal.Queue()
    with pytest.raises(TaskTimeoutError):
        shoal.get(parent.remote(tmp_path, out), timeout=30)
    with pytest.raises(shoal.exceptions.TaskCancelledError):
        shoal.get(out.get(timeout=20)[0], timeout=30)


def test_generators_no_returns_and_dependents():
    @shoal.remote(timeout_s=0.3)
    def items():
        yield 1
        time.sleep(60)

    generator = items.remote()
    assert shoal.get(next(generator)) == 1
    with pytest.raises(TaskTimeoutError):
        shoal.get(next(generator), timeout=30)
    assert list(generator) == []
    assert slow.options(num_returns=0).remote() is None
    for ref in (same.remote(slow.remote()), slow.options(num_returns=2).remote()[1]):
        with pytest.raises(TaskTimeoutError):
            shoal.get(ref, timeout=30)


def test_a_result_that_is_saved_in_time_stays():
    @shoal.remote(timeout_s=0.1)
    def saves():
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            return "what there was"

    assert shoal.get(saves.remote(), timeout=30) == "what there was"


def test_cancelled_before_its_time():
    ref = slow.options(timeout_s=1000).remote()
    until(lambda: any(p["label"] == "slow" and p["running"] for p in shoal._core.processes()))
    shoal.cancel(ref)
    with pytest.raises(shoal.exceptions.TaskCancelledError):
        shoal.get(ref, timeout=30)


def test_wrong_limits():
    for wrong in (0, -1, 1e9, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout_s"):
            same.options(timeout_s=wrong)
    for wrong in ("1", True, [1]):
        with pytest.raises(TypeError, match="timeout_s"):
            same.options(timeout_s=wrong)
    assert shoal.get(same.options(timeout_s=None).remote(1)) == 1
    with pytest.raises(ValueError, match="timeout_s"):
        same.options(timeout=1)

    with pytest.raises(ValueError, match="cancel"):

        @shoal.remote(timeout_s=1)
        class Actor:
            pass
