"""A process killed at each step of what it does with an owned object; only in builds with crash points (TEST_HOOKS=ON)."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from tests.conftest import audit, until

import shoal
from shoal import _core
from shoal.exceptions import ActorDiedError, ClaimTimeoutError, NotMutableError

pytestmark = [
    pytest.mark.skipif(not _core.CRASH_POINTS, reason="a build without crash points"),
    pytest.mark.timeout(600),
]
POINTS = [f"tx.set:{n}" for n in range(1, 13)] + [f"tx.{p}:{n}" for p in ("locked", "settled") for n in range(1, 6)]
NAMED = [f"owner.{p}:1" for p in ("copied", "half", "committed", "claimed", "asked", "passed")]
NAMED += [f"owner.restoring:{n}" for n in (1, 2, 3)] + ["before.draft:1", "freeze.before:1", "freeze.done:1"]
SIZE = 20_000  # three pieces are copied back


@shoal.remote(num_cpus=0)
class Victim:
    def run(self, point, what, refs):
        ref = refs[0]
        if what not in ("claim", "wait", "steal"):
            shoal.claim(ref)
            array = shoal.get(ref)
            array[:] = 2
            if what == "rollback":
                array[: SIZE // 2] = 3
            if what == "freeze":
                del array
        _core.arm_crash_point(point)
        if what == "commit":
            shoal.commit(ref)
        elif what == "rollback":
            _core._owner_rollback(ref)
        elif what == "transfer":
            shoal.transfer(ref, None)
        elif what == "freeze":
            shoal.freeze(ref)
        elif what == "put":
            shoal.put(np.zeros(SIZE), mutable=True, owner="me")
        elif what == "wait":
            with pytest.raises(ClaimTimeoutError):
                shoal.claim(ref, "request", timeout=0.02)
        else:
            shoal.claim(ref, "steal" if what == "steal" else "wait")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("what", ["commit", "rollback", "transfer", "freeze", "put", "claim", "steal", "wait"])
def test_killed_at_each_step(fresh, what):
    fresh(num_cpus=2)
    for point in POINTS + NAMED:
        ref = shoal.put(np.ones(SIZE), mutable=True, owner="me")
        seen = shoal.get(ref)
        if what in ("steal", "wait"):
            shoal.get(ref)[: SIZE // 2] = 7  # not committed
        else:
            shoal.transfer(ref, None)
        del seen
        victim = Victim.remote()
        with pytest.raises(ActorDiedError):
            shoal.get(victim.run.remote(point, what, [ref]))
        del victim
        try:
            notice = shoal.claim(ref, timeout=30)
        except NotMutableError:
            assert what == "freeze"
            assert set(shoal.get(ref).tolist()) == {2}
        else:
            found = set(shoal.get(ref).tolist())
            mine = what == "wait" or (what == "steal" and found != {1})
            assert found == ({1, 7} if mine else {1}) or (what in ("commit", "transfer") and found == {2}), (what, point, found)
            assert notice is None or "Victim" in notice.name
            with shoal.owned(ref) as array:
                array[:] = 5
            until(lambda r=ref: shoal.owner(r).waiting == 0)  # the dead one is taken out of the queue a moment later
            assert not shoal.claim_requested(ref)
            del array, notice
        del ref
    audit()
