"""What can never come is an error at once, in every kind of wait; a Ctrl-C ends each of them."""

import asyncio
import contextlib
import os
import queue
import signal
import threading
import time

import pytest

import shoal
from conftest import until
from shoal import _core
from shoal.exceptions import ActorDiedError, ShoalError, TaskCancelledError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("audited")


def pid_file(folder, name):
    """Appears whole."""
    (folder / f"{name}.new").write_text(str(os.getpid()))
    (folder / f"{name}.new").rename(folder / name)


def kill_holder(folder):
    until((folder / "held").exists)
    os.kill(int((folder / "held").read_text()), signal.SIGKILL)


@shoal.remote(num_cpus=0, max_retries=0)
def hold(folder, name="held"):
    pid_file(folder, name)
    until((folder / "go").exists, 60)


@shoal.remote
def same(x, *_):
    return x


@shoal.remote(max_retries=0)
def crash(*_):
    os._exit(1)


@shoal.remote
class Actor:
    def __init__(self, *args):
        self.args = args

    def hold(self, folder):
        (folder / "held").touch()
        until((folder / "go").exists, 60)

    def well(self, *_):
        return "well"


@shoal.remote
class Unborn:
    def __init__(self, *_):
        raise OSError("no constructor")

    def well(self, *_):
        return "well"


# -- the ways to wait: each returns the exception that it ends with --------------------------------------------


def by_get(ref):
    shoal.get(ref, timeout=30)


def by_get_without_limit(ref):
    shoal.get(ref)


def by_list(ref):
    shoal.get([shoal.put(1), ref], timeout=30)


def by_wait(ref):
    ready, _ = shoal.wait([ref, same.options(num_cpus=0).remote(1)], num_returns=2, timeout=30)
    assert len(ready) == 2
    shoal.get(ref)


def by_await(ref, running=lambda loop: None):
    async def wait():
        running(asyncio.get_running_loop())
        await asyncio.wait_for(asyncio.ensure_future(gather(ref)), 30)

    async def gather(ref):
        await ref

    asyncio.run(wait())


def by_future(ref):
    ref.future().result(timeout=30)


def by_dependent(ref):
    shoal.get(same.remote(ref), timeout=30)


def by_call_of_an_actor(ref):
    shoal.get(Actor.remote().well.remote(ref), timeout=30)


def by_constructor(ref):
    shoal.get(Actor.remote(ref).well.remote(), timeout=30)


def in_a_task(ref):
    shoal.get(gets.remote([ref]), timeout=30)


@shoal.remote
def gets(box):
    return shoal.get(box[0])


WAITS = [by_get, by_get_without_limit, by_list, by_wait, by_await, by_future, by_dependent, in_a_task]


# -- the reasons: a reference, what ends its hopes once somebody waits, and the error --------------------------


def queued_and_cancelled(folder):
    argument = hold.remote(folder)
    ref = same.remote(argument)
    return ref, lambda: shoal.cancel(ref), TaskCancelledError


def running_and_cancelled(folder):
    ref = hold.remote(folder)
    return ref, lambda: (until((folder / "held").exists), shoal.cancel(ref)), TaskCancelledError


def worker_killed(folder):
    ref = hold.remote(folder)
    return ref, lambda: kill_holder(folder), WorkerCrashedError


def dependent_of_a_crash(folder):
    return same.remote(same.remote(crash.remote())), lambda: None, WorkerCrashedError


def actor_killed(folder):
    actor = Actor.remote()
    actor.hold.remote(folder)
    ref = actor.well.remote()
    return ref, lambda: (until((folder / "held").exists), shoal.kill(actor)), ActorDiedError


def actor_dead_already(folder):
    actor = Actor.remote()
    shoal.kill(actor)
    return actor.well.remote(), lambda: None, ActorDiedError


def constructor_failed(folder):
    return Unborn.remote().well.remote(), lambda: None, ActorDiedError


def constructor_waits_for_what_fails(folder):
    return Actor.remote(crash.remote()).well.remote(), lambda: None, (ActorDiedError, WorkerCrashedError)


def actor_waits_for_resources_and_is_killed(folder):
    actor = Actor.options(num_cpus=2).remote(hold.remote(folder))
    return actor.well.remote(), lambda: shoal.kill(actor), ActorDiedError


def generator_killed(folder):
    @shoal.remote(num_cpus=0, max_retries=0)
    def items():
        yield 1
        pid_file(folder, "held")
        until((folder / "go").exists, 60)

    generator = items.remote()
    next(generator)
    return generator.completed(), lambda: kill_holder(folder), WorkerCrashedError


REASONS = [
    queued_and_cancelled,
    running_and_cancelled,
    worker_killed,
    dependent_of_a_crash,
    actor_killed,
    actor_dead_already,
    constructor_failed,
    constructor_waits_for_what_fails,
    actor_waits_for_resources_and_is_killed,
    generator_killed,
]


CASES = [(reason, wait) for reason in REASONS for wait in WAITS]
CASES += [(reason, wait) for reason in (queued_and_cancelled, worker_killed) for wait in (by_call_of_an_actor, by_constructor)]


