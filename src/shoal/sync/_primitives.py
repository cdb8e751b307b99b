"""Semaphore, Event, Condition and Barrier across the processes of a session, as in `threading`."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import BrokenBarrierError
from typing import Any, TypeVar

from shoal import _core
from shoal.engine import current
from shoal.exceptions import SessionError
from shoal.sync import _async

T = TypeVar("T")

SEMAPHORE, EVENT, CONDITION, BARRIER = 1, 2, 3, 4  # SyncType in core/abi.h
BOUNDED, KEEP = 1, 2  # SyncFlags


def _again(cls: type, ref: Any, name: str | None, *rest: Any) -> Any:
    """Unpickle: another face of the same object."""
    face: Any = _core.Sync.__new__(cls, ref, name)
    if rest:
        face._dress(*rest)
    return face


class Semaphore(_core.Sync):
    """Permits that any participant takes and gives back; `threading.Semaphore` across processes.

    Args:
        value: permits at the beginning. A semaphore found by its name has the number it was made with.
        name: every participant that asks for this name gets the same semaphore.
        give_back: when a process dies, the permits that it has taken and nobody has released are free again.
            False for a semaphore that counts things (items in a buffer, events) rather than holders.

    Permits belong to the process, not to the thread; a release is booked on the releasing process, or, if
    that holds none, on another holder; if there is none either it makes a new permit. Waiters are served
    first come first, but a permit may go to somebody who happens to come by until the first has waited for
    half a millisecond.

    >>> import shoal
    >>> slots = shoal.sync.Semaphore(2)
    >>> with slots:
    ...     slots.acquire(blocking=False), slots.acquire(timeout=0.01)
    (True, False)
    >>> slots.release()
    >>> slots.statistics()["value"]
    2
    """

    __slots__ = ()
    _bounded = 0

    def __new__(cls, value: int = 1, *, name: str | None = None, give_back: bool = True) -> Semaphore:
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        kind = "bounded semaphore" if cls._bounded else "semaphore"
        flags = cls._bounded | (0 if give_back else KEEP)
        ref = current().sync_object(kind, name, (SEMAPHORE, value, value, flags))
        return super().__new__(cls, ref, name)

    acquire = _core.Sync._sem_acquire
    release = _core.Sync._sem_release
    __enter__ = _core.Sync._sem_enter
    __exit__ = _core.Sync._sem_exit

    async def acquire_async(self) -> bool:
        """Take a permit without blocking the event loop."""
        await _async.acquire(self, True)
        return True

    async def __aenter__(self) -> None:
        await _async.acquire(self, False)

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def statistics(self) -> dict[str, Any]:
        """value (free permits), waiters, holders (pid: permits), acquisitions, as of this moment."""
        facts = self._facts()
        return {
            "value": facts["value"],
            "waiters": facts["waiters"],
            "holders": facts["holders"],
            "acquisitions": facts["count"],
        }

    def __reduce__(self) -> Any:
        return _again, (type(self), self._ref, self.name)

    def __repr__(self) -> str:
        return _describe(self, "value", "waiters")


class BoundedSemaphore(Semaphore):
    """A Semaphore that raises ValueError when more permits are released than there were at the beginning.

    >>> import shoal
    >>> shoal.sync.BoundedSemaphore(1).release()
    Traceback (most recent call last):
    ...
    ValueError: Semaphore released too many times
    """

    __slots__ = ()
    _bounded = BOUNDED


class Event(_core.Sync):
    """A flag that participants wait for; `threading.Event` across processes.

    >>> import shoal
    >>> ready = shoal.sync.Event()
    >>> ready.wait(timeout=0.01)
    False
    >>> ready.set()
    >>> ready.wait()
    True
    """

    __slots__ = ()

    def __new__(cls, *, name: str | None = None) -> Event:
        ref = current().sync_object("event", name, (EVENT, 0, 0, 0))
        return super().__new__(cls, ref, name)

    set = _core.Sync._event_set
    clear = _core.Sync._event_clear
    is_set = _core.Sync._event_is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set; False if that did not happen in time."""
        return self._event_wait(timeout)

    async def wait_async(self) -> bool:
        """Wait until the flag is set, without blocking the event loop."""
        await _async.wait_event(self)
        return True

    def statistics(self) -> dict[str, Any]:
        """set, waiters, times_set, as of this moment."""
        facts = self._facts()
        return {"set": bool(facts["value"]), "waiters": facts["waiters"], "times_set": facts["count"]}

    def __reduce__(self) -> Any:
        return _again, (type(self), self._ref, self.name)

    def __repr__(self) -> str:
        return _describe(self, "set", "waiters")


