"""Locks, semaphores, events, conditions and barriers that every participant of a session can use.

They live in the session's shared memory: no process serves them, and the death of a process that holds one or
waits for one is repaired. All can be passed to tasks and actors and kept in objects; with `name=` every
participant finds the same one. While they wait, tasks lend their CPU to others.
"""

from __future__ import annotations

from typing import Any, Literal

from shoal._core import Lock
from shoal.engine import current
from shoal.sync import _async
from shoal.sync._primitives import Barrier, BoundedSemaphore, BrokenBarrierError, Condition, Event, Semaphore

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Condition",
    "Event",
    "Lock",
    "Semaphore",
    "lock",
]

_async.install()


def lock(
    target: Any = None,
    *,
    reentrant: bool = False,
    shared: bool = False,
    on_death: Literal["raise", "ignore", "poison"] | None = None,
    rollback: bool = False,
) -> Lock:
    """The lock of something: of a mutable object, of a name, or a new one.

    Args:
        target: an ObjectRef made by `put(..., mutable=True)` for the object's own lock (always the same one);
            a string for the lock of that name, which every participant finds; None for a new lock to pass
            along.
        reentrant: whether the thread that holds it may take it again.
        shared: the same as `lock(target).shared()`: the lock in shared mode, in which many can hold it.
        on_death: what happens when a process dies, or a task ends, holding it (exclusively; readers change
            nothing). "raise", the default: the next to acquire gets LockHolderDied, once; "ignore": nothing;
            "poison": everybody gets LockHolderDied, and nobody the lock, until `recover()` is called. It is a
            property of the lock: the first to say it decides, and a different choice later is refused.
        rollback: for the reference of a mutable object: if an exception leaves the `with`, or its process dies
            in it, the arrays become again what they were when the lock was taken (LockHolderDied, whose
            `rolled_back` is True then, is raised all the same). Each acquisition copies all bytes of the
            object's arrays, in shared memory (about 0.1 s and once more the object's size per GB), and an
            undone one copies them back. It is no property of the lock: others may take it without.

    Returns a Lock: fair (a waiter is overtaken for half a millisecond at most, and no new reader gets in
    while a writer waits), usable with `with`, `async with`, `acquire(blocking=True, timeout=None)`, `await
    acquire_async()`, `release()`, `locked()`, `shared()`, `statistics()`; it can be sent to tasks and actors.
    Taking and releasing a lock that is free costs no system call, in either mode.

    A wait without a time-out that could never end raises DeadlockError in one of those who wait for one
    another (within half a second; locks, `get`s, actor calls and barriers are followed).

    Raises NotMutableError for a reference to an immutable object. Its `acquire` raises LockHolderDied if the
    last holder died holding it: the lock is yours then, and you decide about what it guards. `with` raises it
    too, but gives the lock back, and goes on raising until somebody has used `acquire`; so does shared mode,
    in which nothing can be put right.

    >>> import numpy as np, shoal
    >>> ref = shoal.put(np.zeros(3), mutable=True)
    >>> with shoal.lock(ref):
    ...     shoal.get(ref)[:] += 1
    >>> with shoal.lock(ref, shared=True):
    ...     shoal.get(ref)
    array([1., 1., 1.])
    >>> with shoal.lock(ref, rollback=True):
    ...     shoal.get(ref)[:] = 7
    ...     raise ValueError("not like this")
    Traceback (most recent call last):
    ...
    ValueError: not like this
    >>> shoal.get(ref)
    array([1., 1., 1.])
    """
    if rollback and shared:
        raise ValueError("rollback=True is for exclusive mode: in shared mode nothing may be changed")
    try:
        choice = _CHOICES[on_death]
    except (KeyError, TypeError):
        raise ValueError(f"on_death must be 'raise', 'ignore' or 'poison', not {on_death!r}") from None
    return current().lock(target, reentrant, shared, choice, rollback)


_CHOICES = {None: 0, "raise": 1, "ignore": 2, "poison": 3}  # OnDeath in core/abi.h
