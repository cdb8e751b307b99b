"""A task whose worker does not come, though another one is idle."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import shoal
from conftest import until
from shoal import _core


@shoal.remote
def pid():
    return os.getpid()


@shoal.remote
def meet(barrier):
    barrier.wait()


def asleep(process):
    folder = f"/proc/{process}/task"
    texts = [Path(folder, thread, "stat").read_text() for thread in os.listdir(folder)]
    return all(text.rpartition(")")[2].split()[0] == "S" for text in texts)


def test_a_worker_that_was_woken_is_stopped(fresh):
    """Say by a debugger. Who waits looks after a quarter of a second."""
    fresh(num_cpus=2)
    barrier = shoal.sync.Barrier(2)
    shoal.get([meet.remote(barrier) for _ in range(2)])  # both workers are there

    def workers():
        return [p["pid"] for p in _core.processes() if p["role"] == _core.WORKER]

    for worker in workers():  # one of them is the next to be woken
        until(lambda worker=worker: asleep(worker))
        os.kill(worker, signal.SIGSTOP)
        try:
            assert shoal.get(pid.remote()) != worker
        finally:
            os.kill(worker, signal.SIGCONT)
