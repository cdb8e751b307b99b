"""Drivers as programs of their own, to be interrupted, killed and looked at from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import uuid

from conftest import until

# What the drivers of these tests have in common.
PRELUDE = '''
import os, sys, time
import numpy as np
import shoal

@shoal.remote
def double(x):
    return 2 * x

@shoal.remote
def forever():
    while True:
        time.sleep(60)

@shoal.remote
def spin():
    while True:
        pass

@shoal.remote
def hold(name):
    with shoal.lock(name):
        time.sleep(60)

@shoal.remote
class Counter:
    def __init__(self):
        self.n = 0
    def add(self, k=1):
        self.n += k
        return self.n
    def spin(self):
        while True:
            pass

def ready():
    print("ready", flush=True)

def arena_is_whole():
    """The audit finds nothing, once the supervisor has cleared away what it may be about to."""
    from shoal import _core
    end = time.monotonic() + 30
    while (report := _core.check()) and time.monotonic() < end:
        time.sleep(0.001)
    assert report == "", report
'''


class Program:
    """A driver in a session and process group of its own, as if started from a terminal.

    All processes that come of it inherit a mark in their environment, by which they are found.
    """

    def __init__(self, code: str, *flags: str, prelude: str = PRELUDE, **kwargs: object) -> None:
        self.mark = uuid.uuid4().hex
        environment = {**os.environ, "SHOAL_TEST_MARK": self.mark, **kwargs.pop("env", {})}  # type: ignore[dict-item]
        self.process = subprocess.Popen(
            [sys.executable, *flags, "-c", prelude + textwrap.dedent(code)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment,
            **kwargs,
        )  # type: ignore[call-overload]  # fmt: skip
        self.pid: int = self.process.pid

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in {self.pid, *self.family()}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.communicate()

    def until_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", line + self.process.communicate()[1]

    def press_ctrl_c(self) -> None:
        os.killpg(self.pid, signal.SIGINT)

    def family(self) -> list[int]:
        """The processes of this program that live."""
        mark = self.mark.encode()
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    if mark in file.read():
                        found.append(int(pid))
            except OSError:
                pass
        return found

    def finish(self, seconds: float = 50) -> tuple[int, str, str]:
        """Wait for its end; returns its exit code, output and error output. (The limit is for a busy machine.)"""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def assert_all_gone(self) -> None:
        """No process of it is left. (It takes some hundredths of a second; the limit is for a busy machine.)"""
        until(lambda: not self.family())


def run(code: str, *flags: str, **kwargs: object) -> tuple[int, str, str]:
    """Run a driver to its end."""
    with Program(code, *flags, **kwargs) as program:
        return program.finish(110)
