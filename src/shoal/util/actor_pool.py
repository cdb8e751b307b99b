"""A few actors among which work is divided."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from shoal import _api as api
from shoal.exceptions import GetTimeoutError

__all__ = ["ActorPool"]


class ActorPool:
    """Divides calls among actors: each does one call at a time, and the next goes to whoever is free first.

    Args:
        actors: handles of actors that can all do the same.

    >>> import shoal
    >>> from shoal.util import ActorPool
    >>> @shoal.remote
    ... class Squarer:
    ...     def square(self, x):
    ...         return x * x
    >>> pool = ActorPool([Squarer.remote(), Squarer.remote()])
    >>> list(pool.map(lambda actor, x: actor.square.remote(x), [1, 2, 3]))
    [1, 4, 9]
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle = list(actors)
        self._running: dict[Any, tuple[int, Any]] = {}  # the reference of a call: its number, its actor
        self._by_number: dict[int, Any] = {}  # calls whose results were not taken yet: number to reference
        self._next_number = 0
        self._next_result = 0
        self._waiting: deque[tuple[Callable[[Any, Any], Any], Any]] = deque()

    def map(self, fn: Callable[[Any, Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        """Call `fn(actor, value)`, which returns the reference of a call, for all values; the results in their order.

        Results of earlier `submit` calls that nobody took are dropped.
        """
        self._drop_results()
        for value in values:
            self.submit(fn, value)
        return self._results(self.get_next)

    def map_unordered(self, fn: Callable[[Any, Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        """Like `map`; each result as soon as it is there."""
        self._drop_results()
        for value in values:
            self.submit(fn, value)
        return self._results(self.get_next_unordered)

    def _results(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    def _drop_results(self) -> None:
        while self.has_next():
            try:
                self.get_next_unordered()
            except Exception:  # its caller has shown no interest in it
                pass

    def submit(self, fn: Callable[[Any, Any], Any], value: Any) -> None:
        """Queue `fn(actor, value)` for the next free actor."""
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        try:
            ref = fn(actor, value)
        except BaseException:
            self._idle.append(actor)
            raise
        self._running[ref] = self._next_number, actor
        self._by_number[self._next_number] = ref
        self._next_number += 1

    def has_next(self) -> bool:
        """Whether there are results to take, made or to come."""
        return bool(self._by_number) or bool(self._waiting)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result of the earliest call that nobody took; waits for it, `timeout` seconds at most.

        With `ignore_if_timedout` a call that took too long is dropped. Raises StopIteration if there is none,
        ValueError after `get_next_unordered`, TimeoutError, and what the call raised.
        """
        if not self.has_next():
            raise StopIteration("there are no more results")
        if self._next_result not in self._by_number:
            raise ValueError("get_next() cannot be used after get_next_unordered(), until all results have been taken")
        return self._take(self._by_number[self._next_result], timeout, ignore_if_timedout)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result of whichever call ends first; arguments and errors as in `get_next`."""
        if not self.has_next():
            raise StopIteration("there are no more results")
        ready, _ = api.wait(list(self._by_number.values()), num_returns=1, timeout=timeout)
        if not ready:
            raise GetTimeoutError(f"no result came within {timeout} seconds")
        return self._take(ready[0], None, ignore_if_timedout)

    def _take(self, ref: Any, timeout: float | None, ignore_if_timedout: bool) -> Any:
        if timeout is not None and not api.wait([ref], timeout=timeout)[0]:
            if not ignore_if_timedout:
                raise GetTimeoutError(f"the next result did not come within {timeout} seconds")
            self._finished(ref)
            raise GetTimeoutError(f"the next result did not come within {timeout} seconds, and was dropped")
        api.wait([ref])
        self._finished(ref)
        return api.get(ref)

    def _finished(self, ref: Any) -> None:
        number, actor = self._running.pop(ref)
        del self._by_number[number]
        if not self._by_number:
            self._next_result = self._next_number
        elif number == self._next_result:
            self._next_result += 1
        self.push(actor)

    def has_free(self) -> bool:
        """Whether an actor has nothing to do."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> Any:
        """Take an actor that has nothing to do out of the pool; None if all are busy."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Add an actor. Raises ValueError if it is in the pool already."""
        if actor in self._idle or any(actor == busy for _, busy in self._running.values()):
            raise ValueError(f"{actor!r} is in the pool already")
        self._idle.append(actor)
        if self._waiting:
            self.submit(*self._waiting.popleft())
