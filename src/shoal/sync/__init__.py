"""Locks that every participant of a session can hold."""

from __future__ import annotations

from typing import Any

from shoal._core import Lock
from shoal.engine import current

__all__ = ["Lock", "lock"]


def lock(target: Any = None, *, reentrant: bool = False) -> Lock:
    """The lock of something: of a mutable object, of a name, or a new one.

    Args:
        target: an ObjectRef made by `put(..., mutable=True)` for the object's own lock (always the same one); a
            string for the lock of that name, which every participant finds; None for a new lock to pass along.
        reentrant: whether the thread that holds it may take it again.

    Returns a Lock: exclusive, fair (a waiter is overtaken for half a millisecond at most), usable with `with`,
    `acquire(blocking=True, timeout=None)`, `release()`, `locked()`; it can be sent to tasks and actors. Taking and
    releasing a lock that is free costs no system call.

    Raises NotMutableError for a reference to an immutable object. Its `acquire` raises LockHolderDied if the last
    holder died holding it: the lock is yours then, and you decide about what it guards. `with` raises it too, but
    gives the lock back, and goes on raising until somebody has used `acquire`.

    >>> import numpy as np, shoal
    >>> ref = shoal.put(np.zeros(3), mutable=True)
    >>> with shoal.lock(ref):
    ...     shoal.get(ref)[:] += 1
    >>> shoal.get(ref)
    array([1., 1., 1.])
    """
    return current().lock(target, reentrant)
