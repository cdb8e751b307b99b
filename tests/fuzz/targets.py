"""What is read from other processes. Each target gets a random generator, a deadline and a notebook for what it tries."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.fuzz.mutate import json_value, mutate_bytes, mutate_json

Note = Callable[[object], None]


def messages(rng: random.Random, deadline: float, note: Note) -> int:
    """wire.unpack: Garbage, or fields."""
    from shoal.engine.local import wire

    seeds = [wire.pack(kind, {"versions": wire.versions(), "token": "t" * 20}) for kind in range(8)]
    tried = 0
    while time.monotonic() < deadline:
        for _ in range(200):
            data = mutate_bytes(rng, rng.choice(seeds), rng.choice(seeds))
            note(data)
            try:
                _, _, fields = wire.unpack(data)
                assert isinstance(fields, dict)
            except wire.Garbage:
                pass
            tried += 1
    return tried


def door(rng: random.Random, deadline: float, note: Note) -> int:
    """A session's socket: strangers that say anything, in pieces, with descriptors, or nothing, and hang up."""
    import shoal
    from shoal import _core
    from shoal.engine.local import session, wire

    address = shoal.init(num_cpus=1, token="right")["address"]
    supervisor = session._session.supervisor

    @shoal.remote
    def one() -> int:
        return 1

    assert shoal.get(one.remote(), timeout=60) == 1
    good = [wire.pack(kind, {"versions": wire.versions(), "token": token}) for kind in (1, 2, 3) for token in ("right", "wrong")]
    kept: list[socket.socket] = []
    tried = 0
    while time.monotonic() < deadline:
        for _ in range(30):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.settimeout(20)
            try:
                connection.connect(address)
                kind = rng.randrange(6)
                if kind < 3:
                    data = mutate_bytes(rng, rng.choice(good), rng.choice(good))
                elif kind == 3:
                    head = struct.pack("<8sHH", wire.MAGIC, rng.choice([1, 1, 1, 0, 2]), rng.randrange(8))
                    fields = mutate_json(rng, {"versions": wire.versions(), "token": "right"})
                    data = head + json.dumps(fields).encode(errors="replace")
                elif kind == 4:
                    data = rng.randbytes(rng.choice([1, 100, 20_000, 60_000]))
                else:
                    data = b""
                note(data)
                if data and rng.random() < 0.2:
                    null = os.open(os.devnull, os.O_RDONLY)
                    socket.send_fds(connection, [data], [null] * rng.randrange(1, 5))
                    os.close(null)
                elif data:
                    connection.send(data)
                if rng.random() < 0.2:
                    connection.send(rng.choice(good)[: rng.randrange(1, 60)])
                if data and rng.random() < 0.3:
                    answer, fds, _, _ = socket.recv_fds(connection, wire.MAX_ANSWER, 8)
                    for fd in fds:
                        os.close(fd)
                    if answer:
                        wire.unpack(answer)
            except OSError:  # it hung up on us, as it may
                pass
            if rng.random() < 0.1 and len(kept) < 100:
                kept.append(connection)
            else:
                connection.close()
            tried += 1
        if rng.random() < 0.3:
            for connection in kept:
                connection.close()
            kept.clear()
        assert not _core.dead(), "the session has ended"
        assert shoal.get(one.remote(), timeout=60) == 1
    for connection in kept:
        connection.close()
    end = time.monotonic() + 30
    while len(os.listdir(f"/proc/{supervisor}/fd")) > 30 or any(p["role"] == 5 for p in _core.processes()):
        assert time.monotonic() < end, f"{os.listdir(f'/proc/{supervisor}/fd')}, {_core.processes()}"
        time.sleep(0.05)
    end = time.monotonic() + 10
    while report := _core.check():
        assert time.monotonic() < end, report
        time.sleep(0.02)
    shoal.shutdown()
    return tried


def answers(rng: random.Random, deadline: float, note: Note) -> int:
    """A guest that comes to something that is no session, but answers."""
    import tempfile
    import threading

    import shoal
    from shoal.engine.local import wire
    from shoal.exceptions import ShoalError

    good = [
        wire.pack(wire.WELCOME, {"slot": 2, "name": "x", "socket": "/x"}),
        wire.pack(wire.REFUSED, {"error": "version", "versions": wire.versions()}),
        wire.pack(wire.REFUSED, {"error": "token", "text": "no"}),
        wire.pack(wire.FACTS, {"slot": 2}),
    ]
    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen(5)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    connection.recv(1 << 16)
                    data = mutate_bytes(rng, rng.choice(good), rng.choice(good)) if rng.random() < 0.7 else rng.choice(good)
                    if rng.random() < 0.3:
                        head = struct.pack("<8sHH", wire.MAGIC, 1, rng.choice([4, 6]))
                        fields = mutate_json(rng, {"slot": 2, "name": "x", "socket": path, "error": "version", "versions": {}})
                        data = head + json.dumps(fields).encode(errors="replace")
                    note(data)
                    fds = [os.memfd_create("no arena") for _ in range(rng.randrange(4))]
                    socket.send_fds(connection, [data[:60_000] or b"x"], fds)
                    for fd in fds:
                        os.close(fd)
                except OSError:
                    pass
                finally:
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        before = len(os.listdir("/proc/self/fd"))
        while time.monotonic() < deadline:
            try:
                shoal.init(address=path)
                raise AssertionError("a session that is none")
            except (ShoalError, ValueError, TypeError):
                tried += 1
            shoal.shutdown()
            patience = time.monotonic() + 5
            while len(os.listdir("/proc/self/fd")) > before + 1:  # ours for the next one, and those of who answers
                assert time.monotonic() < patience, "descriptors are left open"
                time.sleep(0.001)
        listener.close()
    return tried


