"""Which worker leaves when there are more than CPUs."""

from __future__ import annotations

import shoal
from conftest import until
from shoal import _core


def test_the_youngest_worker_leaves(fresh):
    """The others have imported more by then."""
    fresh(num_cpus=1)

    @shoal.remote
    def nothing():
        pass

    def workers():
        return {p["pid"] for p in _core.processes() if p["role"] == _core.WORKER}

    shoal.get(nothing.remote())
    (first,) = workers()
    event = shoal.sync.Event()

    @shoal.remote
    def waits():
        event.wait()

    refs = [waits.remote(), waits.remote()]
    until(lambda: len(workers()) > 1)
    event.set()
    shoal.get(refs)
    until(lambda: workers() == {first})
