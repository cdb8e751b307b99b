"""A queue between any participants."""

from __future__ import annotations

import operator
import time
from collections.abc import Iterable
from queue import Empty, Full
from typing import Any

from shoal import _core
from shoal.containers._named import named
from shoal.engine import current

__all__ = ["Empty", "Full", "Queue"]


def _partly(done: int, n: int) -> Full:
    error = Full(f"{done} of {n} items were added")
    error.done = done  # type: ignore[attr-defined]
    return error


class Queue:
    """First in, first out, between any number of producers and consumers in any processes.

    Args:
        maxsize: items it holds at most; 0 for no limit but the arena's.
        actor_options: accepted for programs that use `ray.util.queue.Queue`; there is no actor.
        name: other participants get the same queue by the same name.

    An item is in the queue or in the hands of one consumer at any moment, whoever is killed: `put` has put it when it
    returns, and `get` takes it in one step. Large arrays in items are copied once, by put; get returns views.
    Raises queue.Full and queue.Empty as the standard library's queue does. There is no `task_done` and `join`, as a consumer
    that dies would leave who joins waiting: wait for the results of the tasks, or count what is done with a Counter.

    >>> import shoal
    >>> queue = shoal.Queue(maxsize=10)
    >>> queue.put_batch([1, 2, 3])
    >>> queue.get(), queue.get_batch(5)
    (1, [2, 3])
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None, *, name: str | None = None) -> None:
        limit = max(0, operator.index(maxsize))
        current()
        self._ref = named("queue", name, lambda: _core.new_queue(limit, None))

    @classmethod
    def _of(cls, ref: Any) -> Queue:
        queue = cls.__new__(cls)
        queue._ref = ref
        return queue

    def __reduce__(self) -> tuple[Any, ...]:
        return (Queue._of, (self._ref,))

    # -- in -------------------------------------------------------------------------------------------------

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; waits for room (`timeout` seconds at most, None: without limit). Raises Full."""
        if not _core.queue_put(self._ref, (item,), timeout if block else 0):
            raise Full

    def put_nowait(self, item: Any) -> None:
        """Add an item if there is room now. Raises Full."""
        self.put(item, block=False)

    def put_batch(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """Add items in their order; waits for room as often as needed. Raises Full, with `.done` items added."""
        items = list(items)
        done = _core.queue_put(self._ref, items, timeout if block else 0)
        if done < len(items):
            raise _partly(done, len(items))

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add items if there is room for all of them now. Raises Full and adds none.

        (If others fill the queue at the same moment, some may have been added: Full says in `.done` how many.)
        """
        items = list(items)
        length, _, limit = _core.queue_length(self._ref)
        if limit and length + len(items) > limit:
            raise Full(f"cannot add {len(items)} items to a queue with {length} of {limit}")
        self.put_batch(items, block=False)

    # -- out ------------------------------------------------------------------------------------------------

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item; waits for one (`timeout` seconds at most, None: without limit). Raises Empty."""
        items = _core.queue_get(self._ref, 1, timeout if block else 0)
        if not items:
            raise Empty
        return items[0]

    def get_nowait(self) -> Any:
        """Take the oldest item if there is one now. Raises Empty."""
        return self.get(block=False)

    def get_batch(self, most: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        """Take up to `most` items, those that are there; waits for the first one only. Raises Empty."""
        items: list[Any] = _core.queue_get(self._ref, most, timeout if block else 0)
        if not items and most > 0:
            raise Empty
        return items

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take `num_items` items if so many are there now. Raises Empty and takes none.

        (If others take from the queue at the same moment, it may be fewer.)
        """
        if self.qsize() < num_items:
            raise Empty(f"the queue has {self.qsize()} items, not {num_items}")
        return self.get_batch(num_items, block=False)

    # -- in event loops -------------------------------------------------------------------------------------

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """`put` for event loops: other coroutines run while it waits."""
        await self._in_loop(lambda: self.put(item, block=False), False, block, timeout, Full)

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """`get` for event loops: other coroutines run while it waits."""
        return await self._in_loop(lambda: self.get(block=False), True, block, timeout, Empty)

    async def _in_loop(self, attempt: Any, get: bool, block: bool, timeout: float | None, late: type[Exception]) -> Any:
        from shoal._futures import next_ring

        end = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return attempt()
            except late:
                if not block:
                    raise
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise late
            rung = next_ring()  # before the look below: what happens after it rings
            if _core.queue_watch(self._ref, get):
                await rung(left)

    # -- facts ----------------------------------------------------------------------------------------------

    def qsize(self) -> int:
        """Items in the queue now."""
        return int(_core.queue_length(self._ref)[0])

    size = qsize
    __len__ = qsize

    def empty(self) -> bool:
        """Whether there is no item now."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether there is no room now."""
        length, _, limit = _core.queue_length(self._ref)
        return bool(limit) and length >= limit

    def statistics(self) -> dict[str, int]:
        """`length`, `maxsize`, and `put`: the items added since the beginning."""
        length, added, limit = _core.queue_length(self._ref)
        return {"length": length, "maxsize": limit, "put": added}

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """Does nothing: there is no process to end. The queue goes with its last reference."""

    def __repr__(self) -> str:
        return f"<shoal Queue with {self.qsize()} items>" if self._ref._live else "<Queue of an ended session>"
