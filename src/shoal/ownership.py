"""Mutable objects with an owner: one participant writes, says when it counts, and can hand the object on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from shoal import _core
from shoal._core import ObjectRef
from shoal.actor import ActorHandle
from shoal.engine import current
from shoal.exceptions import ActorDiedError, ClaimTimeoutError, NotOwnerError, StaleOwnerError

__all__ = ["Owner", "OwnerDied", "claim", "claim_requested", "commit", "owned", "owner", "transfer"]


@dataclass(frozen=True)
class Owner:
    """Who owns a mutable object, as `shoal.owner(ref)` found it.

    `kind`: "actor", or "process" (the driver, a guest, or a worker for as long as its task runs). `name`: the actor's class,
    "driver", "guest", or the task that the worker runs. `pid`: its process, None for an actor that has none at the moment. `epoch`:
    counts the owners of this object, from 1. `since`: when this one began, as `time.time()` counts. `me`: it is the caller.
    `waiting`: how many wait for it in `shoal.claim`.
    """

    kind: Literal["actor", "process"]
    name: str
    pid: int | None
    epoch: int
    since: float
    me: bool
    waiting: int

    def __str__(self) -> str:
        who = f"actor {self.name}" if self.kind == "actor" else self.name
        return who if self.pid is None else f"{who} (pid {self.pid})"


@dataclass(frozen=True)
class OwnerDied:
    """What `shoal.claim` returns if the last owner died: the object is as that one committed it last.

    `name` is what its process was seen to do, `pid` its process id (None if it ended before it ever came for the object),
    `epoch` the ownership that ended, `at` when, as `time.time()` counts. `task_ended`: it was a task, which ended without
    handing the object on; its process lives.
    """

    name: str
    pid: int | None
    epoch: int
    at: float
    task_ended: bool

    def __str__(self) -> str:
        who = self.name if self.pid is None else f"{self.name} (pid {self.pid})"
        how = "ended" if self.task_ended else "died"
        return f"{who}, owner in epoch {self.epoch}, {how} {time.time() - self.at:.1f} s ago; what it had not committed is gone"


def put_owned(value: Any, who: object) -> ObjectRef:
    current()
    if isinstance(who, ActorHandle):
        ref: ObjectRef | None = _core._put_owned(value, who._ref)
        if ref is None:
            raise _dead(who)
        return ref
    if isinstance(who, str) and who == "me":  # arrays compare element by element
        mine: ObjectRef | None = _core._put_owned(value, None)
        assert mine is not None, "only an actor can be dead"
        return mine
    raise TypeError(f'the owner is "me" or an actor\'s handle, not {who!r}')


def owner(ref: ObjectRef) -> Owner | None:
    """Who owns a mutable object now; None if nobody does, or if it was put without an owner.

    Costs a short lock. Raises TypeError for what is no ObjectRef.

    >>> import numpy as np, shoal
    >>> ref = shoal.put(np.zeros(3), mutable=True, owner="me")
    >>> who = shoal.owner(ref)
    >>> who.name, who.epoch, who.me
    ('driver', 1, True)
    """
    found = _core._owner(ref)
    if found is None:
        return None
    is_actor, name, pid, epoch, age, me, waiting = found
    return Owner("actor" if is_actor else "process", name, pid or None, epoch, time.time() - age, me, waiting)


def commit(ref: ObjectRef) -> None:
    """Make what the owner has written the state that remains if it dies, or loses the object.

    Only the owner may. Costs one copy of the arrays, into memory that is taken for it (a committed object takes its size
    twice, and three times during a commit). A process that is killed in a commit leaves the old state or the new one, never a
    mixture. Readers are not held up, and see what the owner writes at once, committed or not.

    Raises:
        StaleOwnerError: this process owned it, and somebody else has become the owner since, or it has owned it again
            since without another `get`. Nothing was committed. See `claim` for what its arrays can still do.
        NotOwnerError: this process never owned it.
        ObjectStoreFullError: no room for the copy; the last commit holds, and it may be tried again.
        NotMutableError: it was frozen.
        ValueError: it was put without an owner.

    >>> import numpy as np, shoal
    >>> ref = shoal.put(np.zeros(3), mutable=True, owner="me")
    >>> shoal.get(ref)[:] = 1
    >>> shoal.commit(ref)
    """
    _judge(ref, _core._owner_commit(ref), "commit")


@contextlib.contextmanager
def owned(ref: ObjectRef) -> Iterator[Any]:
    """`with shoal.owned(ref) as value:` change an object that is yours; the end of the block commits.

    `value` is what `get` returns, writable. An exception that leaves the block makes the object what it was at the last
    commit, for everybody, and goes on. Only the owner may: call `claim` first where it may be another's. Costs and errors are
    those of `commit`; an exception costs one copy back.

    >>> import numpy as np, shoal
    >>> ref = shoal.put(np.zeros(3), mutable=True, owner="me")
    >>> with shoal.owned(ref) as value:
    ...     value += 1
    >>> with shoal.owned(ref) as value:
    ...     value += 1
    ...     raise ValueError("not like this")
    Traceback (most recent call last):
    ValueError: not like this
    >>> shoal.get(ref)
    array([1., 1., 1.])
    """
    value = current().get(ref, None)
    _judge(ref, _core._owner_mine(ref), "change")
    try:
        yield value
    except BaseException:
        _core._owner_rollback(ref)  # a stale owner has nothing to take back: the next one began from the last commit
        raise
    commit(ref)


def transfer(ref: ObjectRef, to: ActorHandle | None) -> None:
    """Commit, and make another the owner; from then on this process can only read it.

    Args:
        ref: an object that the caller owns.
        to: an actor's handle; or None: whoever has waited longest in `claim`, or nobody, and the next to claim it has it.

    The actor need not live yet, and keeps the object when it restarts. Drop the arrays that you got before: they can still be
    written, which the new owner would see. Errors are those of `commit`, and ActorDiedError for an actor that is dead (the
    caller stays the owner). An actor that dies later leaves the object to the next to claim it.

    >>> import numpy as np, shoal
    >>> @shoal.remote
    ... class Pilot:
    ...     def fly(self, refs):
    ...         with shoal.owned(refs[0]) as position:
    ...             position += 1
    >>> ref, pilot = shoal.put(np.zeros(2), mutable=True, owner="me"), Pilot.remote()
    >>> shoal.transfer(ref, pilot)
    >>> shoal.get(pilot.fly.remote([ref]))
    >>> shoal.get(ref), shoal.get(ref).flags.writeable, shoal.owner(ref).name
    (array([1., 1.]), False, 'Pilot')
    """
    if to is not None and not isinstance(to, ActorHandle):
        raise TypeError(f"transfer() takes an actor's handle, or None to give it to whoever claims it, not {to!r}")
    result = _core._owner_transfer(ref, None if to is None else to._ref)
    if to is not None and result == _DEAD:
        raise _dead(to)
    _judge(ref, result, "transfer")


def claim(ref: ObjectRef, how: Literal["wait", "request", "steal"] = "wait", *, timeout: float | None = None) -> OwnerDied | None:
    """Become the owner of a mutable object; returns None, or a notice if the last owner died.

    Args:
        ref: an object that was put with an owner.
        how: "wait" until the owner hands it on, dies, or ends; "request": the same, and `claim_requested(ref)` is True for
            the owner meanwhile; "steal": take it at once.
        timeout: seconds to wait at most; None waits without limit, 0 only looks.

    Get the object again afterwards: arrays of before are read-only. It is as it was committed last. Who waits is served first
    come, first served, as soon as the owner calls `transfer(ref, None)`, or dies, or its task ends. If it is the caller's
    already nothing changes, and nothing is waited for. An actor that restarts stays the owner, in a new epoch, from the
    last commit; the notice of its death waits for whoever claims the object next, itself included.

    **Stealing** does not stop the old owner. Its next `commit`, `transfer` or end of `owned` raises StaleOwnerError. But arrays
    that it got while it was the owner stay writable, as memory that has been mapped cannot be taken back: what it writes
    through them, until it notices, goes into the object, over what the new owner writes, and the new owner's next commit
    includes it. Steal from those who are stuck; ask the others (`how="request"`).

    Raises:
        ClaimTimeoutError: the time is over.
        DeadlockError: the owner waits, in a circle, for the caller (see `shoal.lock`).
        NotMutableError: it is frozen.
        ValueError: it was put without an owner, or `how` is none of the three.

    A free object costs a short lock; stealing, one copy back.

    >>> import numpy as np, shoal
    >>> @shoal.remote
    ... def make():
    ...     ref = shoal.put(np.zeros(2), mutable=True, owner="me")
    ...     with shoal.owned(ref) as array:
    ...         array[0] = 7
    ...     shoal.get(ref)[1] = 7  # not committed
    ...     return ref
    >>> ref = shoal.get(make.remote())
    >>> notice = shoal.claim(ref)
    >>> notice.task_ended, shoal.get(ref)
    (True, array([7., 0.]))
    """
    if how not in _HOW:
        raise ValueError(f'how to claim is "wait", "request" or "steal", not {how!r}')
    found = _core._claim(ref, _HOW[how], timeout)
    if found is None:
        return None
    if found is _core.TIMED_OUT:
        raise _too_late(ref, timeout)
    task_ended, pid, name, age, epoch = found
    return OwnerDied(name or "a process", pid or None, epoch, time.time() - age, task_ended)


def claim_requested(ref: ObjectRef) -> bool:
    """Whether somebody waits in `claim(ref, "request")`. A look at one word: ask it as often as you like.

    The owner decides: `transfer(ref, None)` gives it to whoever has waited longest.

    >>> import numpy as np, shoal
    >>> ref = shoal.put(np.zeros(3), mutable=True, owner="me")
    >>> shoal.claim_requested(ref)
    False
    """
    return _core._owner_requested(ref)


_HOW = {"wait": 0, "request": 1, "steal": 2}
_NEVER, _STALE, _DEAD = 1, 2, 3  # Client::Owned in core/client.h; and the actor that it was to go to is dead


# Errors are made in functions of their own: one in a variable of the frame that raises it is a cycle, and what that frame and its
# callers refer to would stay until Python looks for garbage.
def _too_late(ref: ObjectRef, timeout: float | None) -> ClaimTimeoutError:
    now = owner(ref)
    error = ClaimTimeoutError(
        f"the object is still owned by {now}, in epoch {now.epoch}; it was not handed on within {timeout} seconds"
        if now
        else f"the object was not handed on within {timeout} seconds"
    )
    error.owner = now
    return error


def _judge(ref: ObjectRef, verdict: int, what: str) -> None:
    if verdict:
        raise _refusal(ref, verdict, what)


def _refusal(ref: ObjectRef, verdict: int, what: str) -> NotOwnerError | StaleOwnerError:
    now = owner(ref)
    ago = f"{max(0.0, time.time() - now.since):.1f} s ago" if now else ""
    error: NotOwnerError | StaleOwnerError
    if verdict == _NEVER:
        error = NotOwnerError(
            f"cannot {what} an object that is not this process's: "
            + (f"{now} owns it, since {ago} (epoch {now.epoch})" if now else "nobody owns it")
            + "; shoal.claim(ref) makes you its owner"
        )
    elif now and now.me:
        error = StaleOwnerError(
            f"cannot {what}: this process lost the object, and became its owner again {ago} (epoch {now.epoch}). What it wrote "
            "before went to another epoch: get() the object again"
        )
    else:
        error = StaleOwnerError(
            f"cannot {what}: this process owns the object no more; "
            + (f"{now} does, since {ago} (epoch {now.epoch})" if now else "nobody does")
            + ". Drop the arrays you got before: what is written to them goes into the new owner's object"
        )
    error.owner = now
    return error


def _dead(handle: ActorHandle) -> ActorDiedError:
    return ActorDiedError("it cannot own an object", actor_id=handle._actor_id, class_name=handle._class_name)
