"""Fixtures: a session per test module, and one that looks for leaks when a test wants that."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

import shoal
from shoal import _core


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


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that other processes do in their own time; fails when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        os.sched_yield()
        time.sleep(0.001)  # a poll of outside state, bounded by `seconds`


def quiet() -> bool:
    """Nobody but the driver is doing anything."""
    processes = _core.processes()
    return not any(p["running"] or p["lease"] for p in processes if p["slot"] > 1)


def run_python(code: str, *args: str, timeout: float = 60, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run `code` as a script's text in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args], capture_output=True, text=True, timeout=timeout, **kwargs
    )  # type: ignore[call-overload,no-any-return]
