"""Sessions without a driver: started, asked and ended from the command line."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from typing import Any

from shoal import _core
from shoal.engine.local import hooks, places, wire
from shoal.engine.local.join import ask, connect
from shoal.engine.local.session import (
    EVENTFD,
    LISTENER,
    MEMFD,
    OUTPUT,
    SPILL,
    Plan,
    open_standard_descriptors,
    spawn_supervisor,
)
from shoal.exceptions import SessionError, SessionNotFoundError

PATIENCE_S = 5.0  # for a session to end by itself
_TAIL = 4000  # bytes of a log that are shown


def start_detached(settings: dict[str, Any]) -> tuple[places.Place, dict[str, Any]]:
    """Start a session that outlives this process; returns its place and what it says of itself (see facts.py)."""
    plan = Plan(settings)
    plan.config["log_to_driver"] = True
    hooks.install(None)
    open_standard_descriptors()
    place, listener = plan.take_place(needed=True)
    assert place is not None
    files = {LISTENER: listener}
    try:
        files[OUTPUT] = os.open(place.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        arena = plan.make_arena()
        try:
            files.update((to, os.dup(fd) if fd >= 0 else -1) for to, fd in zip((MEMFD, EVENTFD, SPILL), arena, strict=True))
        finally:
            _core.detach()
        pid = spawn_supervisor(files, place, plan.config["runtime_env"])
    except BaseException:
        _close(files)
        place.remove()
        raise
    _close(files)
    try:
        return place, facts_of(place, settings.get("token"))
    except SessionError as error:
        last = _last_lines(place.log)
        os.kill(pid, signal.SIGKILL)  # a child of ours until we end
        os.waitpid(pid, 0)
        place.remove()
        raise SessionError(f"the session did not start: {error}" + (f"\nIts last words were:\n{last}" if last else "")) from None


def _close(files: dict[int, int]) -> None:
    for fd in files.values():
        if fd >= 0:
            os.close(fd)


def _last_lines(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def facts_of(place: places.Place, token: str | None) -> dict[str, Any]:
    """What the session says of itself. Raises SessionRefusedError if it wants a token, SessionError."""
    with connect(place.socket) as connection:
        kind, said, descriptors = ask(connection, place.socket, wire.STATUS, {"token": token})
    for fd in descriptors:
        os.close(fd)
    if kind != wire.FACTS:
        raise SessionError(f"the session at {place.socket} answered with nonsense")
    return said


def supervisor_of(place: places.Place) -> int:
    """A pidfd of the session's supervisor. Raises SessionNotFoundError, SessionError."""
    with connect(place.socket) as connection:
        try:
            ask(connection, place.socket, wire.STATUS, {})  # whatever it answers, it is up now
        except SessionNotFoundError:
            raise
        except SessionError:
            pass
    with connect(place.socket) as connection:  # shows who called listen() last: before the supervisor did, it was its starter
        pid, _, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    unseen = SessionError(
        f"the processes of session {place.name!r} cannot be seen from here (another container?): stop it where it was started"
    )
    if pid <= 0:
        raise unseen
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise unseen from None
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            known = b"shoal.engine.local.supervisor" in file.read()
    except OSError:
        known = False
    if not known:
        os.close(pidfd)
        raise unseen
    return pidfd


def stop_session(place: places.Place) -> str:
    """End the session and all its processes; returns how it went: "ended", or "killed" if it did not end by itself."""
    try:
        pidfd = supervisor_of(place)
    except SessionNotFoundError:  # it has just ended, or is nothing but a socket
        place.remove()
        return "ended"
    how = "ended"
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not poll.poll(PATIENCE_S * 1000):
            how = "killed"
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll.poll(PATIENCE_S * 1000)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
    place.remove()
    return how
