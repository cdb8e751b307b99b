"""Nothing is left of a session, whoever is killed, and threads and event loops of a guest see its end."""

from __future__ import annotations

import os
import signal

import pytest
from other_process import gone

import shoal
from conftest import audit, until
from shoal import _core
from shoal.engine.local import places

pytest_plugins = ["peers"]


def processes(one) -> list[int]:
    one("shoal.get([shoal.remote(lambda: 1).remote() for _ in range(4)])")
    return one("[p['pid'] for p in shoal._core.processes() if p['pid'] not in (0, os.getpid())]")


@pytest.mark.parametrize("killed", ["driver", "supervisor", "both", "driver, and all stopped before"])
def test_nothing_is_left(home, peer, killed):
    driver = peer()
    driver("shoal.init(num_cpus=2, session_name='x')")
    pids = processes(driver)
    supervisor = driver("[p['pid'] for p in shoal._core.processes() if p['role'] == shoal._core.SUPERVISOR][0]")
    folder = places.Place(places.homes()[0], "x").folder
    assert os.path.exists(folder)
    if "stopped" in killed:
        for pid in pids:
            if pid != supervisor:
                os.kill(pid, signal.SIGSTOP)
    if killed in ("supervisor", "both"):
        os.kill(supervisor, signal.SIGKILL)
    if killed != "supervisor":
        driver.kill()
    until(lambda: all(map(gone, pids)))
    if killed == "both":
        assert os.path.exists(folder)  # nobody is there to remove it, but whoever comes next
        assert places.sessions() == []
    elif killed == "supervisor":
        assert driver.error("shoal.sync.Event().wait()").kind == "SessionEndedError"  # it takes a moment to notice it
        assert driver.error("shoal.put(1)").kind == "SessionEndedError"
        assert driver.leave() == 0  # its exit removes it
    until(lambda: not list(home.iterdir()))


def test_a_session_that_starts_removes_what_is_in_its_way(home, peer):
    driver = peer()
    driver("shoal.init(num_cpus=1, session_name='x')")
    processes(driver)
    supervisor = driver("[p['pid'] for p in shoal._core.processes() if p['role'] == shoal._core.SUPERVISOR][0]")
    os.kill(supervisor, signal.SIGKILL)
    driver.kill()
    until(lambda: gone(supervisor))
    assert shoal.init(num_cpus=1, session_name="x")["session_name"] == "x"
    assert shoal.get(shoal.put(1)) == 1


@pytest.fixture
def audited_here(home):
    yield shoal.init(num_cpus=1, session_name="here")
    audit()


def test_a_guest_leaves_while_its_threads_wait(audited_here, peer):
    guest = peer("here")
    guest("""
import threading
seen, ready = [], threading.Barrier(4)
def wait(what):
    ready.wait()
    try:
        what()
    except Exception as error:
        seen.append(type(error).__name__)
event, queue, lock = shoal.sync.Event(), shoal.Queue(), shoal.lock()
lock.acquire()
threads = [threading.Thread(target=wait, args=(what,)) for what in (event.wait, queue.get, lock.acquire)]
for thread in threads:
    thread.start()
ready.wait()
shoal.shutdown()
for thread in threads:
    thread.join()
""")
    assert guest("seen") == ["SessionEndedError"] * 3
    assert not any(p["role"] == _core.GUEST for p in _core.processes())
    assert guest("shoal.init('here'); shoal.get(shoal.put(2))") == 2


def test_a_guest_leaves_after_awaiting(audited_here, peer):
    guest = peer("here")
    guest("""
import asyncio
f = shoal.remote(lambda: 3)
async def main():
    return await f.remote() + await asyncio.wait_for(f.remote(), 30)
six = asyncio.run(main())
future = f.remote().future()
three = future.result(30)
shoal.shutdown()
""")
    assert guest("six + three") == 9
    assert not any(p["role"] == _core.GUEST for p in _core.processes())


def test_a_guest_leaves_while_its_loop_does_other_things(audited_here, peer):
    """The loop of its futures cannot come to close what it has of the session; and one that begins to wait now gets nothing."""
    guest = peer("here")
    guest("""
import threading
from shoal import _futures
f, waits, event = shoal.remote(lambda: 3), shoal.remote(lambda event: event.wait(60)), shoal.sync.Event()
first = waits.remote(event).future()  # it is not done yet: the loop has to wait for it
event.set()
first.result(60)
busy, go_on = threading.Event(), threading.Event()
_futures._background.call_soon_threadsafe(lambda: (busy.set(), go_on.wait(60)))
busy.wait(60)
late = f.remote().future()
shoal.shutdown()
""")
    assert not any(p["role"] == _core.GUEST for p in _core.processes())
    assert guest("go_on.set(); type(late.exception(30)).__name__") in ("SessionEndedError", "NoneType")
    assert guest("shoal.init('here'); f.remote().future().result(30)") == 3


def test_a_guest_leaves_from_a_with_block_and_a_signal_handler(audited_here, peer):
    guest = peer()
    guest("with shoal.init('here') as context:\n    kept = shoal.put(1)")
    assert not any(p["role"] == _core.GUEST for p in _core.processes())
    guest("shoal.init('here'); signal.signal(signal.SIGALRM, lambda *_: shoal.shutdown()); event = shoal.sync.Event()")
    # (However late it comes to its wait: the event is one of the session that it has left.)
    assert guest.error("signal.setitimer(signal.ITIMER_REAL, 0.2); event.wait()").kind == "SessionEndedError"
    guest.leave()
    until(lambda: not any(p["role"] == _core.GUEST for p in _core.processes()))


def test_ctrl_c_ends_a_guests_wait_only(home, peer):
    shoal.init(num_cpus=1, session_name="here")
    guest = peer("here")
    guest.start("shoal.sync.Event(name='ready').set(); shoal.sync.Event(name='e').wait()")
    assert shoal.sync.Event(name="ready").wait(50)
    os.kill(guest.pid, signal.SIGINT)
    assert guest.failure().kind == "KeyboardInterrupt"
    shoal.sync.Event(name="e").set()
    assert guest("shoal.sync.Event(name='e').wait(50)") is True


def test_a_guest_at_its_interpreters_end_is_quiet(audited_here, peer, tmp_path):
    with open(tmp_path / "errors", "w+") as errors:
        guest = peer("here", stderr=errors)
        guest("""
import threading
def busy():
    while True:
        shoal.put(list(range(100)))
threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
refs = [shoal.put(np.ones(1000)) for _ in range(100)]
views = shoal.get(refs)
""")
        assert guest.leave() == 0
        errors.seek(0)
        assert errors.read() == ""
    until(lambda: not any(p["role"] == _core.GUEST for p in _core.processes()))
