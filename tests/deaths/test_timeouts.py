"""timeout_s: a task that takes too long is interrupted, then killed; its caller gets a TaskTimeoutError."""

import time

import pytest

import shoal
from conftest import in_time, until
from shoal.exceptions import GetTimeoutError, TaskTimeoutError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote(timeout_s=0.2)
def slow(folder=None):
    try:
        if folder:
            (folder / "begun").touch()
        time.sleep(60)
    finally:
        if folder:
            (folder / "cleaned").touch()


@shoal.remote
def native(folder):
    (folder / "begun").touch()
    return sum(range(10**12))  # an hour in one call of C code, which looks at no signals


@shoal.remote
def same(x):
    return x


def test_a_task_that_is_in_time():
    assert shoal.get([same.options(timeout_s=20).remote(i) for i in range(200)]) == list(range(200))
    assert shoal.get(same.options(timeout_s=20, num_returns=2).remote((1, 2))) == [1, 2]


def test_a_task_that_is_not(tmp_path):
    def scene(limit):
        (tmp_path / "begun").unlink(missing_ok=True)
        (tmp_path / "cleaned").unlink(missing_ok=True)
        with pytest.raises(TimeoutError) as caught:
            shoal.get(slow.options(timeout_s=limit).remote(tmp_path), timeout=90)
        error = caught.value
        assert isinstance(error, TaskTimeoutError) and not isinstance(error, GetTimeoutError)
        if error.forced or not (tmp_path / "begun").exists():
            return False  # it had no core when it was interrupted, or not even begun
        assert (error.task_name, error.timeout, error.attempt, error.forced) == ("slow", limit, 0, False)
        assert error.pid and f"slow() (pid {error.pid})" in str(error) and f"timeout_s={limit:g}" in str(error)
        assert (tmp_path / "cleaned").exists()
        return True

    in_time(scene, 0.2)


def test_several_at_a_time_and_the_others_go_on():
    refs = [slow.remote() for _ in range(4)]
    assert shoal.get([same.options(num_cpus=0).remote(i) for i in range(50)]) == list(range(50))
    for ref in refs:
        with pytest.raises(TaskTimeoutError):
            shoal.get(ref, timeout=30)


def test_native_code_that_does_not_listen_is_killed(tmp_path):
    def scene(limit):
        (tmp_path / "begun").unlink(missing_ok=True)
        with pytest.raises(TaskTimeoutError) as caught:
            shoal.get(native.options(timeout_s=limit).remote(tmp_path), timeout=90)
        if not caught.value.forced or not (tmp_path / "begun").exists():
            return False  # it was interrupted, or killed, before it was there
        assert "killed" in str(caught.value) and caught.value.task_name == "native"
        return True

    in_time(scene, 0.2)
    assert shoal.get([same.remote(i) for i in range(20)]) == list(range(20))


def test_the_limit_is_for_each_run_not_for_waiting(tmp_path):
    @shoal.remote
    def hold(path):
        until(path.exists, 60)

    def scene(limit):
        blockers = [hold.remote(tmp_path / str(limit)) for _ in range(2)]
        ref = same.options(timeout_s=limit).remote("in time")
        assert shoal.wait([ref], timeout=2 * limit)[0] == []
        (tmp_path / str(limit)).touch()
        shoal.get(blockers)
        try:
            return shoal.get(ref, timeout=30) == "in time"
        except TaskTimeoutError:  # it ran, but not fast enough
            return False

    in_time(scene, 0.1)


@pytest.mark.parametrize(
    ("retry", "attempts"), [(False, 1), ([OSError], 3), (True, 3), ([TimeoutError], 3), ([TaskTimeoutError], 3), ([KeyError], 1)]
)
def test_retries(tmp_path, retry, attempts):
    """TaskTimeoutError is a TimeoutError, and so an OSError."""

    @shoal.remote(max_retries=2, retry_exceptions=retry)
    def task(path):
        with path.open("a") as file:
            file.write("x")
        time.sleep(60)

    def scene(limit):
        runs = tmp_path / str(limit)
        with pytest.raises(TaskTimeoutError) as caught:
            shoal.get(task.options(timeout_s=limit).remote(runs), timeout=60)
        assert caught.value.attempt == attempts - 1
        seen = len(runs.read_text()) if runs.exists() else 0
        assert seen <= attempts
        return seen == attempts  # fewer: one was interrupted before it had written

    in_time(scene, 0.05)


def test_a_second_attempt_that_is_quick():
    @shoal.remote(max_retries=1, retry_exceptions=True)
    def task():
        if shoal.get_runtime_context().get_attempt_number() == 0:
            time.sleep(60)
        return "second"

    in_time(lambda limit: second_in_time(task, limit), 0.1)


def second_in_time(task, limit):
    try:
        return shoal.get(task.options(timeout_s=limit).remote(), timeout=60) == "second"
    except TaskTimeoutError as error:
        assert error.attempt == 1
        return False


def test_forced_and_repeated():
    @shoal.remote(max_retries=1, retry_exceptions=[TimeoutError])
    def task():
        if shoal.get_runtime_context().get_attempt_number() == 0:
            sum(range(10**12))
        return "second"

    in_time(lambda limit: second_in_time(task, limit), 0.1)


def test_its_children_end_with_it(tmp_path):
    @shoal.remote(num_cpus=0)
    def child(folder):
        (folder / "started").touch()
        until((folder / "never").exists, 60)

    @shoal.remote(num_cpus=0)
    def parent(folder, out):
        ref = child.remote(folder)
        out.put([ref])
        shoal.get(ref, timeout=60)

    def scene(limit):
        out = shoal.Queue()
        with pytest.raises(TaskTimeoutError):
            shoal.get(parent.options(timeout_s=limit).remote(tmp_path, out), timeout=60)
        if out.empty():
            return False
        with pytest.raises(shoal.exceptions.TaskCancelledError):
            shoal.get(out.get()[0], timeout=30)
        return True

    in_time(scene, 0.3)


def test_generators_no_returns_and_dependents():
    @shoal.remote
    def items():
        yield 1
        time.sleep(60)

    def scene(limit):
        generator = items.options(timeout_s=limit).remote()
        *before, last = generator
        with pytest.raises(TaskTimeoutError):
            shoal.get(last, timeout=30)
        assert list(generator) == []
        return shoal.get(before) == [1]

    in_time(scene, 0.2)
    assert slow.options(num_returns=0).remote() is None
    for ref in (same.remote(slow.remote()), slow.options(num_returns=2).remote()[1]):
        with pytest.raises(TaskTimeoutError):
            shoal.get(ref, timeout=30)


def test_a_result_that_is_saved_in_time_stays():
    @shoal.remote
    def saves():
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            return "what there was"

    def scene(limit):
        try:
            return shoal.get(saves.options(timeout_s=limit).remote(), timeout=60) == "what there was"
        except TaskTimeoutError:  # interrupted before the try block
            return False

    in_time(scene, 0.1)


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
