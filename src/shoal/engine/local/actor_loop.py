"""An actor with `async def` methods: its calls are tasks of one event loop."""

from __future__ import annotations

import asyncio
import inspect
import os
from typing import TYPE_CHECKING, Any

from shoal import _core
from shoal.engine.local.engine import DYNAMIC, STREAMING

if TYPE_CHECKING:
    from shoal.engine.local.actor_host import Host


class AsyncServer:
    """Starts the calls of a mailbox as tasks of an event loop, at most `concurrency` at a time (per group)."""

    def __init__(self, host: Host, concurrency: int, groups: dict[str, int]) -> None:
        self.host = host
        self.limit = concurrency
        self.groups = {name: asyncio.Semaphore(n) for name, n in groups.items()}
        self.running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.rung = asyncio.Event()
        bridge = _core.Bridge()
        loop.add_reader(bridge.fileno(), self._on_ring, bridge.fileno())
        limit = self.limit + sum(s._value for s in self.groups.values())
        handle = self.host.handle
        while self.host.exit_code is None:
            self.rung.clear()
            seen = _core.ring_seen()
            taken = 0
            while len(self.running) < limit and (call := _core.next_mail(handle, False)) is not None:
                task = loop.create_task(self._serve(call))
                self.running.add(task)
                task.add_done_callback(self._done)
                taken += 1
                if taken % 64 == 0:
                    await asyncio.sleep(0)
            call = None
            info = _core.closing(handle)
            if info == 2 or _core.stopping() or (info and not self.running and not _core.mail_count(handle)):
                break
            if not self.rung.is_set():
                bridge.arm(seen)
            await self.rung.wait()
        loop.remove_reader(bridge.fileno())
        bridge.close()

    def _on_ring(self, fd: int) -> None:
        try:
            os.read(fd, 8)
        except BlockingIOError:
            pass
        self.rung.set()

    def _done(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if not self.running or len(self.running) >= self.limit - 1:
            self.rung.set()

    async def _serve(self, call: Any) -> None:
        host = self.host
        task, _, _, method, args, kwargs, nreturns, flags = call
        del call
        spec = host.specs.get(method)
        group = self.groups.get((spec.options.get("concurrency_group") if spec else None) or "")
        try:
            if args is None:
                raise kwargs
            if group is not None:
                await group.acquire()
            value = host.methods[method](*args, **(kwargs or {}))
            if inspect.isawaitable(value):
                value = await value
            if flags & STREAMING and hasattr(value, "__aiter__"):
                async for item in value:
                    _core.stream_item(task, item)
                    _core.mark_streamed(task)
                _core.finish(task, None)
            elif nreturns == 1 and not flags & (STREAMING | DYNAMIC):
                _core.finish(task, value)
            else:
                host.seal(task, method, value, nreturns, flags)
        except BaseException as error:
            host.failed(task, method, error, flags)
            if host.exit_code is not None:
                self.rung.set()
            if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
                return
        finally:
            if group is not None:
                group.release()
            for stream in host.worker.streams:
                if stream._parts:
                    stream.flush()
