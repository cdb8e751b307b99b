"""Signatures and behaviour of `threading`: each scenario runs with its primitives and with ours, and must come out alike."""

from __future__ import annotations

import inspect
import threading

import pytest

import shoal

pytestmark = pytest.mark.usefixtures("session")

OURS = {
    "Lock": shoal.lock,
    "RLock": lambda: shoal.lock(reentrant=True),
    **{name: getattr(shoal.sync, name) for name in ("Semaphore", "BoundedSemaphore", "Event", "Condition", "Barrier")},
}
METHODS = {
    "Lock": {"acquire": "(blocking=True, timeout={})", "release": "()", "locked": "()"},
    "RLock": {"acquire": "(blocking=True, timeout={})", "release": "()"},
    "Semaphore": ["acquire", "release", "__enter__"],
    "BoundedSemaphore": ["acquire", "release", "__enter__"],
    "Event": ["set", "clear", "is_set", "wait"],
    "Condition": ["acquire", "release", "wait", "wait_for", "notify", "notify_all", "__enter__"],
    "Barrier": ["wait", "reset", "abort"],
}
ARGUMENTS = {"Barrier": (2,)}


def parameters(function):
    """Name, kind and default of each parameter that can be given."""
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in found if p.kind is not p.VAR_POSITIONAL]


@pytest.mark.parametrize("name", OURS)
def test_signatures(name):
    ours = OURS[name](*ARGUMENTS.get(name, ()))
    if name in ("Lock", "RLock"):  # threading's are native, and say nothing
        for method, text in METHODS[name].items():
            assert str(inspect.signature(getattr(ours, method))) == text.format(None)
        return
    theirs_type = getattr(threading, name)
    theirs = theirs_type(*ARGUMENTS.get(name, ()))
    expected = parameters(theirs_type)
    assert parameters(OURS[name])[: len(expected)] == expected
    assert all(p.kind is p.KEYWORD_ONLY for p in list(inspect.signature(OURS[name]).parameters.values())[len(expected) :])
    for method in METHODS[name]:
        if name == "Condition" and method in ("acquire", "release"):
            continue  # its lock's
        if method == "__enter__":  # nobody calls that by hand
            assert callable(getattr(ours, method)) and callable(ours.__exit__)
            continue
        assert parameters(getattr(ours, method)) == parameters(getattr(theirs, method)), method


def attributes(name):
    return {x for x in dir(getattr(threading, name)) if not x.startswith("_")} - {"isSet", "notifyAll"}  # deprecated


@pytest.mark.parametrize("name", ["Semaphore", "BoundedSemaphore", "Event", "Condition", "Barrier"])
def test_nothing_is_missing(name):
    assert attributes(name) <= set(dir(OURS[name](*ARGUMENTS.get(name, ()))))