class Condition(_core.Sync):
    """Wait for something that others change under a lock; `threading.Condition` across processes.

    Args:
        lock: a `shoal.lock()`, reentrant or not; without one the condition has a reentrant lock of its own.
        name: every participant that asks for this name gets the same condition (and its own lock).

    A notification reaches those who waited when it was given; if one of them is killed before it noticed, the
    next waiter gets it.

    >>> import shoal
    >>> changed = shoal.sync.Condition()
    >>> with changed:
    ...     changed.wait(timeout=0.01)
    False
    """

    _lock: Any

    def __new__(cls, lock: Any = None, *, name: str | None = None) -> Condition:
        if lock is not None and (not isinstance(lock, _core.Lock) or lock._is_shared or lock._rolls_back):
            raise TypeError(f"Condition() takes a lock made by shoal.lock(), in exclusive mode and without rollback, not {lock!r}")
        ref = current().sync_object("condition", name, (CONDITION, 0, 0, 0))
        face = super().__new__(cls, ref, name)
        face._dress(lock)
        return face

    def _dress(self, lock: Any) -> None:
        self._own = lock is None
        self._lock = _core._lock(self._ref, self.name, True) if lock is None else lock
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        self._lock.__enter__()
        return True

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Let go of the lock, wait for a notification, take the lock again; False if none came in time."""
        lock = self._lock
        if not lock._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        number = self._cond_enqueue()
        depth = lock._release_save()
        try:
            return self._cond_wait(number, timeout)
        finally:
            self._take_again(depth)

    def _take_again(self, depth: int) -> None:
        """Whatever happens meanwhile, `wait` ends with the lock held, since its caller will release it."""
        interrupted = None
        while True:
            try:
                self._lock._acquire_restore(depth)
                break
            except SessionError:
                raise
            except BaseException as error:  # a signal handler raised
                if self._lock._is_owned() or not isinstance(error, KeyboardInterrupt):
                    raise
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until `predicate()`, called with the lock held, is true; returns its last value."""
        end = None if timeout is None else time.monotonic() + timeout
        result = predicate()
        while not result:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Let `n` waiters go on, those who came first; the lock must be held."""
        if not self._lock._is_owned():
            raise RuntimeError("cannot notify on un-acquired lock")
        self._cond_notify(n)

    def notify_all(self) -> None:
        """Let all waiters go on; the lock must be held."""
        self.notify(1 << 62)

    def statistics(self) -> dict[str, Any]:
        """waiters, notifications, lock (its statistics), as of this moment."""
        facts = self._facts()
        return {"waiters": facts["waiters"], "notifications": facts["count"], "lock": self._lock.statistics()}

    def __reduce__(self) -> Any:
        return _again, (type(self), self._ref, self.name, None if self._own else self._lock)

    def __repr__(self) -> str:
        return _describe(self, "waiters")


class Barrier(_core.Sync):
    """A point at which `parties` participants wait for one another; `threading.Barrier` across processes.

    Args:
        parties: how many must come before all go on. Each gets a different number from 0 to parties - 1.
        action: called by the last one to come, before the others go on.
        timeout: seconds that `wait` waits if it is not told otherwise.
        name: every participant that asks for this name gets the same barrier.

    It is broken, and all who wait get `threading.BrokenBarrierError`, when one of them has waited too long,
    when the action raises, after `abort()`, and when a participant is killed while it waits. `reset()` makes
    it usable again.

    >>> import shoal
    >>> gate = shoal.sync.Barrier(1, action=lambda: print("all here"))
    >>> gate.wait()
    all here
    0
    """

    action: Callable[[], Any] | None
    timeout: float | None

    def __new__(
        cls,
        parties: int,
        action: Callable[[], Any] | None = None,
        timeout: float | None = None,
        *,
        name: str | None = None,
    ) -> Barrier:
        if parties < 1:
            raise ValueError("parties must be > 0")
        ref = current().sync_object("barrier", name, (BARRIER, 0, parties, 0))
        face = super().__new__(cls, ref, name)
        face._dress(action, timeout)
        if face.parties != parties:
            raise ValueError(f"the barrier {name!r} exists already, for {face.parties} parties")
        return face

    def _dress(self, action: Callable[[], Any] | None, timeout: float | None) -> None:
        self.action, self.timeout = action, timeout

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the others."""
        return self._barrier_wait(self.timeout if timeout is None else timeout, self.action)

    def abort(self) -> None:
        """Break it: all who wait, and who come until `reset()`, get BrokenBarrierError."""
        self._barrier_break(True)

    def reset(self) -> None:
        """Make it usable and empty; those who wait get BrokenBarrierError."""
        self._barrier_break(False)

    @property
    def parties(self) -> int:
        return self._facts()["limit"]

    @property
    def n_waiting(self) -> int:
        """How many wait at this moment."""
        facts = self._facts()
        return 0 if facts["full"] else facts["value"]

    @property
    def broken(self) -> bool:
        return self._facts()["broken"]

    def statistics(self) -> dict[str, Any]:
        """parties, waiters, broken, generations (how often all came, or it was broken), as of this moment."""
        facts = self._facts()
        return {
            "parties": facts["limit"],
            "waiters": facts["waiters"],
            "broken": facts["broken"],
            "generations": facts["count"],
        }

    def __reduce__(self) -> Any:
        return _again, (type(self), self._ref, self.name, self.action, self.timeout)

    def __repr__(self) -> str:
        return _describe(self, "waiters", "parties", "broken")


def _describe(face: Any, *facts: str) -> str:
    name = "" if face.name is None else f" {face.name!r}"
    try:
        statistics = face.statistics()
    except SessionError:
        return f"<shoal.sync.{type(face).__name__}{name}, its session has ended>"
    return f"<shoal.sync.{type(face).__name__}{name}, " + ", ".join(f"{k} {statistics[k]}" for k in facts) + ">"


__all__ = ["Barrier", "BoundedSemaphore", "BrokenBarrierError", "Condition", "Event", "Semaphore"]
