"""What several workloads use."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from typing import Any

import shoal

Workload = Callable[..., int]
DETACHED = "walk-detached"  # the name of an actor that outlives who made it


@shoal.remote(max_retries=-1)
def waits(seconds: float, x: Any) -> Any:
    time.sleep(seconds)  # a call that lasts
    return x


@shoal.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Counting:
    def __init__(self) -> None:
        self.n = 0

    def add(self, _before: Any = None) -> int:
        self.n += 1
        return self.n

    def slow(self, seconds: float) -> int:
        time.sleep(seconds)  # a call that lasts
        return 1

    def stream(self, n: int) -> Generator[int, None, None]:
        yield from range(n)

    def end(self) -> None:
        shoal.exit_actor()


@shoal.remote(num_cpus=0)
class Mortal:
    def __init__(self, fail: bool = False) -> None:
        if fail:
            raise ValueError("not this one")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fine(self, *_: Any) -> int:
        return 4


def until(condition: Callable[[], Any], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.0005)  # a poll of what others do
    return True


def send(pid: int, number: int) -> None:
    try:
        if pid:
            os.kill(pid, number)
        if pid and number == signal.SIGSTOP:  # nobody may stay stopped, also if we die now
            subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {pid}"], start_new_session=True, stderr=subprocess.DEVNULL)
    except ProcessLookupError:
        pass


@shoal.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Holder:
    """Looks at what it is given."""

    def __init__(self) -> None:
        self.views: list[Any] = []

    def look(self, refs: list[Any]) -> int:
        self.views = [shoal.get(ref) for ref in refs]
        return sum(int(view[0]) for view in self.views)

    def forget(self) -> None:
        self.views = []
