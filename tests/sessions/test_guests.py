"""Guests: processes that join a session that is running, do all that its driver can, and leave it or die."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import shoal
from conftest import audit, leftovers, until
from shoal import _core
from shoal.exceptions import LockHolderDied, SessionEndedError

pytest_plugins = ["peers"]


@pytest.fixture
def address(home):
    yield shoal.init(num_cpus=2, session_name="here")["address"]


def guests() -> list[int]:
    return [p["pid"] for p in _core.processes() if p["role"] == _core.GUEST]


@pytest.mark.parametrize("how", ["name", "path", "auto", "variable", "first use"])
def test_a_guest_joins(address, peer, how, monkeypatch):
    if how in ("variable", "first use"):
        monkeypatch.setenv("SHOAL_ADDRESS", "here")
    guest = peer()
    if how != "first use":
        guest("context = shoal.init({})".format({"name": "'here'", "path": repr(address), "auto": "'auto'"}.get(how, "")))
    assert guest("shoal.get_runtime_context().get_session_name()") == "here"
    assert guest("shoal.get_runtime_context().get()['mode']") == "guest"
    assert guests() == [guest.pid]


def test_a_guest_does_what_a_driver_does(address, peer):
    guest = peer("here")
    shared = shoal.Dict(name="shared")
    shared["array"] = shoal.put(np.arange(4.0), mutable=True)
    # objects, both ways
    guest("shared = shoal.Dict(name='shared'); shared['big'] = shoal.put(np.ones(100_000))")
    assert shoal.get(shared["big"]).sum() == 100_000
    assert guest("array = shoal.get(shared['array']); float(array[3])") == 3
    # locks and memory that both change
    guest("with shoal.lock(shared['array']): array[0] += 10")
    with shoal.lock(shared["array"]):
        shoal.get(shared["array"])[0] += 1
    assert guest("float(array[0])") == 11
    # tasks, of functions of its own
    guest("@shoal.remote\ndef double(x):\n    return 2 * x, os.getpid()\nrefs = [double.remote(i) for i in range(20)]")
    assert guest("[r[0] for r in shoal.get(refs)]") == list(range(0, 40, 2))
    assert guest.pid not in guest("[r[1] for r in shoal.get(refs)]")
    assert guest("len(shoal.wait(refs, num_returns=20)[0])") == 20
    # actors, found by name from either side
    guest("@shoal.remote\nclass Adder:\n    total = 0\n    def add(self, n):\n        self.total += n\n        return self.total")
    guest("adder = Adder.options(name='adder').remote(); shoal.get(adder.add.remote(1))")
    assert shoal.get(shoal.get_actor("adder").add.remote(2)) == 3
    assert guest("shoal.get(adder.add.remote(3))") == 6
    # waiting for each other
    guest.start("shoal.sync.Event(name='go').wait(50)")
    shoal.sync.Event(name="go").set()
    assert guest.result() is True
    guest("import asyncio\nasync def one(): return await double.remote(4)\nvalue = asyncio.run(one())")
    assert guest("value[0]") == 8


def test_a_namespace_of_its_own(address, peer):
    @shoal.remote
    class A:
        def where(self):
            return "driver's"

    mine = A.options(name="a").remote()
    guest = peer()
    guest("shoal.init('here', namespace='elsewhere')")
    assert "elsewhere" in guest.error("shoal.get_actor('a')").text
    assert guest("shoal.get(shoal.get_actor('a', namespace='default').where.remote())") == "driver's"
    assert shoal.get(mine.where.remote()) == "driver's"


@pytest.mark.parametrize("end", ["shutdown", "exit", "kill"])
def test_what_a_guest_had_is_given_back(address, peer, end):
    before = leftovers()
    guest = peer("here")
    guest("refs = [shoal.put(np.ones(200_000)) for _ in range(10)]; views = shoal.get(refs[:3])")
    guest("@shoal.remote\ndef keep(x): return x\nlater = [keep.remote(r) for r in refs]; shoal.get(later[0])[0]")
    assert leftovers() > before and guests() == [guest.pid]
    if end == "shutdown":
        guest("shoal.shutdown()")
        assert not guests()
        assert guest("[float(v.sum()) for v in views]") == [200_000.0] * 3  # copies of its own by now
    elif end == "exit":
        assert guest.leave() == 0
    else:
        guest.kill()
    until(lambda: not guests())
    audit(before)
    assert _core.statistics()["deaths"] == (end == "kill")
    assert shoal.get(shoal.put(1)) == 1


def test_arrays_of_a_guest_that_has_left_are_its_own(address, peer):
    shared = shoal.Dict(name="shared")
    shared["a"] = shoal.put(np.zeros(1000), mutable=True)
    shared["b"] = shoal.put(np.arange(100_000))
    guest = peer("here")
    guest("shared = shoal.Dict(name='shared'); a, b = shoal.get(shared['a']), shoal.get(shared['b'])")
    guest("c = shoal.get(shared['b'], private=True)")
    guest("c[7] = -7; del shared; shoal.shutdown()")
    shared.clear()
    fill = [shoal.put(np.full(100_000, 7)) for _ in range(20)]  # the memory is used again
    assert guest("bool((b == np.arange(100_000)).all()), b.flags.writeable, int(c[7]), int(c[8])") == (True, False, -7, 8)
    assert guest("a[:] = 5; float(a.sum())") == 5000.0

    assert guest("shoal.init('here')['session_name'], float(a.sum()), int(b[99])") == ("here", 5000.0, 99)
    del fill


def test_a_guest_dies_with_a_lock(address, peer):
    shared = shoal.Dict(name="shared")
    kept = leftovers()
    shared["a"] = shoal.put(np.zeros(3), mutable=True)
    guest = peer("here")
    guest("ref = shoal.Dict(name='shared')['a']; lock = shoal.lock(ref); lock.acquire(); shoal.get(ref)[0] = 1")
    guest.kill()
    lock = shoal.lock(shared["a"])
    with pytest.raises(LockHolderDied) as told:
        lock.acquire()
    assert told.value.pid == guest.pid and str(told.value).startswith("a guest of this session")
    assert shoal.get(shared["a"])[0] == 1
    lock.release()
    shared.clear()
    del lock, told
    audit(kept)


def test_a_guest_that_waits_is_no_obstacle_when_it_dies(address, peer):
    lock = shoal.lock("door")
    lock.acquire()
    guest = peer("here")
    guest.start("shoal.lock('door').acquire()")
    until(lambda: _core.processes() and any(p["role"] == _core.GUEST for p in _core.processes()))
    queue = shoal.Queue(name="q")
    other = peer("here")
    other.start("shoal.Queue(name='q').get(timeout=50)")
    guest.kill()
    until(lambda: guests() == [other.pid])
    lock.release()
    assert lock.acquire(timeout=20)
    lock.release()
    queue.put("x")
    assert other.result() == "x"


@pytest.mark.parametrize("end", ["shutdown", "kill the driver", "kill the supervisor", "terminate the supervisor"])
def test_the_end_of_the_session(peer, end):
    driver = peer()
    driver("context = shoal.init(num_cpus=1, session_name='there')")
    driver("shoal.get(shoal.remote(lambda: 1).remote())")
    supervisor = driver("[p['pid'] for p in shoal._core.processes() if p['role'] == 2][0]")
    sleeper, caller = peer("there"), peer("there")
    caller("ref = shoal.put(np.arange(10)); view = shoal.get(ref); never = shoal.sync.Event(name='never')")
    sleeper.start("shoal.sync.Event(name='never').wait()")
    if end == "shutdown":
        driver("shoal.shutdown()")
    elif end == "kill the driver":
        driver.kill()
    else:
        os.kill(supervisor, signal.SIGKILL if "kill" in end else signal.SIGTERM)
    assert sleeper.failure().kind == "SessionEndedError"
    assert caller.error("never.wait()").kind == "SessionEndedError"  # each learns it for itself
    assert caller.error("shoal.get(ref)").kind == "SessionEndedError"
    assert caller("view.tolist()") == list(range(10))
    caller("shoal.shutdown()")
    assert caller.error("shoal.init('there')").kind == "SessionNotFoundError"
    if end.endswith("supervisor"):
        assert driver.error("shoal.sync.Event().wait()").kind == "SessionEndedError"
        assert driver.error("shoal.put(1)").kind == "SessionEndedError"
        driver("shoal.shutdown()")
    assert caller("shoal.init(num_cpus=1); shoal.get(shoal.put(3))") == 3
    assert caller.leave() == 0


def test_settings_that_are_the_sessions(address, peer):
    guest = peer()
    for setting in ("num_cpus=1", "object_store_memory=10**8", "session_name='x'", "resources={'a': 1}"):
        error = guest.error(f"shoal.init('here', {setting})")
        assert error.kind == "ValueError" and setting.partition("=")[0] in error.text
    assert guest.error("shoal.init('nowhere')").kind == "SessionNotFoundError"
    assert "here" in guest.error("shoal.init('nowhere')").text
    assert not guests()
    assert guest.error("shoal.init('tcp://somewhere:1')").kind == "ValueError"


def test_a_fork_of_a_guest_leaves_it_alone(address, peer):
    guest = peer("here")
    guest("ref = shoal.put('kept')")
    guest("""
