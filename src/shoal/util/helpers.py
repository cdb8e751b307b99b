"""Results as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from shoal import _api as api

__all__ = ["as_completed", "map_unordered"]


def as_completed(refs: Sequence[Any], *, chunk_size: int = 10, yield_obj_refs: bool = False, **kwargs: Any) -> Iterator[Any]:
    """The values of references, each as soon as it is there.

    Args:
        refs: distinct ObjectRefs.
        chunk_size: how many to wait for at a time, at least 1.
        yield_obj_refs: whether the references come instead of their values.
        **kwargs: for `wait`, for instance `timeout`.

    >>> import shoal
    >>> from shoal.util import as_completed
    >>> @shoal.remote
    ... def double(x):
    ...     return 2 * x
    >>> sorted(as_completed([double.remote(i) for i in range(3)]))
    [0, 2, 4]
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    return _as_completed(list(refs), chunk_size, yield_obj_refs, kwargs)


def _as_completed(left: list[Any], chunk_size: int, yield_obj_refs: bool, kwargs: dict[str, Any]) -> Iterator[Any]:
    while left:
        ready, left = api.wait(left, num_returns=min(chunk_size, len(left)), **kwargs)
        yield from ready if yield_obj_refs else map(api.get, ready)


def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **kwargs: Any,
) -> Iterator[Any]:
    """Call `fn.remote(item)` for all items; the results as they come.

    Args:
        fn: a remote function, or a method of an actor.
        items: any iterable, also one without an end; it is read as results are taken.
        backpressure_size: calls that are under way at most, None for no limit.
        chunk_size, yield_obj_refs, **kwargs: as in `as_completed`.

    >>> import shoal
    >>> from shoal.util import map_unordered
    >>> @shoal.remote
    ... def double(x):
    ...     return 2 * x
    >>> sorted(map_unordered(double, range(3)))
    [0, 2, 4]
    """
    if not hasattr(fn, "remote"):
        raise TypeError(f"map_unordered takes a remote function or a method of an actor, not {fn!r}")
    if backpressure_size is not None and backpressure_size < 1:
        raise ValueError(f"backpressure_size must be at least 1 or None, not {backpressure_size}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    return _map_unordered(fn, iter(items), backpressure_size, chunk_size, yield_obj_refs, kwargs)


def _map_unordered(
    fn: Any, items: Iterator[Any], limit: int | None, chunk_size: int, yield_obj_refs: bool, kwargs: dict[str, Any]
) -> Iterator[Any]:
    running: list[Any] = []
    while True:
        running += [fn.remote(item) for item in islice(items, None if limit is None else limit - len(running))]
        if not running:
            return
        ready, running = api.wait(running, num_returns=min(chunk_size, len(running)), **kwargs)
        yield from ready if yield_obj_refs else map(api.get, ready)
