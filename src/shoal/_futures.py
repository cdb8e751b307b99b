"""References (and whatever else the arena can tell) in event loops, and as `concurrent.futures`.

Each event loop that awaits something has one Bridge: a file descriptor that becomes readable when something
happened to this process. The loop then looks which of its references are done.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from shoal import _core
from shoal.engine import current
from shoal.exceptions import SessionEndedError, SessionError

if TYPE_CHECKING:  # imported when first needed: they take longer to import than the rest of shoal
    import asyncio
    import concurrent.futures


_MOST = 64  # references that a loop waits for, before it looks whether they are still waited for


class _LoopWaiter:
    """The references that one event loop waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._bridge = _core.Bridge()
        self._refs: list[Any] = []
        self._futures: list[asyncio.Future[Any]] = []
        self._rings: list[asyncio.Future[None]] = []
        self._looks: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._armed = False
        self._most = _MOST
        self._fd = self._bridge.fileno()
        loop.add_reader(self._fd, self._on_ring)

    def when(self, look: Callable[[], bool]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._looks.append((look, future))
        if not self._armed:
            self._bridge.arm(_core.ring_seen())
            self._armed = True
        self._loop.call_soon(self._look)
        return future

    def add(self, ref: Any, future: Any) -> None:
        """`future` (of asyncio or of concurrent.futures) gets the value of `ref`. To be called in the loop's thread."""
        if len(self._refs) >= self._most:  # perhaps of waits that were cancelled: someone polls with a time-out
            self._most = 2 * len(self._refs)
            self._loop.call_soon(self._drop_cancelled)
        self._refs.append(ref)
        self._futures.append(future)
        if not self._armed:
            self._bridge.arm(_core.ring_seen())
            self._armed = True
        _core.watch(ref)
        if _core.is_done(ref):
            self._loop.call_soon(self._look)

    def _drop_cancelled(self) -> None:
        kept = [(ref, future) for ref, future in zip(self._refs, self._futures, strict=True) if not future.done()]
        self._refs, self._futures = [ref for ref, _ in kept], [future for _, future in kept]
        self._most = max(_MOST, 2 * len(kept))

    def add_ring(self) -> asyncio.Future[None]:
        """Done at the next ring of this process."""
        future = self._loop.create_future()
        self._rings.append(future)
        if not self._armed:
            self._bridge.arm(_core.ring_seen())
            self._armed = True
        return future

    def _on_ring(self) -> None:
        if not _core.attached() or _core.dead():
            self._end()
            return
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            pass
        self._armed = False
        rings, self._rings = self._rings, []
        for future in rings:
            if not future.done():
                future.set_result(None)
        if self._refs or self._looks:
            # Armed before the look: what happens after the look rings again.
            self._bridge.arm(_core.ring_seen())
            self._armed = True
            self._look()

    def _look(self) -> None:
        try:
            done = _core.first_done(self._refs)
        except SessionError:
            self._end()
            return
        for index in reversed(done):  # from the back, so that the indices before stay right
            ref, future = self._refs.pop(index), self._futures.pop(index)
            _settle(future, ref)
        self._looks = [(look, future) for look, future in self._looks if not _over(look, future)]

    def close(self) -> None:
        """The session is over. What there is to do about it is done in the thread of the loop, but for this: a guest has left
        only when nothing of it looks at the arena, however long the loop takes."""
        self._bridge.leave()
        try:
            self._loop.call_soon_threadsafe(self._end)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._bridge.close()

    def _end(self) -> None:
        """Whoever still waits is told."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        self._fd = -1
        self._bridge.close()
        rings, self._rings = self._rings, []
        for ring in rings:  # they look once more, and find the session gone
            if not ring.done():
                ring.set_result(None)
        looks, self._looks = [future for _, future in self._looks], []
        futures, self._refs, self._futures = [*self._futures, *looks], [], []
        for future in futures:
            if not future.done():
                _finish(future.set_exception, SessionEndedError("the session ended before what was awaited came"))


def _over(look: Callable[[], bool], future: asyncio.Future[None]) -> bool:
    if future.done():
        return True
    try:
        if look():
            future.set_result(None)
    except BaseException as error:
        future.set_exception(error)
    return future.done()


def _settle(future: Any, ref: Any) -> None:
    if future.done():
        return
    try:
        value = current().get(ref, None)
    except StopIteration as error:  # a Future refuses it
        _finish(future.set_exception, RuntimeError(f"the task raised StopIteration: {error}"))
    except BaseException as error:
        _finish(future.set_exception, error.with_traceback(None))  # whose frame here refers to the future: a cycle
    else:
        _finish(future.set_result, value)


def _finish(set_to: Callable[[Any], None], what: Any) -> None:
    from concurrent.futures import InvalidStateError

    try:
        set_to(what)
    except InvalidStateError:  # another thread cancelled it this moment
        pass


_waiters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopWaiter] = weakref.WeakKeyDictionary()
_lock = threading.RLock()  # a signal handler may end the session wherever its thread is
_background: asyncio.AbstractEventLoop | None = None


def _waiter() -> _LoopWaiter:
    """That of the running loop."""
    import asyncio

    loop = asyncio.get_running_loop()
    with _lock:
        waiter = _waiters.get(loop)
        if waiter is None:
            _forget_closed()
            waiter = _waiters[loop] = _LoopWaiter(loop)
        return waiter


def _forget_closed() -> None:
    """What a loop awaited that was closed meanwhile."""
    with _lock:
        for old in [other for other in _waiters if other.is_closed()]:
            _waiters[old].close()
            del _waiters[old]


def next_ring() -> Any:
    """To be called before the last look at whatever is waited for; `await result(timeout)` then ends when something happened
    to this process since, or after `timeout` seconds (None: without limit)."""
    import asyncio

    future = _waiter().add_ring()

    async def wait(timeout: float | None) -> None:
        await asyncio.wait([future], timeout=timeout)
        future.cancel()

    return wait


def as_asyncio_future(ref: Any) -> asyncio.Future[Any]:
    """An asyncio future of the running loop for the value of `ref`."""
    import asyncio

    loop = asyncio.get_running_loop()
    future = loop.create_future()
    if _core.is_done(ref):
        if loop not in _waiters:
            _forget_closed()
        _settle(future, ref)
    else:
        _waiter().add(ref, future)
    return future


def when(look: Callable[[], bool]) -> asyncio.Future[None]:
    """A future of the running loop that is done when `look` returns True or raises.

    `look` is called each time something has happened to this process, so what it looks for must ring.
    """
    return _waiter().when(look)


def _await(self: Any) -> Generator[Any, None, Any]:
    return as_asyncio_future(self).__await__()


def _future(self: Any) -> concurrent.futures.Future[Any]:
    """A `concurrent.futures.Future` for the value."""
    import concurrent.futures

    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    if _core.is_done(self):
        _settle(future, self)
    else:
        _background_loop().call_soon_threadsafe(_wait_in_background, self, future)
    return future


def _wait_in_background(ref: Any, future: concurrent.futures.Future[Any]) -> None:
    try:
        _waiter().add(ref, future)
    except Exception as error:  # the session has ended meanwhile
        _finish(future.set_exception, error)


def _background_loop() -> asyncio.AbstractEventLoop:
    global _background
    import asyncio

    with _lock:
        if _background is None or _background.is_closed():
            _background = asyncio.new_event_loop()
            threading.Thread(target=_background.run_forever, name="shoal-futures", daemon=True).start()
        return _background


def close_all() -> None:
    """The session ends: the loops' bridges go with it."""
    for waiter in list(_waiters.values()):
        waiter.close()
    _waiters.clear()


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """For the end of a session: all bridges are closed, and no loop gets another one before it is over."""
    with _lock:
        close_all()
        yield


def _after_fork_in_child() -> None:
    """The loops and their threads are the parent's, and another thread of it may have held the lock."""
    global _background, _lock, _waiters
    _lock = threading.RLock()
    _background = None
    _waiters = weakref.WeakKeyDictionary()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _hex(self: Any) -> str:
    """The reference's identity in hexadecimal digits."""
    return f"{self._handle:056x}"


def install() -> None:
    """Give the native ObjectRef what is written in Python."""
    ref: Any = _core.ObjectRef
    ref.__await__ = _await
    ref.future = _future
    ref.as_future = lambda self, _internal=False: as_asyncio_future(self)
    ref.hex = _hex
    ref.binary = lambda self: bytes.fromhex(self.hex())
    ref.is_nil = lambda self: False
    ref.size = classmethod(lambda cls: 28)
    # A copy is the same reference. Through pickle, as copy would do it, it would pin the object (see ref_reduce).
    ref.__copy__ = lambda self: self
    ref.__deepcopy__ = lambda self, memo: self
