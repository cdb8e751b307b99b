"""References in event loops and as `concurrent.futures`.

Each event loop that awaits references has one Bridge: a file descriptor that becomes readable when something happened to
this process. The loop then looks which of its references are done.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from shoal import _core
from shoal.engine import current

if TYPE_CHECKING:  # imported when first needed: they take longer to import than the rest of shoal
    import asyncio
    import concurrent.futures


class _LoopWaiter:
    """The references that one event loop waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._bridge = _core.Bridge()
        self._refs: list[Any] = []
        self._futures: list[asyncio.Future[Any]] = []
        self._looks: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._armed = False
        self._fd = self._bridge.fileno()
        loop.add_reader(self._fd, self._on_ring)

    def add(self, ref: Any) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        self._refs.append(ref)
        self._futures.append(future)
        if not self._armed:
            self._bridge.arm(_core.ring_seen())
            self._armed = True
        _core.watch(ref)
        if _core.is_done(ref):
            self._loop.call_soon(self._look)
        return future

    def add_look(self, look: Callable[[], Any]) -> asyncio.Future[Any]:
        """A future for what `look()` returns, once it is not None; until then it sees to it that this process is rung."""
        future = self._loop.create_future()
        self._looks.append((look, future))
        if not self._armed:
            self._bridge.arm(_core.ring_seen())
            self._armed = True
        self._look_all()
        return future

    def _look_all(self) -> None:
        looks, self._looks = self._looks, []
        for look, future in looks:
            if future.done():  # cancelled
                continue
            try:
                found = look()
            except Exception as error:
                future.set_exception(error)
                continue
            if found is None:
                self._looks.append((look, future))
            else:
                future.set_result(found)

    def _on_ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            pass
        self._armed = False
        if self._refs or self._looks:
            # Armed before the look: what happens after the look rings again.
            self._bridge.arm(_core.ring_seen())
            self._armed = True
            self._look()
            self._look_all()

    def _look(self) -> None:
        done = _core.first_done(self._refs)
        for index in reversed(done):  # from the back, so that the indices before stay right
            ref, future = self._refs.pop(index), self._futures.pop(index)
            _settle(future, ref)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._bridge.close()


def _settle(future: Any, ref: Any) -> None:
    if future.done():
        return
    try:
        value = current().get(ref, None)
    except StopIteration as error:  # a Future refuses it
        future.set_exception(RuntimeError(f"the task raised StopIteration: {error}"))
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(value)


_waiters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopWaiter] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
_background: asyncio.AbstractEventLoop | None = None


def as_asyncio_future(ref: Any) -> asyncio.Future[Any]:
    """An asyncio future of the running loop for the value of `ref`."""
    import asyncio

    loop = asyncio.get_running_loop()
    if _core.is_done(ref):
        future = loop.create_future()
        _settle(future, ref)
        return future
    return _waiter_of(loop).add(ref)


def _waiter_of(loop: asyncio.AbstractEventLoop) -> _LoopWaiter:
    with _lock:
        waiter = _waiters.get(loop)
        if waiter is None:
            waiter = _waiters[loop] = _LoopWaiter(loop)
    return waiter


def when(look: Callable[[], Any]) -> asyncio.Future[Any]:
    """A future of the running loop for what `look()` returns once it is not None (see `_LoopWaiter.add_look`)."""
    import asyncio

    return _waiter_of(asyncio.get_running_loop()).add_look(look)


def _await(self: Any) -> Generator[Any, None, Any]:
    return as_asyncio_future(self).__await__()


def _future(self: Any) -> concurrent.futures.Future[Any]:
    """A `concurrent.futures.Future` for the value."""
    import asyncio
    import concurrent.futures

    if _core.is_done(self):
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        _settle(future, self)
        return future
    return asyncio.run_coroutine_threadsafe(_wait_for(self), _background_loop())


async def _wait_for(ref: Any) -> Any:
    return await as_asyncio_future(ref)


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
