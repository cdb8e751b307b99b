"""The pool: one actor per process, chunks of work as calls."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import TimeoutError
from typing import Any

from shoal import _api as api
from shoal.engine import current_or_none

__all__ = ["AsyncResult", "IMapIterator", "OrderedIMapIterator", "Pool", "UnorderedIMapIterator"]

Callback = Callable[[Any], object] | None
_CHUNKS_PER_PROCESS = 4  # as in the standard library
_AHEAD = 2  # chunks that each process is given in advance, so that it need not wait for the next


class _Process:
    """What runs in each process of a pool."""

    def __init__(self, initializer: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
        if initializer is not None:
            initializer(*arguments)

    def run(self, function: Callable[..., Any], calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[Any]:
        return [function(*args, **kwargs) for args, kwargs in calls]


class AsyncResult:
    """What an `..._async` method returns: the result to come."""

    def __init__(self, refs: list[Any], callback: Callback, error_callback: Callback, single: bool) -> None:
        self._refs = refs
        self._single = single
        self._told: threading.Thread | None = None
        if callback or error_callback:
            self._told = threading.Thread(target=self._tell, args=(callback, error_callback), name="shoal-pool", daemon=True)
            self._told.start()

    def _tell(self, callback: Callback, error_callback: Callback) -> None:
        try:
            value = self.get()
        except BaseException as error:
            if error_callback:
                error_callback(error)
        else:
            if callback:
                callback(value)

    def get(self, timeout: float | None = None) -> Any:
        """The result; waits for it, `timeout` seconds at most. Raises multiprocessing.TimeoutError, or what the call raised."""
        self.wait(timeout)
        if not self.ready():
            raise TimeoutError(f"the result did not come within {timeout} seconds")
        if self._told is not None and self._told is not threading.current_thread():
            self._told.join()  # as in the standard library, the callback has been called by then
        values = [value for chunk in api.get(self._refs) for value in chunk]
        return values[0] if self._single else values

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the result, `timeout` seconds at most."""
        api.wait(self._refs, num_returns=max(1, len(self._refs)), timeout=timeout)

    def ready(self) -> bool:
        """Whether the call is done."""
        return not self._refs or not api.wait(self._refs, num_returns=len(self._refs), timeout=0)[1]

    def successful(self) -> bool:
        """Whether it is done without an exception. Raises ValueError if it is not done."""
        if not self.ready():
            raise ValueError(f"{self!r} is not ready")
        try:
            api.get(self._refs)
        except Exception:
            return False
        return True


