"""Where the work is done. The public API knows only the interface `Engine` and `current()`.

`local` is the arena of this machine. Another engine needs a module that makes an `Engine`, and a line in
`start()` that says which addresses are its.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from shoal.engine.base import Engine
from shoal.exceptions import ForkedError, NotInitializedError

_engine: Engine | None = None
_implicit = True  # may a first use start a session by itself?
_forked = False  # this process was forked from a participant
_exiting = False  # the interpreter is ending
# Held while a session is started or ended: two threads whose first use comes at the same time start one session.
_changing = threading.RLock()


def current() -> Engine:
    """The engine of the present session; a first use without `init()` starts a local session, as in Ray."""
    if _engine is not None:
        return _engine
    if _forked:
        raise ForkedError(
            "this process was forked from a participant of a Shoal session and is not one itself: call shoal.init() here for a "
            "session of its own, or use tasks and actors instead of fork()"
        )
    stop_here_at_exit()
    if not _implicit:
        raise NotInitializedError(
            "there is no Shoal session in this process: it takes no part in one, or the session was shut down"
        )
    with _changing:
        return current_or_none() or start(None, {})


def current_or_none() -> Engine | None:
    return _engine


def start(address: str | None, settings: dict[str, Any]) -> Engine:
    """Start the engine for `address`: "local", a new session of this machine; "auto", the one session that this user has; the
    name of a session, or the path of its socket. None: what SHOAL_ADDRESS says, or else "local"."""
    address = address or os.environ.get("SHOAL_ADDRESS") or "local"
    if not isinstance(address, str):
        raise TypeError(f"address must be a string, not {address!r}")
    if ":" in address:
        raise ValueError(
            f"cannot connect to {address!r}: this version of Shoal runs on this machine only; use shoal.init() without an address, "
            "or give the name of a session or the path of its socket"
        )
    from shoal.engine.local.session import start_session

    with _changing:
        engine = start_session(None if address == "local" else address, settings)
        use(engine)
    return engine


def stop() -> None:
    """End the present session, if there is one."""
    with _changing:
        engine = _engine
        if engine is not None:
            use(None)
            engine.shutdown()


def use(engine: Engine | None) -> None:
    """Make `engine` the current one (None: there is none any more)."""
    global _engine, _forked
    _engine = engine
    if engine is not None:
        _forked = False


def forbid_implicit_start() -> None:
    """In a worker there is a session or there is an error: it never starts one of its own by accident."""
    global _implicit
    _implicit = False


def at_exit() -> None:
    """The interpreter ends, and the session with it: nothing may start another one."""
    global _exiting
    forbid_implicit_start()
    _exiting = True


def stop_here_at_exit() -> None:
    """Called before an error says that the session has ended. At the interpreter's exit its daemon threads stop here instead
    (as they will anyway once they need the GIL): what they would print about the error is of no use to anybody."""
    if _exiting and threading.current_thread() is not threading.main_thread():
        threading.Event().wait()


def _after_fork_in_child() -> None:
    global _engine, _forked, _changing
    _changing = threading.RLock()  # another thread of the parent may have held it
    if _engine is not None:
        _engine = None
        _forked = True


os.register_at_fork(after_in_child=_after_fork_in_child)
