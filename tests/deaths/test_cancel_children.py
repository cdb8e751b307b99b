"""cancel(recursive=True): what a cancelled task has submitted ends with it, wherever it is, and nothing else does."""

import os
import threading
import time

import pytest

import shoal
from conftest import until
from shoal.engine.local.cancelling import end_children
from shoal.exceptions import TaskCancelledError


@shoal.remote(num_cpus=0)
def hold(folder, name, value=None):
    """Runs until the file `go` is there, or it is interrupted."""
    try:
        (folder / name).touch()
        until((folder / "go").exists, 60)
    except KeyboardInterrupt:
        (folder / f"{name} interrupted").touch()
        raise
    return value


@shoal.remote(num_cpus=0)
def parent(folder, child, out):
    """Makes two children, hands their references to the outside, and waits."""
    out.put([child.remote(folder, "running"), child.options(num_cpus=100).remote(folder, "queued")])
    until((folder / "go").exists, 60)


pytestmark = [
    pytest.mark.usefixtures("audited"),
    pytest.mark.filterwarnings("ignore::shoal.exceptions.SchedulingWarning"),
]


def cancelled(ref):
    with pytest.raises(TaskCancelledError):
        shoal.get(ref, timeout=20)
    return True


@pytest.mark.parametrize("force", [False, True])
def test_children_end_with_their_parent(tmp_path, force):
    out = shoal.Queue()
    ref = parent.remote(tmp_path, hold, out)
    running, queued = out.get(timeout=20)
    until((tmp_path / "running").exists)
    shoal.cancel(ref, force=force)
    assert cancelled(ref) and cancelled(running) and cancelled(queued)
    assert not (tmp_path / "queued").exists()
    assert force or (tmp_path / "running interrupted").exists()


def test_not_if_that_is_not_wanted(tmp_path):
    out = shoal.Queue()
    ref = parent.remote(tmp_path, hold, out)
    running, queued = out.get(timeout=20)
    until((tmp_path / "running").exists)
    shoal.cancel(ref, recursive=False)
    assert cancelled(ref)
    assert shoal.wait([running, queued], num_returns=1, timeout=0.05)[0] == []
    shoal.cancel(queued)
    (tmp_path / "go").touch()
    assert shoal.get(running) is None


def test_grandchildren_too_and_the_finished_are_left_alone(tmp_path):
    @shoal.remote(num_cpus=0)
    def middle(folder, out):
        out.put([hold.remote(folder, "grandchild")])
        until((folder / "go").exists, 60)

    @shoal.remote(num_cpus=0)
    def top(folder, out):
        done = shoal.put("done")
        finished = hold.remote(folder.parent, "none", "finished")
        out.put([middle.remote(folder, out), finished, done])
        until((folder / "go").exists, 60)

    (tmp_path / "go").touch()
    folder = tmp_path / "inner"
    folder.mkdir()
    out = shoal.Queue()
    ref = top.remote(folder, out)
    first, second = out.get(timeout=20), out.get(timeout=20)
    if len(first) == 1:
        first, second = second, first
    child, finished, done = first
    assert shoal.get(finished) == "finished"
    until((folder / "grandchild").exists)
    other = hold.remote(folder, "bystander")
    shoal.cancel(ref)
    assert cancelled(ref) and cancelled(child) and cancelled(second[0])
    assert shoal.get([finished, done]) == ["finished", "done"]
    (folder / "go").touch()
    assert shoal.get(other) is None and not (folder / "bystander interrupted").exists()


def test_what_the_clean_up_submits_is_not_cancelled(tmp_path):
    @shoal.remote(num_cpus=0)
    def task(folder, out):
        try:
            (folder / "started").touch()
            until((folder / "never").exists, 60)
        finally:
            out.put([hold.remote(folder.parent / "clean", "up", "cleaned")])

    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "go").touch()
    (tmp_path / "work").mkdir()
    out = shoal.Queue()
    ref = task.remote(tmp_path / "work", out)
    until((tmp_path / "work" / "started").exists)
    shoal.cancel(ref)
    assert cancelled(ref)
    assert shoal.get(out.get(timeout=20)[0]) == "cleaned"


@shoal.remote(num_cpus=0)
def cleans_up(folder):
    try:
        (folder / "running").touch()
        until((folder / "go").exists, 60)
    except KeyboardInterrupt:
        (folder / "cleaning").touch()
        until((folder / "clean").exists, 60)
        (folder / "cleaned").touch()
        raise


def test_the_clean_up_of_a_child_is_not_interrupted_by_who_finds_it_again(tmp_path):
    """The one that cancels and the one that ends the parent both look for its children, and so does an ancestor's."""

    @shoal.remote(num_cpus=0)
    def parent(folder, out):
        child = cleans_up.remote(folder)
        out.put([child, shoal.get_runtime_context().get_task_id()])
        until((folder / "go").exists, 60)  # with get(), it would run the child inside

    out = shoal.Queue()
    ref = parent.remote(tmp_path, out)
    child, parent_id = out.get(timeout=20)
    until((tmp_path / "running").exists)
    shoal.cancel(ref)
    assert cancelled(ref)
    until((tmp_path / "cleaning").exists)
    for _ in range(100):
        end_children(int(parent_id, 16), False)
    (tmp_path / "clean").touch()
    assert cancelled(child)
    assert (tmp_path / "cleaned").exists()


def test_who_cancels_the_same_task_again_interrupts_it_again(tmp_path):
    ref = cleans_up.remote(tmp_path)
    until((tmp_path / "running").exists)
    shoal.cancel(ref)
    until((tmp_path / "cleaning").exists)
    shoal.cancel(ref)
    assert cancelled(ref)
    assert not (tmp_path / "cleaned").exists()