@pytest.mark.parametrize(("reason", "wait"), CASES, ids=lambda f: f.__name__)
def test_it_is_an_error_at_once(reason, wait, tmp_path):
    ref, end, kind = reason(tmp_path)
    thread = threading.Thread(target=end)
    thread.start()
    try:
        with pytest.raises(ShoalError) as caught:
            wait(ref)
    finally:
        thread.join()
        (tmp_path / "go").touch()
    if wait is by_constructor:  # the actor that it was for is dead of it
        assert isinstance(caught.value, (ActorDiedError, *(kind if isinstance(kind, tuple) else (kind,))))
    else:
        assert isinstance(caught.value, kind)
    del ref, caught


def test_items_of_a_generator_whose_producer_died(tmp_path):
    @shoal.remote(max_retries=0)
    def items():
        yield 1
        yield 2
        os._exit(1)

    generator = items.remote()
    assert shoal.get([next(generator), next(generator)]) == [1, 2]
    with pytest.raises(WorkerCrashedError):
        shoal.get(next(generator), timeout=30)
    assert list(generator) == []

    async def iterate():
        got = []
        async for ref in items.remote():
            try:
                got.append(await ref)
            except WorkerCrashedError:
                got.append("crashed")
        return got

    assert asyncio.run(asyncio.wait_for(iterate(), 30)) == [1, 2, "crashed"]


def test_the_submitter_is_gone(tmp_path):
    """A task whose submitter died runs all the same: its result is for whoever has its reference."""

    @shoal.remote(max_retries=0)
    def submits(out):
        out.put([same.remote("survives"), hold.options(num_cpus=0).remote(tmp_path), same.remote(hold.remote(tmp_path, "other"))])
        os._exit(1)

    out = shoal.Queue()
    ref = submits.remote(out)
    quick, running, waiting = out.get(timeout=20)
    with pytest.raises(WorkerCrashedError):
        shoal.get(ref, timeout=30)
    (tmp_path / "go").touch()
    assert shoal.get([quick, running, waiting], timeout=30) == ["survives", None, None]


@pytest.mark.skipif(not _core.CRASH_POINTS, reason="needs a build with TEST_HOOKS=ON")
def test_the_submitter_died_while_it_submitted():
    @shoal.remote(max_retries=0)
    def submits(nth, argument):
        _core.arm_crash_point(f"tx.set:{nth}")
        return shoal.get(same.remote(argument))

    for nth in range(1, 60, 3):
        try:
            shoal.get(submits.remote(nth, [shoal.put(1)]), timeout=30)
        except WorkerCrashedError:
            pass


def test_a_named_actor_that_was_never_made():
    start = time.monotonic()
    with pytest.raises(ValueError, match="no actor named"):
        shoal.get_actor("nobody")
    assert time.monotonic() - start < 10


# -- Ctrl-C ----------------------------------------------------------------------------------------------------


def by_generator(ref):
    shoal.get(next(gets.options(num_cpus=0, num_returns="streaming").remote([ref])))


def by_wait_with_limit(ref):
    shoal.wait([ref], timeout=60)


@pytest.mark.parametrize(
    "wait",
    [by_get, by_get_without_limit, by_list, by_wait, by_wait_with_limit, by_await, by_future, by_dependent, by_generator],
    ids=lambda f: f.__name__,
)
def test_ctrl_c_ends_the_wait(wait, tmp_path, monkeypatch):
    ref = hold.remote(tmp_path)
    until((tmp_path / "held").exists)
    main = threading.main_thread().ident
    done = threading.Event()

    def once(_number, _frame):
        """A press that comes when the wait is over already is nobody's: it must not hit what the test does next."""
        if not done.is_set():
            done.set()
            raise KeyboardInterrupt

    def press():
        """Once the main thread waits, and again until it does not any more: it may have been on the way into the wait."""
        while not done.wait(0.05):
            signal.pthread_kill(main, signal.SIGINT)

    def press_in_loop():
        """Once the event loop runs, whose own handler cancels what it runs for. Only once: the next press, and one before, would
        hit asyncio itself. It is woken in case it had looked for signals, and slept only then."""
        loop = loops.get(timeout=60)
        if not done.wait(0.05):
            signal.pthread_kill(main, signal.SIGINT)
            with contextlib.suppress(RuntimeError):  # closed already
                loop.call_soon_threadsafe(lambda: None)

    loops = queue.SimpleQueue()
    thread = threading.Thread(target=press_in_loop if wait is by_await else press)
    monkeypatch.setattr(signal, "default_int_handler", once)  # an event loop has a handler of its own in the place of this one
    before = signal.signal(signal.SIGINT, once)
    try:
        with pytest.raises(KeyboardInterrupt):
            thread.start()
            try:
                by_await(ref, loops.put) if wait is by_await else wait(ref)
            finally:
                done.set()
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
        (tmp_path / "go").touch()
    assert shoal.get(ref, timeout=30) is None
    by_await(same.remote("well"))  # what a closed event loop still awaited is forgotten when another one awaits
