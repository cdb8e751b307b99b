"""A task whose worker does not come, though another one is idle."""

from __future__ import annotations

import os
import signal

import shoal
from conftest import asleep, stop, until
from shoal import _core


@shoal.remote
def pid():
    return os.getpid()


@shoal.remote
def meet(barrier):
    barrier.wait()


def test_a_worker_that_was_woken_is_stopped(fresh):
    """Say by a debugger. Who waits looks after a quarter of a second."""
    fresh(num_cpus=2)
    barrier = shoal.sync.Barrier(2)
    shoal.get([meet.remote(barrier) for _ in range(2)])  # both workers are there

    def workers():
        return [p["pid"] for p in _core.processes() if p["role"] == _core.WORKER]

    for worker in workers():  # one of them is the next to be woken
        until(lambda worker=worker: asleep(worker) or worker not in workers())
        if worker not in workers():  # it was one too many, started as the others were late
            continue
        stop(worker)
        try:
            assert shoal.get(pid.remote()) != worker
        finally:
            os.kill(worker, signal.SIGCONT)