def test_the_clean_up_of_a_call_is_not_interrupted_when_another_is_cancelled(tmp_path):
    @shoal.remote
    class Loop:
        async def work(self, folder, name):
            import asyncio

            try:
                (folder / name).touch()
                await asyncio.Event().wait()
            finally:
                (folder / f"{name} cleaning").touch()
                while not (folder / "clean").exists():
                    await asyncio.sleep(0.001)
                (folder / f"{name} cleaned").touch()

    loop = Loop.remote()
    first, second = loop.work.remote(tmp_path, "first"), loop.work.remote(tmp_path, "second")
    for name, ref in (("first", first), ("second", second)):
        until((tmp_path / name).exists)
        shoal.cancel(ref)
        until((tmp_path / f"{name} cleaning").exists)
    (tmp_path / "clean").touch()
    assert cancelled(first) and cancelled(second)
    assert (tmp_path / "first cleaned").exists() and (tmp_path / "second cleaned").exists()


def test_a_parent_that_waits_for_its_child_and_one_that_goes_on_submitting(tmp_path):
    @shoal.remote(num_cpus=0)
    def waits(folder):
        shoal.get(hold.remote(folder, "child"))

    ref = waits.remote(tmp_path)
    until((tmp_path / "child").exists)
    shoal.cancel(ref)
    assert cancelled(ref)
    until((tmp_path / "child interrupted").exists)

    @shoal.remote(num_cpus=0)
    def submits(folder, count):
        while True:
            hold.remote(folder, "one of many")
            count.add()

    count = shoal.Counter()
    folder = tmp_path / "many"
    folder.mkdir()
    ref = submits.remote(folder, count)
    until(lambda: count.value > 20)
    shoal.cancel(ref)
    assert cancelled(ref)
    until(lambda: not any(p["running"] for p in shoal._core.processes()))  # all of them, also those since the cancellation
    assert not (folder / "go").exists()


def test_calls_of_actors_are_children_and_parents_too(tmp_path):
    @shoal.remote
    class Plain:
        def work(self, folder):
            (folder / "plain").touch()
            until((folder / "go").exists, 60)

        def well(self):
            return "well"

    @shoal.remote
    class Async:
        async def work(self, folder, other, out):
            import asyncio

            out.put([other.work.remote(folder), hold.remote(folder, "child of async")])
            await asyncio.Event().wait()

        async def well(self):
            return "well"

    plain, loop, out = Plain.remote(), Async.remote(), shoal.Queue()
    ref = loop.work.remote(tmp_path, plain, out)
    call, child = out.get(timeout=20)
    until(lambda: (tmp_path / "plain").exists() and (tmp_path / "child of async").exists())
    shoal.cancel(ref)
    assert cancelled(ref) and cancelled(call) and cancelled(child)
    assert shoal.get([plain.well.remote(), loop.well.remote()]) == ["well", "well"]


def test_a_generator_and_what_it_has_submitted(tmp_path):
    @shoal.remote(num_cpus=0)
    def items(folder):
        yield [hold.remote(folder, "child")]
        until((folder / "go").exists, 60)

    generator = items.remote(tmp_path)
    child = shoal.get(next(generator))[0]
    until((tmp_path / "child").exists)
    shoal.cancel(generator)
    assert cancelled(child)
    with pytest.raises(TaskCancelledError):
        shoal.get(next(generator), timeout=20)
    assert list(generator) == []


def test_a_parent_that_is_killed_from_outside_takes_nothing_with_it(tmp_path):
    out = shoal.Queue()
    ref = parent.options(max_retries=0).remote(tmp_path, hold, out)
    running, queued = out.get(timeout=20)
    until((tmp_path / "running").exists)
    pid = next(p["pid"] for p in shoal._core.processes() if p["label"] == "parent" and p["running"])
    os.kill(pid, 9)
    with pytest.raises(shoal.exceptions.WorkerCrashedError):
        shoal.get(ref, timeout=20)
    shoal.cancel(queued)
    (tmp_path / "go").touch()
    assert shoal.get(running, timeout=20) is None


def test_a_forced_end_hits_no_other_task():
    """The next task of the process, in many tries at just that moment."""

    @shoal.remote(max_retries=0)
    def short(n):
        return n

    stop = threading.Event()
    refs = []

    def canceller():
        while not stop.is_set():
            for ref in list(refs):
                shoal.cancel(ref, force=True)

    thread = threading.Thread(target=canceller)
    thread.start()
    hit = i = 0
    end = time.monotonic() + 60
    try:
        while i < 300 or (not hit and time.monotonic() < end):  # where cores are few, it is long before a cancellation hits
            i += 1
            victim = short.remote(-i)
            refs[:] = [victim]
            bystanders = [short.remote(i) for _ in range(3)]
            assert shoal.get(bystanders, timeout=30) == [i] * 3
            try:
                assert shoal.get(victim, timeout=30) == -i
            except TaskCancelledError:
                hit += 1
    finally:
        stop.set()
        thread.join()
    assert hit


def test_killing_an_actor_hits_nobody_else():
    @shoal.remote
    class Short:
        def pid(self):
            return os.getpid()

    @shoal.remote(max_retries=0)
    def same(x):
        return x

    for _ in range(10):
        actor = Short.remote()
        ref = actor.pid.remote()
        refs = [same.remote(k) for k in range(20)]
        shoal.kill(actor)
        assert shoal.get(refs, timeout=30) == list(range(20))
        with pytest.raises(shoal.exceptions.ActorDiedError):
            shoal.get([ref, actor.pid.remote()], timeout=30)
