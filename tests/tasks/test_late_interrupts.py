"""A cancellation that comes too late, and a task that has set a handler of its own for the signal."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import shoal
from conftest import audit, stop, until
from shoal import _core


@pytest.mark.parametrize("returns", [1, 2])
def test_an_interrupt_that_comes_late_does_not_meet_a_handler_of_the_task_before(fresh, returns):
    """The supervisor, which sends it, is stopped until the next task runs."""

    @shoal.remote(num_returns=returns)
    def careless(steps):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        steps[:] = 1, os.getpid()
        until(lambda: steps[0] == 2)
        return [1] * returns

    @shoal.remote(max_retries=0)
    def other(steps):
        if os.getpid() != steps[1]:
            return False
        worker = signal.getsignal(signal.SIGINT).__self__
        steps[0] = 3
        until(lambda: worker.interrupt_missed)
        return True

    def scene():
        """Returns whether both ran in the same worker: another one is started if the first does not come soon."""
        shoal.shutdown()
        fresh(num_cpus=1)
        ref = shoal.put(np.zeros(2), mutable=True)
        steps = shoal.get(ref)
        call = careless.remote(ref)
        until(lambda: steps[0] == 1)
        supervisor = next(p["pid"] for p in _core.processes() if p["role"] == _core.SUPERVISOR)
        try:
            stop(supervisor)
            shoal.cancel(call if returns == 1 else call[0])
            steps[0] = 2
            assert shoal.get(call) == ([1] if returns == 1 else [1, 1]), "it was too late to cancel it"
            next_call = other.remote(ref)
            until(lambda: steps[0] == 3 or bool(shoal.wait([next_call], timeout=0)[0]))
        finally:
            os.kill(supervisor, signal.SIGCONT)
        return shoal.get(next_call)

    assert any(scene() for _ in range(20))
    audit()
