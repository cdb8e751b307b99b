"""What a call of a generator returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shoal.engine import current
from shoal.exceptions import GetTimeoutError


class ObjectRefGenerator:
    """References to the items of a remote generator, each available as soon as the generator has yielded it.

    Iterate with `for` or `async for`. An exception in the generator arrives as the last reference: getting
    that one raises it.

    >>> import shoal
    >>> @shoal.remote
    ... def squares(n):
    ...     for i in range(n):
    ...         yield i * i
    >>> [shoal.get(ref) for ref in squares.remote(4)]
    [0, 1, 4, 9]
    """

    # The items form a chain in the arena: an object is either [item, next object], or None at the end, or
    # failed. Only the place reached is held, so what lies before it is freed as soon as nobody refers to it.

    def __init__(self, first: Any, end: Any) -> None:
        self._node = first
        self._over = False
        self._generator_ref = end  # made when the generator ends; by it the generator can be cancelled at any time

    def __iter__(self) -> ObjectRefGenerator:
        return self

    def __next__(self) -> Any:
        return self._next_within(None)

    def _next_within(self, timeout: float | None) -> Any:
        if self._over:
            raise StopIteration
        node = self._node
        try:
            pair = current().get(node, timeout)
        except GetTimeoutError:
            raise
        except Exception:
            self._over = True
            return node
        return self._advance(pair)

    def _advance(self, pair: Any) -> Any:
        if pair is None:
            self._over = True
            raise StopIteration
        item, self._node = pair
        return item

    def __aiter__(self) -> ObjectRefGenerator:
        return self

    async def __anext__(self) -> Any:
        if self._over:
            raise StopAsyncIteration
        node = self._node
        try:
            pair = await node
        except Exception:
            self._over = True
            return node
        try:
            return self._advance(pair)
        except StopIteration:
            raise StopAsyncIteration from None

    def completed(self) -> Any:
        """A reference that is ready when the generator has ended, whether or not its items were taken."""
        return self._generator_ref

    def is_finished(self) -> bool:
        """Whether all items have been taken."""
        return self._over

    def next_ready(self) -> bool:
        """Whether the next item (or the end) is there, so that `next` does not wait."""
        return self._over or bool(current().wait([self._node], 1, 0)[0])

    def close(self) -> None:
        """Take no more items."""
        self._over = True

    def __hash__(self) -> int:
        return hash(self._generator_ref)

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._generator_ref!r})"


class DynamicObjectRefGenerator:
    """The value of a task with `num_returns="dynamic"`: an iterable of references to the items, all made."""

    def __init__(self, refs: list[Any]) -> None:
        self._refs = refs

    def __iter__(self) -> Iterator[Any]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)
