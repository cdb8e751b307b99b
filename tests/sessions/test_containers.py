"""Two containers, made of mount and pid namespaces, share one session through a socket that is mounted in both."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from other_process import Peer

from conftest import until

pytest_plugins = ["peers"]

UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


def forbidden() -> str:
    """Why no namespaces can be made here; empty if they can."""
    if shutil.which("unshare") is None:
        return "there is no command unshare here"
    done = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    return done.stderr.strip() and f"mount and pid namespaces are not permitted here: {done.stderr.strip()}"


WHY_NOT = forbidden()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "none")


def container(peer, mount: str, **environment: str) -> Peer:
    """A peer in namespaces of its own, where the shell command `mount` was run before."""
    return peer(None, *UNSHARE, "sh", "-c", f'{mount} && exec "$@"', "sh", env={**os.environ, **environment})


def pid_outside(one: Peer) -> int:
    """The peer's pid in our own namespace; `unshare` is its parent."""
    return int(Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()[0])


@pytest.fixture
def two(home, peer, tmp_path, request):
    """The driver of session "sea" in one container, a guest of it in another one."""
    shared, in_a, in_b, code = (tmp_path / name for name in ("shared", "in_a", "in_b", "code"))
    for folder in (shared, in_a, in_b, code):
        folder.mkdir()
    if request.param == "without pidfds":  # as before Linux 6.5
        (code / "sitecustomize.py").write_text("import shoal.engine.local.door as door\ndoor._SO_PEERPIDFD = 9999\n")
    a = container(peer, f"mount --bind {shared} {in_a}", TMPDIR=str(in_a), PYTHONPATH=str(code))
    if request.param == "without pidfds":
        a("import shoal.engine.local.door as door; assert door._SO_PEERPIDFD == 9999")
    a("context = shoal.init(num_cpus=2, session_name='sea')")
    assert a("context['address']") == f"{in_a}/shoal-0/sea/socket"
    b = container(peer, f"mount --bind {shared}/shoal-0/sea {in_b} && mount -t tmpfs none {shared}", TMPDIR="/nowhere")
    assert b(f"os.listdir({str(shared)!r}), os.listdir({str(in_a)!r})") == ([], [])
    b(f"shoal.init({str(in_b / 'socket')!r})")
    assert a("os.getpid()") == b("os.getpid()") == 1  # they cannot see each other
    yield a, b
    if a.process.poll() is None:
        a("shoal.shutdown()")
        assert not list(shared.rglob("*socket"))


both = pytest.mark.parametrize("two", ["with pidfds", "without pidfds"], indirect=True)


@both
def test_they_share_an_array_under_a_lock(two):
    a, b = two
    a("shared = shoal.Dict(name='shared'); shared['a'] = shoal.put(np.zeros(4), mutable=True)")
    for one in (a, b):
        one("ref = shoal.Dict(name='shared')['a']; array = shoal.get(ref); lock = shoal.lock(ref)")
    work = "for _ in range(500):\n    with lock:\n        array += 1"
    a.start(work)
    b(work)
    a.result()
    assert a("array.tolist()") == b("array.tolist()") == [1000.0] * 4
    assert b("shoal.get(shoal.remote(lambda x: x.sum()).remote(ref)).item()") == 4000.0


@both
@pytest.mark.parametrize("victim", ["guest", "guest, while the other waits"])
def test_one_is_killed_and_the_other_is_told(two, victim):
    a, b = two
    a("shared = shoal.Dict(name='shared'); shared['a'] = shoal.put(np.zeros(4), mutable=True)")
    for one in (a, b):
        one("ref = shoal.Dict(name='shared')['a']; array = shoal.get(ref); lock = shoal.lock(ref)")
    b("lock.acquire(); array[:2] = 7")
    if "waits" in victim:
        a.start("lock.acquire(timeout=50)")
    os.kill(pid_outside(b), signal.SIGKILL)
    told = a.failure() if "waits" in victim else a.error("lock.acquire(timeout=50)")
    assert told.kind == "LockHolderDied" and "a guest of this session" in told.text
    assert a("array.tolist()") == [7.0, 7.0, 0.0, 0.0]
    a("lock.release()")
    until(lambda: a("sum(p['role'] == shoal._core.GUEST for p in shoal._core.processes())") == 0)
    assert a("shoal._core.check()") == ""


@both
def test_the_guest_leaves_and_the_session_ends(two):
    a, b = two
    b("ref = shoal.put(np.arange(1000)); view = shoal.get(ref); address = shoal.get_runtime_context().get()['address']")
    b("shoal.shutdown()")
    assert a("sum(p['role'] == shoal._core.GUEST for p in shoal._core.processes())") == 0
    assert b("int(view.sum())") == 499500
    b("shoal.init(address); event = shoal.sync.Event()")
    b.start("event.wait()")
    os.kill(pid_outside(a), signal.SIGKILL)  # which ends its whole namespace
    a.process.wait(60)
    assert b.failure().kind == "SessionEndedError"
    assert b.error("shoal.shutdown(); shoal.init(address)").kind == "SessionNotFoundError"
