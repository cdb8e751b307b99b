"""Where the work is done. The public API knows only the interface `Engine` and `current()`.

`local` is the arena of this machine. Another engine needs a module that makes an `Engine`, and a line in
`start()` that says which addresses are its.
"""

from __future__ import annotations

from typing import Any

from shoal.engine.base import Engine
from shoal.exceptions import NotInitializedError

_engine: Engine | None = None
_implicit = True  # may a first use start a session by itself?


def current() -> Engine:
    """The engine of the present session; a first use without `init()` starts a local session, as in Ray."""
    if _engine is not None:
        return _engine
    if not _implicit:
        raise NotInitializedError(
            "there is no Shoal session in this process: it takes no part in one, or the session was shut down"
        )
    return start(None, {})


def current_or_none() -> Engine | None:
    return _engine


def start(address: str | None, settings: dict[str, Any]) -> Engine:
    """Start the engine for `address` (None or "local": this machine)."""
    if address not in (None, "local", "auto"):
        raise ValueError(
            f"cannot connect to {address!r}: this version of Shoal runs on this machine only; use shoal.init() without an address"
        )
    from shoal.engine.local.session import start_session

    engine = start_session(settings)
    use(engine)
    return engine


def use(engine: Engine | None) -> None:
    """Make `engine` the current one (None: there is none any more)."""
    global _engine
    _engine = engine


def forbid_implicit_start() -> None:
    """In a worker there is a session or there is an error: it never starts one of its own by accident."""
    global _implicit
    _implicit = False
