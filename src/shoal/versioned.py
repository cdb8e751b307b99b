"""Versions of a value: readers always see a complete one, and nobody waits for anybody."""

from __future__ import annotations

import time
from collections.abc import Generator
from types import TracebackType
from typing import Any

from shoal import _core
from shoal._core import ObjectRef, VersionedCell
from shoal.containers._named import named
from shoal.engine import current
from shoal.exceptions import VersionConflictError

__all__ = ["Versioned"]

_NOTHING_TO_CHANGE = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset)


class Versioned(VersionedCell):
    """A cell in shared memory that holds the newest version of a value.

    Args:
        obj: the first version, number 0; anything that `put` takes.
        name: every participant that asks for this name gets the same cell; the first to ask makes it with its
            `obj` (the others' is not looked at). A cell with a name lives until the end of the session; one
            without lives while anybody has it.

    `get()` returns the newest complete version without a copy, immutable for as long as it is held.
    `set(obj)` and `with update() as draft:` publish the next one, in one step: readers see the old version or
    the new one, whole. A reader never waits for a writer, nor a writer for a reader; a writer that dies half
    way changes nothing. A version is freed when it is not the newest any more and the last reader has let go
    of it.

    Several writers: the last to publish wins. Who wants to know uses `compare_and_set`, or
    `expected_version=`. It can be passed to tasks and actors, and stored in objects.

    >>> import numpy as np, shoal
    >>> v = shoal.Versioned(np.zeros(3))
    >>> old = v.get()
    >>> with v.update() as draft:
    ...     draft += 1
    >>> v.get(), v.version, old
    (array([1., 1., 1.]), 1, array([0., 0., 0.]))
    """

    __slots__ = ()

    def __new__(cls, obj: Any = None, *, name: str | None = None) -> Versioned:
        if isinstance(obj, ObjectRef):
            raise TypeError("Versioned() of an ObjectRef: pass the value, Versioned(shoal.get(ref))")
        current()
        return super().__new__(cls, named("versioned", name, lambda: _core._new_versioned(obj)), name)

    def set(self, obj: Any, *, expected_version: int | None = None) -> int:
        """Publish `obj` as the next version and return its number. Costs one copy of the large buffers.

        With `expected_version` it is published only if that is still the newest; otherwise
        VersionConflictError.

        >>> import shoal
        >>> v = shoal.Versioned("a")
        >>> v.set("b")
        1
        """
        return _published(self._publish(_value(obj), expected_version), expected_version)

    def compare_and_set(self, version: int, obj: Any) -> bool:
        """Publish `obj` if `version` is still the newest; returns whether it was.

        >>> import shoal
        >>> v = shoal.Versioned(10)
        >>> while True:
        ...     value, version = v.get_with_version()
        ...     if v.compare_and_set(version, value + 1):
        ...         break
        >>> v.get()
        11
        """
        return self._publish(_value(obj), version) >= 0

    def update(self, *, expected_version: int | None = None) -> Update:
        """`with v.update() as draft:` prepare the next version in place, and publish it at the end of the
        block.

        `draft` is a copy of the newest version whose arrays may be written; it lies where the next version
        will be, so publishing copies nothing more. Keys may be added and arrays replaced too; what is new is
        then copied. An exception discards the draft. After the block the draft's arrays are the writer's own:
        what is written to them changes the published version no more. A draft must be changed, not assigned
        to: for a value like a number or a string there is `set` (TypeError here).

        With `expected_version` the end of the block raises VersionConflictError, and publishes nothing, if
        that is not the newest version any more. The draft is a copy of the version that is the newest at the
        start of the block.
        """
        return Update(self, expected_version)

    async def wait_async(self, newer_than: int | None = None, timeout: float | None = None) -> int | None:
        """`wait` for event loops: other coroutines run while it waits. Arguments and result are the same.

        >>> import asyncio, shoal
        >>> v = shoal.Versioned("a")
        >>> async def follow():
        ...     waiting = asyncio.create_task(v.wait_async(newer_than=0, timeout=10))
        ...     v.set("b")
        ...     return await waiting
        >>> asyncio.run(follow())
        1
        """
        from shoal._futures import next_ring

        than = self.version if newer_than is None else newer_than
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            rung = next_ring()  # before the look: what happens after it rings
            version = self._watch(than)
            left = None if end is None else end - time.monotonic()
            if version is not None or (left is not None and left <= 0):
                return version
            await rung(left)

    def __await__(self) -> Generator[Any, None, int | None]:
        """`await v` is `await v.wait_async()`: the number of the next version, once it is there."""
        return self.wait_async().__await__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._ref, self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Versioned) and bool(self._ref == other._ref)

    def __hash__(self) -> int:
        return hash(self._ref)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<shoal.Versioned{name}>"


def _restore(ref: ObjectRef, name: str | None) -> Versioned:
    return VersionedCell.__new__(Versioned, ref, name)


def _value(obj: Any) -> Any:
    if isinstance(obj, ObjectRef):
        raise TypeError("an ObjectRef is no value for a Versioned: pass what it refers to, shoal.get(ref)")
    return obj


def _published(number: int, expected: int | None) -> int:
    if number < 0:
        raise _conflict(-1 if expected is None else expected, -1 - number)
    return number


def _conflict(expected: int, found: int) -> VersionConflictError:
    error = VersionConflictError(
        f"version {expected} was expected, but the newest is {found}: nothing was published. Get it and try again"
    )
    error.expected, error.found = expected, found
    return error


class Update:
    """What `Versioned.update` returns: the context manager of one draft."""

    __slots__ = ("_cell", "_draft", "_expected")

    def __init__(self, cell: Versioned, expected: int | None) -> None:
        self._cell = cell
        self._expected = expected
        self._draft: _core.Draft | None = None

    def __enter__(self) -> Any:
        if self._draft is not None:
            raise RuntimeError("this update() has begun already: call update() again for another")
        value, version = self._cell.get_with_version()
        if self._expected is not None and version != self._expected:
            raise _conflict(self._expected, version)
        if isinstance(value, _NOTHING_TO_CHANGE):
            raise TypeError(f"update() changes a value in place, and a {type(value).__name__} cannot be: use set()")
        self._draft = self._cell._draft(value)
        return self._draft.value()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        draft, self._draft = self._draft, None
        assert draft is not None, "__exit__ comes after __enter__"
        if kind is not None:
            draft.discard()
        else:
            _published(self._cell._publish_draft(draft, self._expected), self._expected)