def frames(rng: random.Random, deadline: float, note: Note) -> int:
    """The output pipe: no frame may stop the printer; whole ones are printed however the pipe cuts them."""
    from shoal.engine.local.output import _HEAD, Lines, OutputPrinter

    class Printer(OutputPrinter):
        def __init__(self) -> None:
            Lines.__init__(self)
            self.lines: list[bytes] = []

        def put(self, stream: int, lines: bytes) -> None:
            self.lines.append(lines)
            io.StringIO().write(lines.decode(errors="replace"))

    def frame() -> bytes:
        name, text = rng.choice([b"", b"task", b"\xff\xfe"]), rng.choice([b"", b"a\nb", b"line\n", b"\xff" * 50, b"x" * 3000])
        return _HEAD.pack(rng.randrange(1, 3), len(name), len(text), rng.randrange(3)) + name + text

    tried = 0
    while time.monotonic() < deadline:
        whole = b"".join(frame() for _ in range(rng.randrange(1, 6)))
        once, pieces = Printer(), Printer()
        assert once._frames(whole) == (b"", True)
        left, at = b"", 0
        while at < len(whole):
            step = rng.randrange(1, 400)
            left, _ = pieces._frames(left + whole[at : at + step])
            at += step
        assert once.lines == pieces.lines, "the frames depend on how they were cut"
        garbage = mutate_bytes(rng, whole, whole)
        note(garbage)
        Printer()._frames(garbage)
        tried += 2
    return tried


def boot(rng: random.Random, deadline: float, note: Note) -> int:
    """A supervisor that is started with settings, or descriptors, that are none: it ends, by itself and soon."""
    from shoal.engine.local.session import _BOOT

    tried = 0
    good = {"path": [p for p in sys.path if p], "driver": os.getpid()}
    while time.monotonic() < deadline:
        settings = json.dumps(mutate_json(rng, good)).encode(errors="replace").replace(b"\0", b"")
        if rng.random() < 0.3:
            settings = mutate_bytes(rng, settings).replace(b"\0", b"")
        note(settings)
        done = subprocess.run(
            [sys.executable, "-c", _BOOT, settings],
            capture_output=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(good["path"])},
        )
        assert done.returncode > 0, f"status {done.returncode}: {done.stderr[-2000:]!r}"
        tried += 1
    return tried


def references(rng: random.Random, deadline: float, note: Note) -> int:
    """Pickled references whose numbers were changed: an error, or an object of the session."""
    import shoal
    from shoal import _core
    from shoal.exceptions import ShoalError

    shoal.init(num_cpus=1, object_store_memory=64 << 20)
    kept = [shoal.put(i) for i in range(20)]
    session, handle = _core.session_id(), kept[3]._handle
    tried = 0
    numbers = [0, 1, -1, handle, handle + 1, handle ^ 1 << 32, 2**24 - 1, 2**24, 2**32, 2**63, 2**64 - 1, 2**64, None, "x", 1.5]
    while time.monotonic() < deadline:
        for _ in range(50):
            args = (
                session if rng.random() < 0.8 else rng.choice(numbers),
                rng.choice([*numbers, rng.randrange(2**64), rng.randrange(100) | 1 << 32]),
            )
            note(args)
            try:
                ref = pickle.loads(pickle.dumps((_core._restore_ref, args)))[0](*args)
                if isinstance(ref, shoal.ObjectRef):
                    shoal.get(ref, timeout=1)
            except (ShoalError, TypeError, ValueError, OverflowError):
                pass
            tried += 1
        ref = None
    assert shoal.get(kept) == list(range(20))
    assert not _core.check(), _core.check()
    shoal.shutdown()
    return tried


def command_line(rng: random.Random, deadline: float, note: Note) -> int:
    """The command `shoal`: an exit code, no traceback. (Nothing here starts a session.)"""
    from shoal.cli import main
    from shoal.engine.local import places

    assert all("shoal-fuzz-" in home for home in places.homes()), "other sessions could be stopped: run `python -m tests.fuzz`"

    words = [
        "status",
        "stop",
        "doctor",
        "--help",
        "--version",
        "--all",
        "--json",
        "",
        "-",
        "--",
        "x" * 3000,
        "../x",
        "\0",
        "é",
        "\ud800",
        "-1",
        "1e99",
        "--token",
        "--token-file",
        "/dev/null",
        "/proc/self/mem",
        "/",
        "--timeout",
        "nan",
        "--name",
        "auto",
        "*",
    ]
    tried = 0
    while time.monotonic() < deadline:
        line = [rng.choice(words) for _ in range(rng.randrange(5))]
        note(line)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                assert main(line) in (0, 1, 2)
            except SystemExit as exit_:
                assert exit_.code in (0, 1, 2, None), exit_.code
        tried += 1
    return tried


def settings(rng: random.Random, deadline: float, note: Note) -> int:
    """init() with settings that make no sense: a TypeError or ValueError, and no session."""
    import shoal
    from shoal.exceptions import ShoalError

    names = [
        "num_cpus",
        "num_gpus",
        "resources",
        "object_store_memory",
        "namespace",
        "log_to_driver",
        "runtime_env",
        "session_name",
        "token",
        "address",
        "spill_directory",
        "nonsense",
    ]
    tried = 0
    while time.monotonic() < deadline:
        arguments: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 16 << 20}
        for name in rng.sample(names, rng.randrange(1, 3)):
            arguments[name] = json_value(rng)
        note(arguments)
        try:
            shoal.init(**arguments)
        except (ShoalError, TypeError, ValueError, OverflowError, OSError):
            pass
        shoal.shutdown()
        assert not shoal.is_initialized()
        tried += 1
    return tried


TARGETS = [messages, door, answers, frames, boot, references, command_line, settings]