class IMapIterator:
    """The results of `imap`; the input is read as results are taken."""

    def __init__(self, pool: Pool, function: Callable[..., Any], iterable: Iterable[Any], chunksize: int) -> None:
        self._pool = pool
        self._function = function
        self._chunks = _chunks(iterable, chunksize)
        self._running: deque[tuple[Any, Any]] = deque()  # references of chunks, and by whom they are run
        self._made: deque[Any] = deque()
        pool._fill(self._running, self._function, self._chunks)

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result; waits for it, `timeout` seconds at most. Raises multiprocessing.TimeoutError."""
        while not self._made:
            if not self._running:
                raise StopIteration
            index = self._first_done(timeout)
            if index is None:
                raise TimeoutError(f"the next result did not come within {timeout} seconds")
            ref, process = self._running[index]
            del self._running[index]
            self._pool._done(process)
            self._pool._fill(self._running, self._function, self._chunks)
            self._made.extend(api.get(ref))
        return self._made.popleft()

    def _first_done(self, timeout: float | None) -> int | None:
        raise NotImplementedError


class OrderedIMapIterator(IMapIterator):
    """The results in the order of the input."""

    def _first_done(self, timeout: float | None) -> int | None:
        return 0 if api.wait([self._running[0][0]], timeout=timeout)[0] else None


class UnorderedIMapIterator(IMapIterator):
    """Each result as soon as it is there."""

    def _first_done(self, timeout: float | None) -> int | None:
        refs = [ref for ref, _ in self._running]
        ready, _ = api.wait(refs, timeout=timeout)
        return refs.index(ready[0]) if ready else None


class Pool:
    """`multiprocessing.Pool` with Shoal's actors as processes: large arrays are shared, functions may be closures.

    Args:
        processes: how many (default: the CPUs of the session).
        initializer: called with `initargs` in each process before its first work.
        initargs: its arguments.
        maxtasksperchild: a process is replaced by a new one after so many chunks of work.
        context, ray_address: accepted for programs written for others; they mean nothing here.
        ray_remote_args: options of the actors, for instance {"num_gpus": 1}.

    Raises ValueError for less than one process.

    >>> from shoal.util.multiprocessing import Pool
    >>> with Pool(2) as pool:
    ...     pool.map(lambda x: x * x, range(5))
    [0, 1, 4, 9, 16]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {initializer!r}")
        if processes is None:
            processes = max(1, int(api.cluster_resources().get("CPU", 1)))
        if processes < 1:
            raise ValueError(f"a pool has at least 1 process, not {processes}")
        if maxtasksperchild is not None and maxtasksperchild < 1:
            raise ValueError(f"maxtasksperchild must be at least 1 or None, not {maxtasksperchild}")
        cls = api.remote(_Process)
        self._class = cls.options(**ray_remote_args) if ray_remote_args else cls
        self._arguments = (initializer, tuple(initargs or ()))
        self._limit = maxtasksperchild
        self._processes = [self._class.remote(*self._arguments) for _ in range(processes)]
        self._loads: dict[Any, int] = dict.fromkeys(self._processes, 0)  # chunks that imap gave each
        self._work = dict.fromkeys(self._processes, 0)  # chunks that each was given in all, for maxtasksperchild
        self._submitted: list[Any] = []  # for join()
        self._next = 0
        self._closed = False

    # -- one after the other ----------------------------------------------------------------------------------

    def apply(self, func: Callable[..., Any], args: Iterable[Any] | None = None, kwargs: dict[str, Any] | None = None) -> Any:
        """Call `func(*args, **kwargs)` in one of the processes and wait for the result."""
        return self.apply_async(func, args, kwargs).get()

    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """`[func(x) for x in iterable]`, divided among the processes."""
        return list(self._map(func, ((x,) for x in iterable), chunksize))

    def starmap(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None) -> list[Any]:
        """`[func(*x) for x in iterable]`, divided among the processes."""
        return list(self._map(func, iterable, chunksize))

    def _map(self, func: Callable[..., Any], arguments: Iterable[Iterable[Any]], chunksize: int | None) -> Iterator[Any]:
        self._check_open()
        calls = list(arguments)
        return OrderedIMapIterator(self, func, calls, chunksize or self._chunksize(len(calls)))

    def imap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """Like `map`, as an iterator that reads `iterable` as its results are taken."""
        self._check_open()
        return OrderedIMapIterator(self, func, ((x,) for x in iterable), chunksize)

    def imap_unordered(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """Like `imap`; each result as soon as it is there."""
        self._check_open()
        return UnorderedIMapIterator(self, func, ((x,) for x in iterable), chunksize)

    # -- in the background ------------------------------------------------------------------------------------

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> AsyncResult:
        """`apply` without waiting. The callbacks are called in a thread of their own."""
        self._check_open()
        ref = self._submit(func, [(tuple(args or ()), dict(kwargs or {}))])
        return AsyncResult([ref], callback, error_callback, True)

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> AsyncResult:
        """`map` without waiting. The callbacks are called in a thread of their own."""
        return self._map_async(func, ((x,) for x in iterable), chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> AsyncResult:
        """`starmap` without waiting. The callbacks are called in a thread of their own."""
        return self._map_async(func, iterable, chunksize, callback, error_callback)

    def _map_async(
        self,
        func: Callable[..., Any],
        arguments: Iterable[Iterable[Any]],
        chunksize: int | None,
        callback: Callback,
        error_callback: Callback,
    ) -> AsyncResult:
        self._check_open()
        calls = list(arguments)
        refs = [self._submit(func, chunk) for chunk in _chunks(calls, chunksize or self._chunksize(len(calls)))]
        return AsyncResult(refs, callback, error_callback, False)

    # -- the processes ----------------------------------------------------------------------------------------

    def _chunksize(self, length: int) -> int:
        return max(1, math.ceil(length / (_CHUNKS_PER_PROCESS * len(self._processes))))

    def _submit(self, func: Callable[..., Any], chunk: list[Any], process: Any = None) -> Any:
        if process is None:
            self._next = (self._next + 1) % len(self._processes)
            process = self._processes[self._next]
        self._work[process] += 1
        ref = process.run.remote(func, chunk)
        if len(self._submitted) > 2 * len(self._processes):
            self._submitted = api.wait(self._submitted, num_returns=len(self._submitted), timeout=0)[1]
        self._submitted.append(ref)
        if self._limit is not None and self._work[process] >= self._limit:
            self._replace(process)
        return ref

    def _replace(self, process: Any) -> None:
        """The old one ends after the work it has, when its last handle goes."""
        new = self._class.remote(*self._arguments)
        self._processes[self._processes.index(process)] = new
        self._loads[new] = self._work[new] = 0
        del self._work[process], self._loads[process]

    def _fill(self, running: deque[tuple[Any, Any]], func: Callable[..., Any], chunks: Iterator[list[Any]]) -> None:
        """Give each process chunks in advance, the least busy first."""
        while True:
            process = min(self._processes, key=self._loads.__getitem__)
            if self._loads[process] >= _AHEAD:
                return
            chunk = next(chunks, None)
            if chunk is None:
                return
            self._loads[process] += 1
            running.append((self._submit(func, chunk, process), process))

    def _done(self, process: Any) -> None:
        if process in self._loads:  # else it was replaced
            self._loads[process] -= 1

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the pool is closed: make a new one")

    def close(self) -> None:
        """Take no more work; what was submitted goes on."""
        self._closed = True

    def terminate(self) -> None:
        """End the processes at once, whatever they do."""
        self._closed = True
        for process in self._processes:
            if current_or_none() is not None:
                api.kill(process)
        self._processes = self._processes[:0]

    def join(self) -> None:
        """Wait for the end of what was submitted. Raises ValueError before close() or terminate()."""
        if not self._closed:
            raise ValueError("the pool is still open: close() or terminate() comes before join()")
        if self._submitted and self._processes:
            api.wait(self._submitted, num_returns=len(self._submitted))
        self._processes = self._processes[:0]  # they end with their handles
        self._loads.clear()
        self._work.clear()

    def __enter__(self) -> Pool:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def __repr__(self) -> str:
        return f"<Pool of {len(self._processes)} processes{', closed' if self._closed else ''}>"


def _chunks(arguments: Iterable[Iterable[Any]], size: int) -> Iterator[list[Any]]:
    if size < 1:
        raise ValueError(f"chunksize must be at least 1, not {size}")
    calls = iter(arguments)
    return iter(lambda: [(tuple(args), {}) for args in islice(calls, size)], [])
