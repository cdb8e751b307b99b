"""Which worker leaves when there are more than CPUs."""

from __future__ import annotations

import time

import shoal
from conftest import only_worker, quiet, until
from shoal import _core


def test_the_youngest_worker_leaves(fresh):
    """The others have imported more by then."""
    fresh(num_cpus=1)

    @shoal.remote
    def nothing():
        pass

    def workers():
        return {p["pid"] for p in _core.processes() if p["role"] == _core.WORKER}

    @shoal.remote
    def waits(event):
        event.wait()

    def scene():
        shoal.get(nothing.remote())
        first = only_worker()
        event = shoal.sync.Event()
        refs = [waits.remote(event), waits.remote(event)]
        until(lambda: len(workers()) > 1)
        begin = time.monotonic()
        event.set()
        shoal.get(refs)
        until(quiet)
        if time.monotonic() - begin > 1:
            return False  # one of them had no core for so long that the other may have had to leave
        until(lambda: workers() == {first})
        return True

    assert any(scene() for _ in range(10))
