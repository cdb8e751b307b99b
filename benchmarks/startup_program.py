"""A program as short as a peer allows: import it, start it, run one task, wait to be told to end.

Run as a script by startup.py, with the peer's name; it says what it measured on its standard output. It
imports nothing that the peer does not import.
"""

from __future__ import annotations

import sys
from time import perf_counter

TYPE_CHECKING = False  # typing itself would be an import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules must not be found as top-level ones

_begun = perf_counter()


def _hello() -> bytes:
    return b"ok"


def _ray_like(name: str) -> tuple[list[float], Callable[[], Any]]:
    import importlib

    api = importlib.import_module(name)
    imported = perf_counter()
    api.init(num_cpus=2) if name == "shoal" else api.init(num_cpus=2, logging_level="ERROR")
    started = perf_counter()
    api.get(api.remote(_hello).remote())
    return [imported, started, perf_counter()], api.shutdown


def _multiprocessing() -> tuple[list[float], Callable[[], Any]]:
    import multiprocessing

    imported = perf_counter()
    pool = multiprocessing.Pool(2)
    started = perf_counter()
    pool.apply(_hello)
    ready = perf_counter()

    def end() -> None:
        pool.close()
        pool.join()

    return [imported, started, ready], end


def _futures() -> tuple[list[float], Callable[[], Any]]:
    from concurrent.futures import ProcessPoolExecutor

    imported = perf_counter()
    pool = ProcessPoolExecutor(2)
    started = perf_counter()
    both = [pool.submit(_hello), pool.submit(_hello)]  # it starts a worker with each task until there are two
    both[0].result()
    ready = perf_counter()
    both[1].result()
    return [imported, started, ready], pool.shutdown


def _joblib() -> tuple[list[float], Callable[[], Any]]:
    import joblib

    imported = perf_counter()
    parallel = joblib.Parallel(n_jobs=2)
    parallel.__enter__()
    started = perf_counter()
    parallel([joblib.delayed(_hello)()])
    ready = perf_counter()

    def end() -> None:
        from joblib.externals.loky import get_reusable_executor

        parallel.__exit__(None, None, None)
        get_reusable_executor().shutdown(wait=True)

    return [imported, started, ready], end


def _xoscar() -> tuple[list[float], Callable[[], Any]]:
    import asyncio
    import socket

    import xoscar

    imported = perf_counter()

    class Hello(xoscar.Actor):  # type: ignore[misc]
        def hello(self) -> bytes:
            return b"ok"

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pool = loop.run_until_complete(xoscar.create_actor_pool(f"127.0.0.1:{port}", n_process=2))
    started = perf_counter()

    async def first() -> None:
        where = xoscar.allocate_strategy.ProcessIndex(1)
        actor = await xoscar.create_actor(Hello, address=pool.external_address, uid="hello", allocate_strategy=where)
        await actor.hello()

    loop.run_until_complete(first())
    ready = perf_counter()
    return [imported, started, ready], lambda: loop.run_until_complete(pool.stop())


def _program(name: str) -> None:
    others = {
        "multiprocessing": _multiprocessing,
        "concurrent.futures": _futures,
        "joblib": _joblib,
        "xoscar": _xoscar,
    }
    times, end = others[name]() if name in others else _ray_like(name)
    imported, started, ready = times
    out = sys.__stdout__.buffer  # type: ignore[union-attr]
    out.write(b"measured %.6f %.6f %.6f\n" % (imported - _begun, started - imported, ready - started))
    out.flush()
    sys.stdin.readline()
    ending = perf_counter()
    end()
    out.write(b"measured %.6f\n" % (perf_counter() - ending))
    out.flush()


if __name__ == "__main__":
    _program(sys.argv[1])
