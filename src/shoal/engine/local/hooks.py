"""What the native core calls in Python: pickling, and making exceptions of its errors."""

from __future__ import annotations

import sys
import threading
from typing import Any

from shoal import _core, exceptions, serialization
from shoal import engine as engines
from shoal.engine.local import memory
from shoal.mutable_values import deserialize_private, serialize_mutable

# Error::Code in core/client.h
_INVALID, _FULL, _LIMIT, _ENDED, _FORKED, _GONE, _ACTOR_DEAD, _PENDING_LIMIT, _NAME_TAKEN, _LOST = range(10)

_LIMITS = {
    "DRAFTS": _core.DRAFTS,
    "HOLDS": _core.HOLDS,
    "MAX_OBJECTS": _core.MAX_OBJECTS - 1,
    "MAX_PROCESSES": _core.MAX_PROCESSES,
    "MAX_SHAPES": _core.MAX_SHAPES,
    "MAX_RESOURCES": _core.MAX_RESOURCES,
    "MAX_DEMANDS": _core.MAX_DEMANDS,
    "WAIT_NODES": _core.WAIT_NODES,
}


def make_error(code: int, text: str) -> Exception:
    if code == _FULL:
        return exceptions.ObjectStoreFullError(memory.explain_full(text))
    if code == _LIMIT:
        name, _, hint = text.partition(": ")
        return exceptions.LimitError(name, _LIMITS.get(name, 0), hint)
    if code == _ENDED:
        engines.stop_here_at_exit()
        if text == "no session":
            return exceptions.NotInitializedError("there is no session in this process: call shoal.init() first")
        return exceptions.SessionEndedError(text)
    if code == _FORKED:
        return exceptions.ForkedError(text)
    if code == _GONE:
        return exceptions.ObjectLostError("", call_site=text)
    if code == _LOST:
        number, _, reason = text.partition(": ")
        return exceptions.ObjectLostError(number, reason=reason)
    if code == _PENDING_LIMIT:
        return exceptions.PendingCallsLimitExceeded(text)
    if text == "immutable":
        return exceptions.NotMutableError(
            "only a mutable object (made with put(..., mutable=True), and not frozen) has a lock of its own; for anything else "
            "use shoal.lock('a name'), or shoal.lock() for a new one"
        )
    if text == "not mutable":
        return exceptions.NotMutableError(
            "freeze() takes a reference to what put(..., mutable=True), empty(), zeros() or full() made; this object is "
            "immutable already, or not made yet"
        )
    if text == "owned and frozen":
        return exceptions.NotMutableError("the object is frozen: nobody owns it, and it never changes again")
    if text == "not the owner":
        return exceptions.NotOwnerError(
            "only the owner of an object can freeze it; shoal.owner(ref) says who that is, shoal.claim(ref) makes it you"
        )
    return ValueError(text)


def raised(stored: Any) -> BaseException:
    """The exception that get() raises for a stored one."""
    if isinstance(stored, exceptions.TaskError):
        return stored.as_instanceof_cause()
    if isinstance(stored, BaseException):
        return stored
    if stored is None:  # see store_error in bindings_tasks.cpp
        return exceptions.ObjectStoreFullError(
            "the call ended when the shared memory was full: there was no room for its result, nor for its error. "
            "Drop references to objects, or pass a larger object_store_memory to init()"
        )
    return exceptions.InternalError(f"a failed object holds {stored!r} instead of an exception")


_TASK, _UNDONE = 2, 4  # Died in core/abi.h


def lock_died(pid: int, label: str, age: float, name: Any, died: int, held: bool) -> BaseException:
    ended = bool(died & _TASK)
    guest = label == "guest"  # it runs no tasks: this is all that its label ever says
    return exceptions.LockHolderDied(
        f"a {'task' if ended else 'guest' if guest else 'process'} of this session, {age:.1f} s ago",
        None if guest else label or None,
        pid,
        repr(name) if name is not None else None,
        age=age,
        held=bool(held),
        rolled_back=bool(died & _UNDONE),
        ended=ended,
    )


_OWN_THREADS = {"shoal-output", "shoal-futures"}  # they take no part in what the program's threads do with one another


def threads() -> int:
    """How many threads of the program there are."""
    return len(sys._current_frames()) - sum(thread.name in _OWN_THREADS for thread in threading.enumerate())


def install(help_inline: Any) -> None:
    """`help_inline` runs one call inside a waiting one (only workers ever do)."""
    _core.set_hooks(
        {
            "serialize": serialization.serialize,
            "serialize_mutable": serialize_mutable,
            "deserialize": serialization.deserialize,
            "deserialize_private": deserialize_private,
            "make_error": make_error,
            "raised": raised,
            "help": help_inline,
            "lock_died": lock_died,
            "deadlock": exceptions.DeadlockError,
            "threads": threads,
            "memory_low": memory.warn_low,
            "full_error": exceptions.ObjectStoreFullError,
        }
    )