pid = os.fork()
if pid == 0:
    try:
        shoal.put(1)
    except shoal.exceptions.ForkedError:
        try:
            shoal.shutdown()
            os._exit(shoal.init(num_cpus=1)["session_name"] == "here")
        finally:
            shoal.shutdown()
            os._exit(7)
    os._exit(9)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
""")
    assert guest("code") == 0
    assert guest("shoal.get(ref)") == "kept" and guests() == [guest.pid]


def test_modules_of_a_guest_are_found_by_the_workers(address, peer, tmp_path):
    (tmp_path / "only_the_guest_has_it.py").write_text("def seven():\n    return 7\n")
    guest = peer("here", cwd=tmp_path)
    assert guest("import only_the_guest_has_it as m; shoal.get(shoal.remote(m.seven).remote())") == 7


def test_many_guests_come_and_go(address, peer):
    counter = shoal.Counter(name="n")
    crowd = [peer() for _ in range(4)]
    for one in crowd:
        one.start("for _ in range(5):\n    shoal.init('here'); shoal.Counter(name='n').add(1); shoal.shutdown()")
    for one in crowd:
        one.result()
    assert int(counter) == 20 and not guests()
    audit(1)


def test_two_sessions_do_not_touch_each_other(address, peer):
    other = peer()
    other("shoal.init(num_cpus=1, session_name='other'); ref = shoal.put('theirs')")
    ref = shoal.put("ours")
    guest = peer("other")
    assert guest("len(shoal.cluster_resources())") > 0
    shoal.Dict(name="d")["x"] = 1
    assert guest("len(shoal.Dict(name='d'))") == 0
    error = guest.error("shoal.init('auto')") if guest("shoal.shutdown()") is None else None
    assert error is not None and "here" in error.text and "other" in error.text
    assert other.error("shoal.shutdown(); shoal.init(session_name='here')").kind == "SessionExistsError"
    other("shoal.init(num_cpus=1, session_name='other')")
    other.kill()
    gone = """
try:
    gone = ''
    shoal.init('other')
except shoal.exceptions.SessionNotFoundError as error:
    gone = str(error)
shoal.shutdown()
"""
    until(lambda: guest(gone) is None and "named 'other'; you have: here" in guest("gone"))
    assert shoal.get(ref) == "ours"
    with pytest.raises(SessionEndedError):
        shoal.shutdown()
        shoal.get(ref)
