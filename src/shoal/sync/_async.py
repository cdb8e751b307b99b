"""Locks, semaphores and events in event loops.

A coroutine that must wait stands in the same queue in the arena as a thread does. What rings this process
makes the loop look (`_futures.when`). A process can stand in queues a limited number of times, so for each
loop and lock only one coroutine does; the others wait for it in the loop, in order. All who await an event
share one place.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from shoal import _core, _futures
from shoal.exceptions import LockHolderDied, SessionError

if TYPE_CHECKING:
    import asyncio

# loop -> what is waited for -> the turn of its coroutines, or the common wait for an event
_waits: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Any]] = weakref.WeakKeyDictionary()

_WAITING, _OURS, _TOLD = range(3)


class _Turn:
    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        import asyncio

        self.lock = asyncio.Lock()
        self.users = 0


async def acquire(face: Any, keep: bool) -> None:
    """Take a lock or a permit. `keep`: the lock stays ours when LockHolderDied is raised."""
    import asyncio

    loop = asyncio.get_running_loop()
    turns = _waits.setdefault(loop, {})
    key = (face._ref, getattr(face, "_is_shared", False))
    turn = turns.get(key)
    if turn is None:
        turn = turns[key] = _Turn()
    turn.users += 1
    try:
        async with turn.lock:
            number = face._async_begin(keep)
            if number >= 0:
                await _queue(loop, face, number, keep)
    finally:
        turn.users -= 1
        if not turn.users:
            del turns[key]


async def _queue(loop: asyncio.AbstractEventLoop, face: Any, number: int, keep: bool) -> None:
    """Wait with this number. However it ends, the number is out of the queue then."""
    state = _WAITING

    def look() -> bool:
        nonlocal state
        if state == _WAITING:
            try:
                if face._async_check(number, keep):
                    state = _OURS
            except LockHolderDied:
                state = _TOLD
                raise
        return state == _OURS

    try:
        await _futures.when(look)
    except BaseException as error:
        if isinstance(error, SessionError) or not _core.attached():
            raise  # there is nothing left to put in order
        if state == _WAITING:
            face._async_leave(number)
        elif state == _OURS:  # cancelled when it had it already
            face.release()
        elif keep and not isinstance(error, LockHolderDied):  # ... and the news of the holder's death with it
            face._renounce()
        raise


class _EventWait:
    """The place in an event's queue of all coroutines of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, face: Any, number: int) -> None:
        self.face, self.number = face, number
        self.over = False
        self.users = 0
        self.future = _futures.when(self.look)

    def look(self) -> bool:
        if not self.over:
            self.over = self.face._async_check(self.number)
        return self.over

    def leave(self) -> None:
        self.future.cancel()
        if not self.over and _core.attached():
            try:
                self.face._async_leave(self.number)
            except SessionError:
                pass


async def wait_event(face: Any) -> None:
    """Wait until the event is set."""
    import asyncio

    if face.is_set():
        return
    loop = asyncio.get_running_loop()
    waits = _waits.setdefault(loop, {})
    key = face._ref
    wait = waits.get(key)
    if wait is None or wait.look():  # that one has been let go: it was for those who came before
        number = face._async_begin(None)
        if number < 0:
            return
        wait = waits[key] = _EventWait(loop, face, number)
    wait.users += 1
    try:
        await asyncio.shield(wait.future)
    finally:
        wait.users -= 1
        if not wait.users:
            if waits.get(key) is wait:
                del waits[key]
            wait.leave()


async def _acquire_async(self: Any) -> bool:
    """Take the lock without blocking the event loop. Any thread of the process may release it then."""
    await acquire(self, True)
    return True


async def _enter(self: Any) -> Any:
    await acquire(self, False)
    return self


async def _exit(self: Any, kind: object, *_: object) -> None:
    if kind is not None and self._rolls_back:
        self._release_undone()
    else:
        self.release()


def install() -> None:
    """Give the native Lock what is written in Python."""
    lock: Any = _core.Lock
    lock.acquire_async = _acquire_async
    lock.__aenter__ = _enter
    lock.__aexit__ = _exit
