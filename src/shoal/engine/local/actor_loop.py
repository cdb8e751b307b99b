"""An actor with `async def` methods: its calls are tasks of one event loop, on which it was also made."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

from shoal import _core
from shoal.engine.local.engine import DYNAMIC, STREAMING
from shoal.engine.local.worker import CALL

if TYPE_CHECKING:
    from shoal.engine.local.actor_host import Host


_loop: asyncio.AbstractEventLoop | None = None  # of the actor that this process hosts


def construct(cls: Any, args: Any, kwargs: Any, saved: Any) -> Any:
    """An instance of `cls`, made on the loop that will run its calls: a constructor may start tasks there.

    `saved` is a reference to the state that it shall begin with, or None.
    """
    global _loop

    async def make() -> Any:
        instance = cls(*args, **kwargs)
        if saved is not None:
            instance.__shoal_restore__(_core.get(saved, None))
        return instance

    _loop = asyncio.new_event_loop()
    asyncio.set_event_loop(_loop)
    try:
        return _loop.run_until_complete(make())
    except BaseException:
        _close()
        raise


def serve(host: Host, concurrency: int, groups: dict[str, int]) -> None:
    """Serve the instance that `construct` made, until it shall leave."""
    assert _loop is not None
    try:
        _loop.run_until_complete(AsyncServer(host, concurrency, groups).run())
    finally:
        _close()


def _close() -> None:
    """What asyncio.run does at its end: the tasks that the actor started itself are cancelled."""
    global _loop
    loop, _loop = _loop, None
    assert loop is not None
    try:
        rest = asyncio.all_tasks(loop)
        for task in rest:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class AsyncServer:
    """Starts the calls of a mailbox as tasks of an event loop, at most `concurrency` at a time.

    With groups, each has a limit of its own; all calls are taken from the mailbox then, and wait in their group.
    """

    def __init__(self, host: Host, concurrency: int, groups: dict[str, int]) -> None:
        self.host = host
        self.limit = sys.maxsize if groups else concurrency
        limits = {"": concurrency, **groups} if groups else {}
        self.groups = {name: asyncio.Semaphore(n) for name, n in limits.items()}
        self.running: set[asyncio.Task[None]] = set()
        self.begun: dict[int, Any] = {}  # those of them that have taken their first step, by call

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.rung = asyncio.Event()
        bridge = _core.Bridge()
        loop.add_reader(bridge.fileno(), self._on_ring, bridge.fileno())
        _core.set_submitter(lambda: _core.live_task(CALL.get() or 0))
        handle = self.host.handle
        self.host.worker.on_cancel = lambda: loop.call_soon_threadsafe(self._cancel, loop)  # in a signal handler
        while True:
            self.rung.clear()
            seen = _core.ring_seen()
            taken = 0
            while len(self.running) < self.limit and (call := _core.next_mail(handle, False)) is not None:
                task = loop.create_task(self._serve(call))
                self.running.add(task)
                task.add_done_callback(self._done)
                taken += 1
                if taken % 64 == 0:
                    await asyncio.sleep(0)
            call = None
            if _core.stopping() or (not self.running and _core.actor_leaves(handle)):
                break
            if not self.rung.is_set():
                bridge.arm(seen)
            await self.rung.wait()
        self.host.worker.on_cancel = None
        loop.remove_reader(bridge.fileno())
        bridge.close()

    def _on_ring(self, fd: int) -> None:
        try:
            os.read(fd, 8)
        except BlockingIOError:
            pass
        self.rung.set()

    def _cancel(self, loop: asyncio.AbstractEventLoop) -> None:
        for call, task in list(self.begun.items()):
            if _core.take_interrupt(call):
                task.cancel()
        if len(self.begun) < len(self.running):  # a task cancelled before its first step would never see to its call
            loop.call_soon(self._cancel, loop)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if not self.running or len(self.running) >= self.limit - 1:
            self.rung.set()

    async def _serve(self, call: Any) -> None:
        host = self.host
        task, _, _, number, args, kwargs, nreturns, flags = call
        del call
        method, group = host.method_and_group(number)
        slots = None
        self.begun[task] = asyncio.current_task()
        CALL.set(task)
        try:
            if args is None:
                raise kwargs
            if group in self.groups:
                await self.groups[group].acquire()
                slots = self.groups[group]
            value = host.methods[method](*args, **(kwargs or {}))
            if inspect.isawaitable(value) and not isinstance(value, _core.ObjectRef):
                value = await value
            if hasattr(value, "__aiter__"):
                if flags & STREAMING:
                    async for item in value:
                        _core.stream_item(task, item)
                        _core.mark_streamed(task)
                    value = ()
                else:
                    value = [item async for item in value]
            if nreturns == 1 and not flags & (STREAMING | DYNAMIC):
                host.finish(task, value)
            else:
                host.seal(task, method, value, nreturns, flags)
        except BaseException as error:
            host.failed(task, method, error, flags)
            if host.exit_code is not None:  # the calls that wait now are failed by the supervisor
                host.exit()
            if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
                return
        finally:
            del self.begun[task]
            if slots is not None:
                slots.release()
            for stream in host.worker.streams:
                if stream._parts:
                    stream.flush()