def in_thread(function):
    """What it returns, or the type of what it raises, in another thread."""
    found = []

    def run():
        try:
            found.append(function())
        except Exception as error:
            found.append(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    return found[0]


def scenario_lock(x):
    yield x.acquire()
    yield in_thread(lambda: x.acquire(blocking=False))
    yield in_thread(lambda: x.acquire(False))
    yield in_thread(lambda: x.acquire(True, 0.01))
    yield in_thread(lambda: x.acquire(timeout=0.01))
    yield x.release()
    yield x.acquire(timeout=-1)
    x.release()
    yield lambda: x.release()
    yield lambda: x.acquire(blocking=False, timeout=1)
    yield lambda: x.acquire(timeout=-2)
    yield lambda: x.acquire(timeout="soon")
    with x as got:
        yield got is True or got is x
        yield in_thread(lambda: x.acquire(blocking=False))
    yield x.acquire(blocking=False)
    x.release()


def scenario_locked(x):
    yield x.locked()
    with x:
        yield x.locked()
    yield x.locked()


def scenario_reentrant(x):
    yield [x.acquire(), x.acquire(), x.acquire(blocking=False)]
    x.release()
    x.release()
    yield in_thread(lambda: x.acquire(blocking=False))
    yield in_thread(x.release)
    x.release()
    yield lambda: x.release()


def scenario_semaphore(x):
    yield [x.acquire(), x.acquire(blocking=False), x.acquire(timeout=0.01)]
    yield lambda: x.acquire(blocking=False, timeout=1)
    yield x.release()
    yield lambda: x.release(0)
    yield in_thread(lambda: x.acquire(blocking=False))
    x.release(n=1)
    with x as got:
        yield got
    yield x.acquire(False)
    x.release(1)


def scenario_bounded(x):
    yield lambda: x.release()
    x.acquire()
    x.release()
    yield lambda: x.release(2)
    yield x.acquire(blocking=False)


def scenario_event(x):
    yield [x.is_set(), x.wait(0.01), x.wait(timeout=0)]
    yield [x.set(), x.is_set(), x.wait(), in_thread(lambda: x.wait(5))]
    yield [x.clear(), x.is_set(), x.wait(timeout=0.01)]
    yield lambda: x.wait("long")


def scenario_condition(x):
    yield lambda: x.wait(0.01)
    yield lambda: x.notify()
    yield lambda: x.notify_all()
    with x as got:
        yield got
        yield [x.wait(0.01), x.wait(timeout=0), x.notify(), x.notify(2), x.notify_all()]
        yield [x.wait_for(lambda: "yes"), x.wait_for(lambda: 0, 0.01), x.wait_for(lambda: [], timeout=0)]
        yield in_thread(lambda: x.acquire(False))
        with x:  # its own lock may be taken again
            yield x.wait(0.01)
        yield in_thread(lambda: x.acquire(False))
    yield x.acquire(False)
    x.release()
    yield lambda: x.release()
    turn = []

    def other():
        with x:
            turn.append(1)
            return x.wait_for(lambda: len(turn) == 2, 20)

    thread_result = []
    thread = threading.Thread(target=lambda: thread_result.append(other()))
    thread.start()
    while not turn:
        pass
    with x:
        turn.append(2)
        x.notify()
    thread.join(20)
    yield thread_result


def scenario_barrier(x):
    yield [x.parties, x.n_waiting, x.broken]
    yield lambda: x.wait(0.01)
    yield [x.broken, x.n_waiting]
    yield lambda: x.wait()
    yield [x.reset(), x.broken]
    found = []
    thread = threading.Thread(target=lambda: found.append(x.wait(20)))
    thread.start()
    found.append(x.wait(timeout=20))
    thread.join(20)
    yield sorted(found)
    yield [x.abort(), x.broken]
    yield lambda: x.wait()


SCENARIOS = [
    ("Lock", scenario_lock), ("RLock", scenario_lock), ("Lock", scenario_locked), ("RLock", scenario_reentrant),
    ("Semaphore", scenario_semaphore), ("BoundedSemaphore", scenario_semaphore), ("BoundedSemaphore", scenario_bounded),
    ("Event", scenario_event), ("Condition", scenario_condition), ("Barrier", scenario_barrier),
]  # fmt: skip


def outcome(step):
    if not inspect.isfunction(step):
        return step
    try:
        return step()
    except Exception as error:
        kinds = (ValueError, TypeError, threading.BrokenBarrierError, RuntimeError)  # the most particular first
        return next(kind for kind in kinds if isinstance(error, kind))


@pytest.mark.parametrize(("name", "scenario"), SCENARIOS, ids=lambda x: getattr(x, "__name__", x))
def test_behaviour(name, scenario):
    arguments = {"Barrier": (2,), "BoundedSemaphore": (1,)}.get(name, ())
    theirs = [outcome(step) for step in scenario(getattr(threading, name)(*arguments))]
    ours = [outcome(step) for step in scenario(OURS[name](*arguments))]
    assert ours == theirs
