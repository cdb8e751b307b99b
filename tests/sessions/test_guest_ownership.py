"""Guests as owners: what they own is the next one's when they leave or die."""

from __future__ import annotations

import numpy as np
import pytest

import shoal
from conftest import audit, until

pytest_plugins = ["peers"]


@pytest.fixture
def address(home):
    yield shoal.init(num_cpus=2, session_name="here")["address"]


@pytest.mark.parametrize("end", ["shutdown", "exit", "kill", "hand on"])
def test_a_guest_owns_and_ends(address, peer, end):
    shared = shoal.Dict(name="shared")
    ref = shared["a"] = shoal.put(np.zeros(3), mutable=True, owner="me")
    seen = shoal.get(ref)
    guest = peer("here")
    guest("ref = shoal.Dict(name='shared')['a']; array = shoal.get(ref)")
    assert guest("array.flags.writeable, shoal.owner(ref).name") == (False, "driver")
    guest.start("shoal.claim(ref, timeout=50)")
    until(lambda: shoal.owner(ref).waiting == 1)
    shoal.transfer(ref, None)
    assert guest.result() is None
    guest("with shoal.owned(ref) as array: array[:] = 1")
    guest("array[:] = 2")
    who = shoal.owner(ref)
    assert (who.name, who.pid, who.kind) == ("guest", guest.pid, "process")
    if end == "shutdown":
        guest("shoal.shutdown()")
        guest("array[:] = 3")  # its own by now
    elif end == "exit":
        assert guest.leave() == 0
    elif end == "kill":
        guest.kill()
    else:
        guest("shoal.transfer(ref, None)")
    notice = shoal.claim(ref, timeout=30)
    if end == "hand on":
        assert notice is None and seen.tolist() == [2] * 3
        guest("del array, ref")
    else:
        assert notice.name == "guest" and notice.pid == guest.pid and seen.tolist() == [1] * 3
    assert shoal.owner(ref).me
    shared.clear()
    del ref, seen, shared
    audit(2)  # the dictionary, and the lock inside of it
