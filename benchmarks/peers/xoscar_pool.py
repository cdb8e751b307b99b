"""xoscar: actors on an event loop in a pool of processes."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import xoscar

from benchmarks.measure import Plan, rates
from benchmarks.peers import Loop, Peer
from benchmarks.peers.ray_like import CALLS_EACH, CLIENTS


class Actor(xoscar.Actor):  # type: ignore[misc]
    def small_value(self) -> bytes:
        return b"ok"

    def small_value_arg(self, x: Any) -> bytes:
        return b"ok"


class AsyncActor(xoscar.Actor):  # type: ignore[misc]
    async def small_value(self) -> bytes:
        return b"ok"


class Client(xoscar.Actor):  # type: ignore[misc]
    def __init__(self, servers: list[Any]) -> None:
        super().__init__()
        self.servers = servers

    async def batch(self, n: int) -> None:
        servers = self.servers
        await asyncio.gather(*[servers[i % len(servers)].small_value() for i in range(n)])

    async def batch_arg(self, n: int) -> None:
        await asyncio.gather(*[server.small_value_arg(0) for server in self.servers for _ in range(n)])


class Xoscar(Peer):
    """A main process that only asks, and as many others as there are cores."""

    def __enter__(self) -> Xoscar:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.pool: Any = self.run(xoscar.create_actor_pool(f"127.0.0.1:{_free_port()}", n_process=max(2, self.cores)))
        self.made = 0
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.pool.stop())
        self.loop.close()

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    async def make(self, kind: type, process: int, *args: Any) -> Any:
        self.made += 1
        where = xoscar.allocate_strategy.ProcessIndex(1 + process % max(2, self.cores))
        address = self.pool.external_address
        return await xoscar.create_actor(kind, *args, uid=f"bench-{self.made}", address=address, allocate_strategy=where)

    def loops(self) -> dict[str, Loop]:
        return {
            "actor_sync": lambda plan: self.sync(Actor, plan),
            "actor_async": lambda plan: self.gathered(Actor, plan),
            "actor_nn": self.actor_nn,
            "actor_nn_arg": self.actor_nn_arg,
            "async_actor_sync": lambda plan: self.sync(AsyncActor, plan),
            "async_actor_async": lambda plan: self.gathered(AsyncActor, plan),
        }

    def sync(self, kind: type, plan: Plan) -> list[float]:
        actor = self.run(self.make(kind, 0))

        async def twenty() -> None:  # so that entering the event loop is not what is measured
            for _ in range(20):
                await actor.small_value()

        return rates(lambda: self.run(twenty()), 20, plan)

    def gathered(self, kind: type, plan: Plan) -> list[float]:
        actor = self.run(self.make(kind, 0))

        async def thousand() -> None:
            await asyncio.gather(*[actor.small_value() for _ in range(1000)])

        return rates(lambda: self.run(thousand()), 1000, plan)

    def actor_nn(self, plan: Plan) -> list[float]:
        servers = [self.run(self.make(Actor, i)) for i in range(max(1, (os.cpu_count() or 1) // 2))]
        clients = [self.run(self.make(Client, 1 + i, servers)) for i in range(CLIENTS)]
        n = CALLS_EACH if plan.full else 100

        async def every(n: int) -> None:
            await asyncio.gather(*[client.batch(n) for client in clients])

        return rates(lambda: self.run(every(n)), n * CLIENTS, plan, lambda: self.run(every(100)))

    def actor_nn_arg(self, plan: Plan) -> list[float]:
        pairs = range(max(1, (os.cpu_count() or 1) // 2))
        servers = [self.run(self.make(Actor, i)) for i in pairs]
        clients = [self.run(self.make(Client, 1 + i, [servers[i]])) for i in pairs]

        async def every() -> None:
            await asyncio.gather(*[client.batch_arg(1000) for client in clients])

        return rates(lambda: self.run(every()), 1000 * len(clients), plan)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
