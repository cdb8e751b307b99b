"""Whatever comes to a session's socket: it is refused, and the session goes on."""

from __future__ import annotations

import json
import os
import pwd
import random
import socket
import stat
import struct
import sys

import pytest

import shoal
from conftest import audit, until
from shoal import _core
from shoal.engine.local import door, places, wire
from shoal.exceptions import SessionError, SessionNotFoundError, SessionRefusedError, SessionVersionError

pytest_plugins = ["peers"]


@pytest.fixture
def address(home):
    address = shoal.init(num_cpus=1, session_name="here")["address"]
    yield address
    assert shoal.get(shoal.remote(lambda: 5).remote()) == 5  # whatever was done to it
    audit(len(_core.name_list(2)))  # the locks that were asked for by name


def dial(address: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.connect(address)  # waits while the queue of those who knock is full
    line.settimeout(30)
    return line


def say(address: str, data: bytes) -> tuple[int, dict]:
    """Send that; kind and fields of the answer."""
    with dial(address) as line:
        line.send(data)
        answer = line.recv(1 << 20)
        assert line.recv(1) == b""  # it hangs up
    _, kind, fields = wire.unpack(answer)
    return kind, fields


def guests() -> int:
    return sum(p["role"] == _core.GUEST for p in _core.processes())


GARBAGE = [
    b"x",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\0" * 100,
    wire.MAGIC,
    wire.pack(wire.JOIN, {})[:-1],
    wire.pack(wire.JOIN, {})[:12] + b"[1, 2]",
    wire.pack(wire.JOIN, {})[:12] + b"\xff\xfe",
    wire.pack(wire.JOIN, {})[:12] + b"[" * 10_000,
    wire.pack(wire.JOIN, {})[:12] + b'{"versions":' * 1_000,
    b"x" * 100_000,
    wire.pack(99, {}),
    wire.pack(wire.WELCOME, {"slot": 0}),
    wire.pack(wire.LEAVE, {}),
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage(address, data):
    kind, fields = say(address, data)
    assert kind == wire.REFUSED and fields["error"] == "protocol" and fields["text"]


@pytest.mark.parametrize("versions", [None, {}, 7, [], {"shoal": "0.0.9"}, "later protocol"])
def test_other_versions(address, versions):
    data = wire.pack(wire.JOIN, {"versions": versions})
    if versions == "later protocol":
        data = struct.pack("<8sHH", wire.MAGIC, wire.PROTOCOL + 1, wire.JOIN) + b"whatever it may be"
    kind, fields = say(address, data)
    assert kind == wire.REFUSED and fields["error"] == "version" and fields["versions"] == wire.versions()


def test_a_guest_of_another_version_is_told_both(address, peer):
    guest = peer()
    guest("from shoal.engine.local import wire; ours = wire.versions()")
    guest("wire.versions = lambda: {**ours, 'shoal': '9.9.9', 'python': '3.99'}")
    error = guest.error("shoal.init('here')")
    assert error.kind == "SessionVersionError"
    for part in ("9.9.9", _core.VERSION, "3.99", "{}.{}".format(*sys.version_info)):
        assert part in error.text
    guest("wire.versions = lambda: ours")
    assert guest("shoal.init('here')['session_name']") == "here"


def test_silence_holds_up_nobody(address, peer):
    lines = [dial(address) for _ in range(3 * door.MOST_STRANGERS)]
    assert peer("here")("shoal.get(shoal.put(3))") == 3
    for line in lines[: door.MOST_STRANGERS]:  # the oldest had to make room
        assert line.recv(1) == b""
    for line in lines:
        line.close()


def test_time_runs_out_for_the_silent(home, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import shoal.engine.local.door as door\ndoor.PATIENCE_S = 0.5\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with dial(shoal.init(num_cpus=1)["address"]) as line:
        assert line.recv(1) == b""  # after PATIENCE_S


def test_thousands_of_connections(address, peer):
    for _ in range(2000):
        dial(address).close()
    assert peer("here")("shoal.get(shoal.put(3))") == 3
    until(lambda: guests() == 1)


def test_to_join_and_be_gone(address):
    for _ in range(50):
        with dial(address) as line:
            line.send(wire.pack(wire.JOIN, {"versions": wire.versions()}))
    with dial(address) as line:  # welcome, and then nonsense instead of joining
        line.send(wire.pack(wire.JOIN, {"versions": wire.versions()}))
        _, descriptors, _, _ = socket.recv_fds(line, 1 << 16, 8)
        line.send(b"nonsense")
        assert line.recv(1) == b""
        for fd in descriptors:
            os.close(fd)
    until(lambda: not any(p["slot"] > 2 for p in _core.processes()))


def test_too_many_guests(address, peer):
    lines = []
    answer = b""
    for _ in range(door.MAX_GUESTS + 1):
        lines.append(dial(address))
        lines[-1].send(wire.pack(wire.JOIN, {"versions": wire.versions()}))
        answer, descriptors, _, _ = socket.recv_fds(lines[-1], 1 << 16, 8)
        for fd in descriptors:
            os.close(fd)
    assert wire.unpack(answer)[1:] == (wire.REFUSED, {"error": "limit", "limit": "MAX_GUESTS", "value": door.MAX_GUESTS})
    guest = peer()
    assert "MAX_GUESTS=128" in guest.error("shoal.init('here')").text
    for line in lines:
        line.close()
    until(lambda: guest("""
try:
    shoal.init('here')
except shoal.exceptions.LimitError:
    pass
shoal.is_initialized()
"""))  # fmt: skip


def test_a_guest_that_talks_nonsense_keeps_its_slot(address, peer):
    guest = peer("here")
    guest("import gc, socket; lock = shoal.lock('mine'); lock.acquire()")
    guest("[s for s in gc.get_objects() if isinstance(s, socket.socket)][0].send(b'nonsense')")
    assert "SessionEnded" in guest.error("while True: shoal.sync.Event().wait(0.1)").kind  # the supervisor has hung up on it
    assert shoal.lock("mine").locked()
    guest.kill()
    with pytest.raises(shoal.exceptions.LockHolderDied):
        shoal.lock("mine").acquire()
    shoal.lock("mine").release()


def test_a_guest_that_becomes_another_program(address, peer):
    guest = peer("here")
    guest("shoal.lock('mine').acquire()")
    guest.start("os.execv('/bin/cat', ['cat'])")
    with pytest.raises(shoal.exceptions.LockHolderDied):
        shoal.lock("mine").acquire(timeout=20)
    shoal.lock("mine").release()
    assert guest.process.poll() is None


def test_a_guest_that_closes_all_its_files(address, peer):
    guest = peer("here")
    guest("shoal.lock('mine').acquire(); os.closerange(4, 1000)")  # 3 is what this test hears it by
    assert guest("shoal.get(shoal.put(4))") == 4
    assert shoal.lock("mine").locked() and guests() == 1
    guest.kill()
    until(lambda: not guests())


def test_random_messages(address):
    rng = random.Random(7)
    valid = wire.pack(wire.JOIN, {"versions": wire.versions(), "token": "x"})
    for _ in range(400):
        data = bytearray(valid if rng.random() < 0.8 else rng.randbytes(rng.randrange(1, 3000)))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        del data[rng.choice([len(data), rng.randrange(1, len(data) + 1)]) :]
        with dial(address) as line:
            line.send(data)
            if rng.random() < 0.7:
                assert wire.unpack(line.recv(1 << 16))[1] in (wire.REFUSED, wire.WELCOME)


# ------------------------------------------------------------------------------------ what a guest meets


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (b"", SessionNotFoundError, "hung up"),
        (b"garbage", SessionError, "no Shoal session"),
        (wire.pack(wire.FACTS, {}), SessionError, "nonsense"),
        (wire.pack(wire.WELCOME, {"slot": 2}), SessionError, "nonsense"),
        (wire.pack(wire.REFUSED, {"error": "version", "versions": {"shoal": "7"}}), SessionVersionError, "shoal 7 there"),
        (wire.pack(wire.REFUSED, {"error": "user", "text": "not you"}), SessionRefusedError, "not you"),
        (wire.pack(wire.REFUSED, {"error": "token", "text": "asks for a token"}), SessionRefusedError, "token=..."),
        (wire.pack(wire.REFUSED, {"text": "because"}), SessionError, "because"),
        (struct.pack("<8sHH", wire.MAGIC, 9, wire.REFUSED) + b'{"error": "version", "versions": {"protocol": 9}}',
         SessionVersionError, "protocol 9 there and 1 here"),
    ],
)  # fmt: skip
def test_what_listens_is_no_session_of_ours(home, tmp_path, answer, error, match, peer):
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    listener.settimeout(30)
    guest = peer().start(f"shoal.init({path!r})")
    line, _ = listener.accept()
    assert wire.unpack(line.recv(1 << 16))[1] == wire.JOIN
    if answer:
        line.send(answer)
    line.close()
    told = guest.failure()
    assert told.kind == error.__name__ and match in told.text
    listener.close()
    assert guest.error(f"shoal.init({path!r})").kind == "SessionNotFoundError"
    assert guest("shoal.init('local', num_cpus=1); shoal.get(shoal.put(1))") == 1


def test_addresses_that_are_none(home, peer, tmp_path):
    guest = peer()
    (tmp_path / "file").write_text("")
    for address in ("nobody", str(tmp_path / "none"), str(tmp_path / "file"), "/", "./x"):
        assert guest.error(f"shoal.init({address!r})").kind == "SessionNotFoundError", address
    for address in ("a b", "tcp://x:1", "local:1", ".hidden"):
        assert guest.error(f"shoal.init({address!r})").kind == "ValueError", address
    assert guest.error("shoal.init(7)").kind == "TypeError"
    assert "you have no session" in guest.error("shoal.init('auto')").text
    assert issubclass(SessionNotFoundError, ConnectionError) and issubclass(SessionRefusedError, PermissionError)


def test_long_paths(tmp_path, monkeypatch, peer):
    folder = tmp_path / ("long" * 20) / ("longer" * 20)
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    address = shoal.init(num_cpus=1, session_name="deep")["address"]
    assert len(address) > 200
    guest = peer("deep", env={**os.environ})
    assert guest("shoal.get(shoal.put(1))") == 1
    guest("shoal.shutdown()")
    assert guest(f"shoal.init({address!r})['session_name']") == "deep"
    shoal.shutdown()
    assert not list(folder.iterdir())


# ------------------------------------------------------------------------------------------ other users


def test_modes(address, home):
    folder = os.path.dirname(address)
    assert stat.S_IMODE(os.stat(address).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.dirname(folder)).st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused(address, home):
    nobody = pwd.getpwnam("nobody").pw_uid

    def as_nobody(open_up: bool) -> str:
        """What a process of another user is told; with `open_up` no file mode keeps it away."""
        if open_up:
            for path in (os.path.dirname(address), address):
                os.chmod(path, 0o777)
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.chdir(os.path.dirname(address))
                os.setresuid(nobody, nobody, nobody)
                line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                try:
                    line.connect("socket")
                    line.send(wire.pack(wire.JOIN, {"versions": wire.versions()}))
                    said = json.dumps(wire.unpack(line.recv(1 << 16))[2])
                except OSError as error:
                    said = type(error).__name__
                os.write(write_end, said.encode())
            finally:
                os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as file:
            said = file.read()
        os.waitpid(pid, 0)
        return said

    assert as_nobody(False) == "PermissionError"
    told = json.loads(as_nobody(True))
    assert told["error"] == "user" and f"user {nobody} cannot join" in told["text"]
    assert guests() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_directory_that_is_not_to_be_trusted(home, peer):
    """Somebody else was there first, in a folder that all may write to."""
    (home / "shoal-0").mkdir(mode=0o700)
    os.chown(home / "shoal-0", 12345, 12345)
    context = shoal.init(num_cpus=1)  # it works, but nobody can join
    assert context["address"] is None and shoal.get(shoal.put(1)) == 1
    shoal.shutdown()
    with pytest.raises(SessionError, match="belongs to user 12345"):
        shoal.init(num_cpus=1, session_name="x")
    os.chown(home / "shoal-0", 0, 0)
    os.chmod(home / "shoal-0", 0o755)
    with pytest.raises(SessionError, match=r"open to others \(mode 0755"):
        shoal.init(num_cpus=1, session_name="x")
    (home / "shoal-0").rmdir()
    (home / "shoal-0").symlink_to("/tmp")
    with pytest.raises(SessionError, match="is not a directory"):
        shoal.init(num_cpus=1, session_name="x")
    (home / "shoal-0").unlink()
    assert places.sessions() == []
