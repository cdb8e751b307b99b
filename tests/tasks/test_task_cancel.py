"""cancel: tasks that wait for arguments, wait in the queue, run, wait themselves, or are over."""

import time

import pytest

import shoal
from conftest import audit, until
from shoal import _core
from shoal.exceptions import TaskCancelledError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
def hold(path, value=None):
    until(path.exists, 60)
    return value


@shoal.remote
def touch(path, *_):
    path.touch()


@shoal.remote
def same(x):
    return x


def running(n):
    until(lambda: sum(p["running"] for p in _core.processes()) == n)


@pytest.mark.parametrize("force", [False, True])
def test_a_queued_task_is_dropped_and_never_runs(tmp_path, force):
    blockers = [hold.remote(tmp_path / "go") for _ in range(2)]
    running(2)
    refs = [touch.remote(tmp_path / str(i)) for i in range(5)]
    shoal.cancel(refs[2], force=force)
    with pytest.raises(TaskCancelledError):
        shoal.get(refs[2], timeout=20)
    (tmp_path / "go").touch()
    shoal.get([*blockers, *refs[:2], *refs[3:]])
    assert not (tmp_path / "2").exists() and (tmp_path / "4").exists()


def test_a_task_that_waits_for_an_argument(tmp_path):
    argument = hold.remote(tmp_path / "go")
    ref = touch.remote(tmp_path / "ran", argument)
    after = touch.remote(tmp_path / "ran too", ref)
    shoal.cancel(ref)
    with pytest.raises(TaskCancelledError):
        shoal.get([ref], timeout=20)
    with pytest.raises(TaskCancelledError):
        shoal.get(after, timeout=20)
    (tmp_path / "go").touch()
    shoal.get(argument)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "ran too").exists()


def test_a_running_task_is_interrupted_and_may_clean_up(tmp_path):
    @shoal.remote
    def task():
        try:
            (tmp_path / "started").touch()
            until((tmp_path / "never").exists, 60)
        finally:
            (tmp_path / "cleaned").touch()

    ref = task.remote()
    until((tmp_path / "started").exists)
    shoal.cancel(ref)
    with pytest.raises(TaskCancelledError):
        shoal.get(ref, timeout=20)
    assert (tmp_path / "cleaned").exists()
    assert shoal.get(same.remote(1)) == 1


def test_a_running_task_in_a_long_sleep_is_interrupted_at_once(tmp_path):
    @shoal.remote
    def sleeps():
        (tmp_path / "started").touch()
        time.sleep(60)

    ref = sleeps.remote()
    until((tmp_path / "started").exists)
    shoal.cancel(ref)
    with pytest.raises(TaskCancelledError):
        shoal.get(ref, timeout=20)


def test_force_kills_what_does_not_listen(tmp_path):
    @shoal.remote(max_retries=3)
    def stubborn():
        while not (tmp_path / "never").exists():
            try:
                (tmp_path / "started").touch()
                time.sleep(60)
            except KeyboardInterrupt:
                (tmp_path / "heard").touch()

    ref = stubborn.remote()
    until((tmp_path / "started").exists)
    shoal.cancel(ref)
    until((tmp_path / "heard").exists)
    assert shoal.wait([ref], timeout=0.05)[0] == []
    shoal.cancel(ref, force=True)
    with pytest.raises((TaskCancelledError, WorkerCrashedError)):
        shoal.get(ref, timeout=20)
    assert shoal.get([same.remote(i) for i in range(20)]) == list(range(20))


def test_a_finished_task_keeps_its_result(tmp_path):
    ref = same.remote("kept")
    assert shoal.get(ref) == "kept"
    for force in (False, True):
        shoal.cancel(ref, force=force)
        assert shoal.get(ref) == "kept"
    put = shoal.put(1)
    shoal.cancel(put)
    assert shoal.get(put) == 1


