"""Fixtures: a session per test module, and one that looks for leaks when a test wants that."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shoal
from shoal import _core

ALIVE = 2  # SlotState in core/abi.h


def pytest_configure() -> None:  # not at import: workers import this, too
    # Who starts us in the background (a shell, nohup) may have had them ignored, and the tests press Ctrl-C and hang up.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # three thousand tests live until the end: who collects garbage, as audit() does, need not look at them each time


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """A session with two CPUs for the tests of a module."""
    shoal.init(num_cpus=2)
    yield
    shoal.shutdown()


@pytest.fixture
def fresh() -> Iterator[Callable[..., None]]:
    """Call it with init()'s arguments for a session of the test's own."""
    assert not shoal.is_initialized()
    yield lambda **settings: shoal.init(**{"num_cpus": 2, **settings})
    shoal.shutdown()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that other processes do in their own time; fails when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        os.sched_yield()
        time.sleep(0.001)  # a poll of outside state, bounded by `seconds`


def stop(pid: int) -> None:
    """Stop a process once it sleeps; all of its threads are stopped when this returns."""
    until(lambda: asleep(pid))
    os.kill(pid, signal.SIGSTOP)
    until(lambda: _states(pid) == {"T"})


def asleep(pid: int) -> bool:
    """All threads of the process wait for something: who is stopped now keeps no lock of the arena from the others."""
    return _states(pid) == {"S"}


def _states(pid: int) -> set[str]:
    try:
        return {stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")}
    except (FileNotFoundError, ProcessLookupError):  # one of them ended just now
        return set()


def quiet() -> bool:
    """Nobody but the driver is doing anything."""
    processes = _core.processes()
    return not any(p["running"] or p["lease"] for p in processes if p["slot"] > 1)


def at_rest() -> bool:
    """The same, and all that actors without a handle, and the dead, still had is given back: who wants to see what comes and
    goes from here on waits for that. (The error of a death is told before the supervisor has cleared the last of it away.)"""
    gc.collect()
    return quiet() and all(p["state"] == ALIVE and p["role"] != _core.ACTOR for p in _core.processes() if p["slot"] > 1)


def only_worker() -> int:
    """The pid of the one worker, once it is asleep and there is no other, not even one that is only being started: one is if
    the first does not come soon, and leaves after a while."""
    others: list[tuple[int, int]] = []

    def alone() -> bool:
        others[:] = [(p["role"], p["pid"]) for p in _core.processes() if p["slot"] > 1]
        return quiet() and [role for role, _ in others] == [_core.WORKER] and asleep(others[0][1])

    until(alone)
    return others[0][1]


def in_time(scene: Callable[[float], bool], limit: float) -> None:
    """Play a scene in which something has to happen before a limit of time is over: `scene(limit)` returns whether it had.
    If it had not, the machine was too busy for what comes before, and it is played again with a longer limit."""
    while not scene(limit):
        limit *= 4
        assert limit < 60, "it never happens in time"


def run_python(code: str, *args: str, timeout: float = 60, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run `code` as a script's text in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        **kwargs,
    )  # type: ignore[call-overload,no-any-return]


def leftovers() -> int:
    """Objects in the arena besides what every session keeps: its settings, and each function that was exported."""
    exported = len(_core.name_list(3))  # NAMES_FUNCTION in core/abi.h
    return int(_core.statistics()["objects"]) - 1 - exported


def audit(kept: int = 0) -> None:
    """Once all is quiet the arena is whole, and no object is left in it but `kept` (all references are dropped)."""
    gc.collect()
    report = ["nothing came to rest"]

    def clean() -> bool:
        if not quiet():
            return False
        report[0] = _core.check() or ("" if leftovers() == kept else f"{leftovers()} objects are left")
        return not report[0]

    try:
        until(clean, 30)
    except AssertionError:
        raise AssertionError(report[0]) from None


@pytest.fixture(scope="module")
def audited() -> Iterator[None]:
    """A session with two CPUs for the tests of a module, which must leave nothing behind in it."""
    shoal.init(num_cpus=2)
    yield
    try:
        audit()
    finally:
        shoal.shutdown()
