"""The supervisor's side of a session's socket: who may join, what a guest is given, how its end is noticed.

Nobody who connects can hold the supervisor up. Nothing here waits: each connection has PATIENCE_S to say what it wants, in one
message of a limited size; beyond MOST_STRANGERS the oldest one that has not is dropped; a flood is taken a few at a time.

A guest's death is told by its pidfd, which the kernel gives even for a process that cannot be seen from here, or (before Linux
6.5, from another process-number space) by the end of its connection. Then it is buried like a worker.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal import _core, exceptions
from shoal.engine.local import wire
from shoal.engine.local.deaths import Death
from shoal.engine.local.facts import session_facts
from shoal.engine.local.places import BACKLOG, Place

if TYPE_CHECKING:
    from shoal.engine.local.supervisor import Supervisor

MAX_GUESTS = 128  # at a time: the rest of the processes is for workers and actors
PATIENCE_S = 5.0
MOST_STRANGERS = 64
AT_A_TIME = 16
PAUSE_S = 0.1  # when there are no descriptors left
_SO_PEERPIDFD = 77
_STARTING = 1  # SlotState in core/abi.h


class Stranger:
    """A connection that has not said yet what it wants."""

    __slots__ = ("connection", "until")

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.until = time.monotonic() + PATIENCE_S


class Guest:
    """A process that has joined. `pidfd` < 0: only the end of its connection tells of its own. `ends`: it has said that it will."""

    __slots__ = ("connection", "ends", "pid", "pidfd", "slot")

    def __init__(self, connection: socket.socket, slot: int, pid: int, pidfd: int) -> None:
        self.connection: socket.socket | None = connection
        self.slot = slot
        self.pid = pid  # as it is known here; 0 if it is not
        self.pidfd = pidfd
        self.ends = False


class Door:
    def __init__(self, supervisor: Supervisor, fd: int, place: Place) -> None:
        self._supervisor = supervisor
        self._selector = supervisor.selector
        self._place = place
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._socket.listen(BACKLOG)  # again: who connects sees the credentials of whoever called this last
        self._token: str | None = supervisor.config["token"]
        self._same_token: Callable[[bytes, bytes], bool] | None = None
        if self._token is not None:
            from hmac import compare_digest

            self._same_token = compare_digest
        self._versions = wire.versions()
        self._strangers: list[Stranger] = []  # oldest first
        self.guests: dict[int, Guest] = {}  # by slot
        self._paused_until: float | None = None
        self._selector.register(self._socket, selectors.EVENT_READ, self._knock)

    # -- strangers ------------------------------------------------------------------------------------------

    def _knock(self, _key: Any) -> None:
        for _ in range(AT_A_TIME):
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError:  # no descriptor or memory left: what lies in the queue would wake us again at once
                self._selector.unregister(self._socket)
                self._paused_until = time.monotonic() + PAUSE_S
                return
            connection.setblocking(False)
            if len(self._strangers) >= MOST_STRANGERS:
                self._forget(self._strangers[0])
            stranger = Stranger(connection)
            self._strangers.append(stranger)
            self._selector.register(connection, selectors.EVENT_READ, lambda _key, s=stranger: self._hear(s))
            self._hear(stranger)  # mostly it has spoken already

    def _forget(self, stranger: Stranger, keep: bool = False) -> None:
        self._strangers.remove(stranger)
        self._selector.unregister(stranger.connection)
        if not keep:
            stranger.connection.close()

    def _hear(self, stranger: Stranger) -> None:
        if stranger.connection.fileno() < 0:  # dropped earlier in the same round of events
            return
        try:
            data = stranger.connection.recv(wire.MAX_REQUEST + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            if data:
                self._answer(stranger, data)
        finally:
            if stranger in self._strangers:  # it is no guest: there is nothing more to say to it
                self._forget(stranger)

    def _answer(self, stranger: Stranger, data: bytes) -> None:
        connection = stranger.connection
        try:
            if len(data) > wire.MAX_REQUEST:
                raise wire.Garbage(f"longer than {wire.MAX_REQUEST} bytes")
            protocol, kind, fields = wire.unpack(data)
        except wire.Garbage as error:
            _say(connection, wire.REFUSED, error="protocol", text=f"the session does not understand this: {error}")
            return
        pid, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.geteuid():
            text = f"the session belongs to user {os.geteuid()}; user {uid} cannot join it"
            _say(connection, wire.REFUSED, error="user", text=text)
        elif protocol != wire.PROTOCOL:
            _say(connection, wire.REFUSED, error="version", versions=self._versions)
        elif not self._knows_token(fields.get("token")):
            missing = fields.get("token") is None
            text = "the session asks for a token" if missing else "this is not the session's token"
            _say(connection, wire.REFUSED, error="token", text=text)
        elif kind == wire.STATUS:
            _say(connection, wire.FACTS, **session_facts(self._supervisor))
        elif kind != wire.JOIN:
            _say(connection, wire.REFUSED, error="protocol", text=f"the session does not know requests of kind {kind}")
        elif fields.get("versions") != self._versions:
            _say(connection, wire.REFUSED, error="version", versions=self._versions)
        else:
            self._admit(stranger, pid)

    def _knows_token(self, token: Any) -> bool:
        if self._same_token is None or self._token is None:
            return True
        return isinstance(token, str) and self._same_token(token.encode(errors="replace"), self._token.encode())

    # -- guests ---------------------------------------------------------------------------------------------

    def _admit(self, stranger: Stranger, pid: int) -> None:
        connection = stranger.connection
        try:
            if len(self.guests) >= MAX_GUESTS:
                raise exceptions.LimitError("MAX_GUESTS", MAX_GUESTS)
            slot = _core.claim_slot()
        except exceptions.LimitError as error:
            _say(connection, wire.REFUSED, error="limit", limit=error.limit_name, value=error.value)
            return
        pidfd = _pidfd_of(connection, pid)
        self._forget(stranger, keep=True)
        guest = Guest(connection, slot, pid, pidfd)
        self.guests[slot] = guest
        _core.watch_life(slot, pidfd if pidfd >= 0 else connection.fileno(), pidfd >= 0)
        self._selector.register(connection, selectors.EVENT_READ, lambda _key: self._hear_guest(guest))
        if pidfd >= 0:
            self._selector.register(pidfd, selectors.EVENT_READ, lambda _key: self._on_end(guest))
        try:
            message = wire.pack(wire.WELCOME, {"slot": slot, "name": self._place.name, "socket": self._place.socket})
            socket.send_fds(connection, [message], self._supervisor.shared_descriptors(), socket.MSG_NOSIGNAL)
        except OSError:  # it is gone already
            self._bury(guest, died=True)

    def _hear_guest(self, guest: Guest) -> None:
        connection = guest.connection
        if connection is None:
            return
        try:
            data = connection.recv(wire.MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        said = 0
        if data:
            try:
                protocol, kind, _ = wire.unpack(data)
                said = kind if protocol == wire.PROTOCOL else 0
            except wire.Garbage:
                pass
        if said == wire.ENDS:
            guest.ends = True
        elif said == wire.LEAVE:
            self._bury(guest, died=False)
        elif _core.slot_info(guest.slot)[0] == _STARTING or (not data and (guest.pidfd < 0 or _has_let_go(guest.pid))):
            self._bury(guest, died=not guest.ends)
        elif guest.pidfd >= 0:  # the end of its connection, or nonsense. It may still touch the arena: its slot stays its own
            self._hang_up(guest)

    def _on_end(self, guest: Guest) -> None:
        self._hear_guest(guest)  # what it said last may not have been read yet
        self._bury(guest, died=not guest.ends)

    def _hang_up(self, guest: Guest) -> None:
        connection, guest.connection = guest.connection, None
        if connection is not None:
            self._selector.unregister(connection)
            connection.close()

    def _bury(self, guest: Guest, died: bool) -> None:
        if self.guests.pop(guest.slot, None) is None:  # both its descriptors told of it
            return
        _core.recover(guest.slot, died)
        _core.watch_life(guest.slot, -1, False)
        self._supervisor.bury(guest.slot, Death(guest.slot, guest.pid, 0, "ended" if died else "left the session"))
        if guest.pidfd >= 0:
            self._selector.unregister(guest.pidfd)
            os.close(guest.pidfd)
        self._hang_up(guest)  # last: by this a guest that leaves knows that all is given back

    # -- time, forks, the end -------------------------------------------------------------------------------

    def look(self) -> float | None:
        """Drop those who have said nothing for too long; returns the seconds until the next one's time is over."""
        now = time.monotonic()
        while self._strangers and self._strangers[0].until <= now:
            self._forget(self._strangers[0])
        waits = [self._strangers[0].until - now] if self._strangers else []
        if self._paused_until is not None:
            if self._paused_until <= now:
                self._paused_until = None
                self._selector.register(self._socket, selectors.EVENT_READ, self._knock)
            else:
                waits.append(self._paused_until - now)
        return min(waits, default=None)

    def close_in_child(self) -> None:
        """A worker, just forked, must not keep anybody's connection open."""
        self._socket.close()
        for stranger in self._strangers:
            stranger.connection.close()
        for guest in self.guests.values():
            if guest.connection is not None:
                guest.connection.close()
            if guest.pidfd >= 0:
                os.close(guest.pidfd)

    def close(self) -> None:
        """The session ends: nobody can join any more, and nobody finds it."""
        if self._paused_until is None:
            self._selector.unregister(self._socket)
        self._socket.shutdown(socket.SHUT_RDWR)  # so that it refuses: a worker that was just forked may have a copy of it still
        self._socket.close()
        while self._strangers:
            self._forget(self._strangers[0])
        self._place.remove()


def _has_let_go(pid: int) -> bool:
    """Does that process, which lives, not map the arena any more? So it is after an exec(), which closes its connection."""
    try:
        with open(f"/proc/{pid}/maps") as file:
            return not any("/memfd:shoal" in line for line in file)
    except OSError:  # it cannot be seen from here
        return False


def _say(connection: socket.socket, kind: int, **fields: Any) -> None:
    try:
        connection.send(wire.pack(kind, fields), socket.MSG_NOSIGNAL)
    except OSError:  # it does not listen
        pass


def _pidfd_of(connection: socket.socket, pid: int) -> int:
    """A descriptor of the process that connected, -1 if there is no way to get one."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4)
        fd: int = struct.unpack("i", raw)[0]
        os.set_inheritable(fd, False)
        return fd
    except OSError:
        pass
    if pid <= 0:
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1