def test_a_worker_is_of_use_after_many_cancellations(tmp_path):
    for i in range(30):
        ref = hold.remote(tmp_path / "never")
        if i % 3:
            running(1)
        shoal.cancel(ref)
        with pytest.raises(TaskCancelledError):
            shoal.get(ref, timeout=20)
    assert shoal.get([same.remote(i) for i in range(50)]) == list(range(50))


def test_cancellations_that_race_with_the_end_of_their_task():
    """Either the result or the cancellation, never anything else, and no task is hit by its predecessor's."""
    for i in range(300):
        ref = same.remote(i)
        if i % 2:
            shoal.wait([ref], timeout=0.0001)
        shoal.cancel(ref)
        try:
            assert shoal.get(ref, timeout=20) == i
        except TaskCancelledError:
            pass
        assert shoal.get(same.remote(-i), timeout=20) == -i


def test_cancelling_twice_and_by_another_return(tmp_path):
    blockers = [hold.remote(tmp_path / "go") for _ in range(2)]
    running(2)
    first, second = same.options(num_returns=2).remote((1, 2))
    shoal.cancel(second)
    shoal.cancel(first)
    shoal.cancel(second)
    for ref in (first, second):
        with pytest.raises(TaskCancelledError):
            shoal.get(ref, timeout=20)
    (tmp_path / "go").touch()
    shoal.get(blockers)


def test_a_task_can_cancel_another_and_be_told(tmp_path):
    @shoal.remote(num_cpus=0)
    def canceller(container):
        shoal.cancel(container[0])
        try:
            shoal.get(container[0], timeout=20)
        except TaskCancelledError:
            return "cancelled"

    ref = hold.remote(tmp_path / "never")
    running(1)
    assert shoal.get(canceller.remote([ref])) == "cancelled"


def test_a_cancelled_task_is_not_retried(tmp_path):
    @shoal.remote(max_retries=5, retry_exceptions=True)
    def task():
        with (tmp_path / "attempts").open("a") as file:
            file.write("x")
        until((tmp_path / "never").exists, 60)

    ref = task.remote()
    until(lambda: (tmp_path / "attempts").exists() and (tmp_path / "attempts").read_text() == "x")
    shoal.cancel(ref)
    with pytest.raises(TaskCancelledError):
        shoal.get(ref, timeout=20)
    assert (tmp_path / "attempts").read_text() == "x"


def test_an_exception_in_the_clean_up_does_not_hide_the_cancellation(tmp_path):
    @shoal.remote
    def task():
        try:
            (tmp_path / "started").touch()
            until((tmp_path / "never").exists, 60)
        except KeyboardInterrupt:
            raise ValueError("while cleaning up") from None

    ref = task.remote()
    until((tmp_path / "started").exists)
    shoal.cancel(ref)
    with pytest.raises((TaskCancelledError, ValueError)):
        shoal.get(ref, timeout=20)


def test_a_thousand_queued_tasks_are_cancelled(tmp_path):
    audit()
    blockers = [hold.remote(tmp_path / "go") for _ in range(2)]
    running(2)
    refs = [same.remote(shoal.put(i)) for i in range(1000)]
    for ref in refs:
        shoal.cancel(ref)
    ready, _ = shoal.wait(refs, num_returns=1000, timeout=20)
    assert len(ready) == 1000
    (tmp_path / "go").touch()
    shoal.get(blockers)
    del refs, ref, ready, blockers
    audit()


def test_what_cannot_be_cancelled():
    for wrong in (5, None, "ref", [same.remote(1)]):
        with pytest.raises(TypeError, match="ObjectRef"):
            shoal.cancel(wrong)


@shoal.remote
class Counter:
    def work(self, folder):
        (folder / "started").touch()
        until((folder / "go").exists, 60)
        return "done"


def test_force_is_refused_for_a_call_of_an_actor(tmp_path):
    actor = Counter.remote()
    ref = actor.work.remote(tmp_path)
    until((tmp_path / "started").exists)
    with pytest.raises(ValueError, match="kill"):
        shoal.cancel(ref, force=True)
    (tmp_path / "go").touch()
    assert shoal.get(ref) == "done"
