"""A guest's side of a session: finds it, asks to join, leaves."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from typing import Any

from shoal import _core, _futures
from shoal.engine.local import hooks, places, wire
from shoal.engine.local.engine import LocalEngine
from shoal.engine.local.membership import Membership
from shoal.engine.local.session import check_token
from shoal.exceptions import LimitError, SessionError, SessionNotFoundError, SessionRefusedError, SessionVersionError

PATIENCE_S = 10.0  # for an answer
_OF_A_GUEST = ("namespace", "token")  # the other settings are those of the session


def socket_of(address: str) -> str:
    """The path of the socket that an address stands for. Raises SessionNotFoundError, ValueError."""
    if "/" in address:
        return address
    if address == "auto":
        all_of = places.sessions()
        if len(all_of) == 1:
            return all_of[0].socket
        if all_of:
            error = SessionNotFoundError(f"address='auto': you have {len(all_of)} sessions ({_list(all_of)}): say which one")
            error.known = tuple(place.name for place in all_of)
            raise error
        raise _not_found("address='auto': you have no session that could be joined", all_of)
    places.check_name(address)
    place = places.find(address)
    if place is None:
        raise _not_found(f"you have no session named {address!r}", places.sessions())
    return place.socket


def _not_found(what: str, known: list[places.Place]) -> SessionNotFoundError:
    have = f"; you have: {_list(known)}" if known else ""
    error = SessionNotFoundError(
        f"{what}{have}. Sessions are looked for in {' and '.join(places.homes())}; `shoal status` lists them, "
        "`shoal start` starts one"
    )
    error.known = tuple(place.name for place in known)
    return error


def _list(all_of: list[places.Place]) -> str:
    return ", ".join(place.name for place in all_of)


def connect(path: str) -> socket.socket:
    """A connection to the session at `path`. Raises SessionNotFoundError, SessionRefusedError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        patience = struct.pack("ll", int(PATIENCE_S), 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        try:
            with places.short(path) as short:
                connection.connect(short)
        except BlockingIOError:
            raise _silent(path) from None
        except PermissionError as error:
            raise SessionRefusedError(f"the session at {path} is another user's: {error.strerror}") from None
        except OSError as error:
            why = "nobody listens there: its session has ended" if isinstance(error, ConnectionRefusedError) else error.strerror
            raise _not_found(f"there is no session at {path} ({why})", places.sessions()) from None
        _, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.geteuid():
            raise SessionRefusedError(f"what listens at {path} belongs to user {uid}; this process is user {os.geteuid()}")
        return connection
    except BaseException:
        connection.close()
        raise


def _comes(connection: socket.socket) -> bool:
    """Whether something comes in time. (A limit of the socket itself would begin anew with each signal.)"""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(PATIENCE_S * 1000))


def _silent(path: str) -> SessionError:
    return SessionError(f"the session at {path} did not answer for {PATIENCE_S:g} s: its supervisor is stopped, or very busy")


def ask(connection: socket.socket, path: str, kind: int, fields: dict[str, Any]) -> tuple[int, dict[str, Any], list[int]]:
    """Send a request; returns kind and fields of the answer, and the descriptors that came with it. Raises what a refusal says."""
    descriptors: list[int] = []
    try:
        connection.send(wire.pack(kind, fields), socket.MSG_NOSIGNAL)
        if not _comes(connection):
            raise _silent(path)
        data, descriptors, _, _ = socket.recv_fds(connection, wire.MAX_ANSWER, 8, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise _silent(path) from None
    except OSError:
        data = b""
    try:
        if not data:
            raise SessionNotFoundError(f"the session at {path} hung up: it was just ending, or has too many callers; try again")
        try:
            _, answer, said = wire.unpack(data)
        except wire.Garbage as error:
            raise SessionError(f"what listens at {path} is no Shoal session: {error}") from None
        if answer == wire.REFUSED:
            raise _refusal(said)
        return answer, said, descriptors
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise


def _refusal(said: dict[str, Any]) -> Exception:
    text = str(said.get("text"))
    error = said.get("error")
    if error == "version" and isinstance(said.get("versions"), dict):
        return SessionVersionError(wire.versions(), said["versions"])
    if error == "token":
        return SessionRefusedError(f"{text}: pass init(token=...), as it was given to the session when it was started")
    if error == "user":
        return SessionRefusedError(text)
    if error == "limit":
        return LimitError(str(said.get("limit")), int(said.get("value", 0)), "the session has no room for one more process")
    return SessionError(f"the session refused: {text}")


class GuestSession(Membership):
    """What a guest keeps of the session that it has joined. With its end all that this process had there is given back."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.connection: socket.socket | None = None

    def start(self, settings: dict[str, Any]) -> LocalEngine:
        for name, value in settings.items():
            if name not in _OF_A_GUEST and value is not None and value != {}:
                raise ValueError(
                    f"init(): {name} is for a new session, and this one joins the session {self.address!r} (address=, or the "
                    "environment variable SHOAL_ADDRESS), which has its own; use address='local' to start a new one"
                )
        return super().start(settings)

    def _enter(self, settings: dict[str, Any]) -> LocalEngine:
        token = settings.get("token")
        path = socket_of(self.address)
        connection = connect(path)
        try:
            fields = {"versions": wire.versions(), "token": None if token is None else check_token(token)}
            kind, said, descriptors = ask(connection, path, wire.JOIN, fields)
            slot: Any = said.get("slot")
            sensible = type(slot) is int and 1 < slot < _core.MAX_PROCESSES and len(descriptors) in (2, 3)
            if kind != wire.WELCOME or not sensible:
                for fd in descriptors:
                    os.close(fd)
                raise SessionError(f"the session at {path} answered with nonsense")
            memfd, eventfd, *rest = descriptors
            hooks.install(None)
            try:
                _core.attach(memfd, eventfd, slot, _core.GUEST)
            except BaseException:
                for fd in rest:
                    os.close(fd)
                raise
            _core._use_spill_file(rest[0] if rest else -1)
        except BaseException:
            connection.close()  # without having become a participant: the supervisor takes the slot back
            raise
        self.connection = connection
        _core.watch_connection(connection.fileno())
        _core.label("guest")
        config = dict(_core.get(_core.config(), None))
        config["address"] = path  # by which it was reached: in another container the session's own path means nothing
        if settings.get("namespace"):
            config["namespace"] = settings["namespace"]
        engine = self._use(config, "guest")
        engine.exports.known_path = set()
        return engine

    def forked(self) -> None:
        super().forked()
        if self.connection is not None:
            self.connection.detach()  # the core has closed it; by its end the supervisor knows of the guest's
        self.connection = None

    def _at_exit(self) -> None:
        # The end of the process says the rest: what it still holds is given back then, and nothing need be copied.
        super()._at_exit()
        if os.getpid() != self.owner:
            return
        _futures.close_all()
        if self.connection is not None:
            with contextlib.suppress(OSError):  # the session has ended
                self.connection.send(wire.pack(wire.ENDS, {}), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)

    def _leave(self) -> None:
        with _futures.ending():  # no loop has a bridge to the arena, and none gets one
            left = _core.detach()
        connection = self.connection
        if connection is not None and left:
            self.connection = None
            try:
                connection.send(wire.pack(wire.LEAVE, {}), socket.MSG_NOSIGNAL)
                if _comes(connection):
                    connection.recv(1)  # its end: all is given back
            except OSError:  # the session has ended, or does not answer: it will see to it in its own time
                pass
            connection.close()
        # Otherwise something of this process still uses the arena: it stays a guest until its own end.
        elif connection is not None:
            connection.detach()
