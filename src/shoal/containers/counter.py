"""A number in shared memory."""

from __future__ import annotations

from shoal import _core
from shoal.containers._named import named
from shoal.engine import current


def Counter(value: int = 0, *, name: str | None = None) -> _core.Counter:  # noqa: N802 (it makes the native type of that name)
    """A 64-bit signed number that all participants change without a lock; it wraps around like C's.

    `add(n=1)` returns the new value, `fetch_add(n)` and `exchange(n)` the one before, `compare_exchange(expected, new)`
    whether it changed; `value` reads and writes. Each is one instruction: a participant killed at any moment has done it
    or not. About 50 ns from Python.

    >>> import shoal
    >>> count = shoal.Counter()
    >>> @shoal.remote
    ... def work(count):
    ...     for _ in range(100):
    ...         count.add()
    >>> done = shoal.get([work.remote(count) for _ in range(4)])
    >>> count.value
    400
    """

    def make() -> object:
        ref = current().put(bytearray(8), True)
        if value:
            _core._counter(ref).value = value
        return ref

    return _core._counter(named("counter", name, make))
