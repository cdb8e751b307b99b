"""A list in shared memory, and a single value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableSequence
from typing import Any

from shoal import _core
from shoal.containers._named import named
from shoal.engine import current


class List(MutableSequence[Any]):
    """A list that all participants share: each method is one step for everybody else (but see below).

    Args:
        items: what to begin with.
        name: other participants get the same list by the same name (what it begins with counts once).

    Values are anything picklable, copied in when stored; what comes out is a copy or, for arrays, a read-only view.
    At both ends it is as fast as a deque; inserting or deleting in the middle copies the list's references.
    Slices can be read, not assigned. Not one step, but one for each item, are iteration (and what iterates: `in`, `index`,
    `count`, slices, comparison, `copy`, `+`), `extend` and `+=`, and `clear`. For several steps as one use `with l.lock:`.

    >>> import shoal
    >>> l = shoal.List([1, 2])
    >>> l.append("three"); l[0] = 0
    >>> list(l), l.pop(), l[-1], len(l)
    ([0, 2, 'three'], 'three', 2, 2)
    """

    def __init__(self, items: Iterable[Any] = (), *, name: str | None = None) -> None:
        current()

        def make() -> Any:
            ref = _core.new_queue(0, _core._new_lock())
            _core.queue_put(ref, list(items), None)
            return ref

        self._ref = named("list", name, make)
        self._lock: Any = None

    @classmethod
    def _of(cls, ref: Any) -> List:
        made = cls.__new__(cls)
        made._ref = ref
        made._lock = None
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return (List._of, (self._ref,))

    @property
    def lock(self) -> Any:
        """A lock of this list's own, for several steps as one. No method takes it by itself."""
        if self._lock is None:
            self._lock = _core._lock(_core.container_lock(self._ref), None, True)
        return self._lock

    def __len__(self) -> int:
        return int(_core.queue_length(self._ref)[0])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        value = _core.list_op(self._ref, "at", index, None)
        if value is NotImplemented:
            raise IndexError(f"index {index} of a List of {len(self)}")
        return value

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            raise TypeError("slices of a shared List cannot be assigned: assign the items one by one, under its lock")
        if not _core.list_op(self._ref, "set", index, value):
            raise IndexError(f"index {index} of a List of {len(self)}")

    def __delitem__(self, index: Any) -> None:
        if isinstance(index, slice):
            raise TypeError("slices of a shared List cannot be deleted: delete the items one by one, under its lock")
        self.pop(index)

    def __iter__(self) -> Iterator[Any]:
        index = 0
        while (value := _core.list_op(self._ref, "at", index, None)) is not NotImplemented:
            yield value
            index += 1

    def insert(self, index: int, value: Any) -> None:
        """Put a value before the one at `index`."""
        _core.list_op(self._ref, "insert", index, value)

    def append(self, value: Any) -> None:
        """Put a value at the end."""
        _core.queue_put(self._ref, (value,), None)

    def extend(self, values: Iterable[Any]) -> None:
        """Put values at the end, one by one."""
        _core.queue_put(self._ref, list(values), None)

    def pop(self, index: int = -1) -> Any:
        """Take a value out. Of several that try, one gets it. Raises IndexError."""
        value = _core.list_op(self._ref, "pop", index, None)
        if value is NotImplemented:
            raise IndexError(f"pop({index}) of a List of {len(self)}")
        return value

    def clear(self) -> None:
        """Take everything out, one by one."""
        _core.list_op(self._ref, "clear", 0, None)

    def remove(self, value: Any) -> None:
        """Take out the first item that is equal to `value`; what is compared is what is taken. Raises ValueError."""
        if not _core.list_op(self._ref, "remove", 0, value):
            raise ValueError(f"{value!r} is not in the List")

    def reverse(self) -> None:
        """Put the items into reverse order, in one step."""
        _core.list_op(self._ref, "order", 0, lambda values: range(len(values) - 1, -1, -1))

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        """Sort as `list.sort` does, in one step: begins again if somebody changes the list while the values are compared.

        >>> import shoal
        >>> l = shoal.List(["bb", "a"])
        >>> l.sort(key=len); list(l)
        ['a', 'bb']
        """

        def order(values: list[Any]) -> list[int]:
            keys = values if key is None else [key(value) for value in values]
            return sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)

        _core.list_op(self._ref, "order", 0, order)

    def copy(self) -> list[Any]:
        """A plain list of the items."""
        return list(self)

    def __add__(self, other: Any) -> list[Any]:
        return list(self) + list(other) if isinstance(other, (List, list)) else NotImplemented

    def __radd__(self, other: Any) -> list[Any]:
        return other + list(self) if isinstance(other, list) else NotImplemented

    def statistics(self) -> dict[str, int]:
        """`length`, and `appended`: the values put at the end since the beginning, or since the middle was changed."""
        length, added, _ = _core.queue_length(self._ref)
        return {"length": length, "appended": added}

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (List, list)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"List({list(self)!r})" if self._ref._live else "<List of an ended session>"


_IGNORE = 2  # ON_DEATH_IGNORE in core/abi.h: a value is never half changed


class Value:
    """One value of any picklable kind that all participants share.

    Args:
        value: what to begin with.
        name: other participants get the same one by the same name.

    `value` reads and writes it, each in one step; `update(function)` reads, computes and writes as one step among all
    that use `update` or the lock. A participant killed in the middle of it has changed nothing, so nobody is told of it.
    For a number that many change use Counter, for large arrays that many read Versioned.

    >>> import shoal
    >>> best = shoal.Value({"score": 0})
    >>> best.update(lambda old: {"score": old["score"] + 5})
    {'score': 5}
    >>> best.value
    {'score': 5}
    """

    def __init__(self, value: Any = None, *, name: str | None = None) -> None:
        self._bind(List([value], name=None if name is None else f"value:{name}"))

    def _bind(self, values: List) -> None:
        self._list = values
        self._lock = _core._lock(_core.container_lock(values._ref), None, True, False, _IGNORE)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Value._of, (self._list,))

    @classmethod
    def _of(cls, values: List) -> Value:
        made = cls.__new__(cls)
        made._bind(values)
        return made

    @property
    def value(self) -> Any:
        """What it is now."""
        return self._list[0]

    @value.setter
    def value(self, value: Any) -> None:
        self._list[0] = value

    @property
    def lock(self) -> Any:
        """The lock that `update` takes."""
        return self._lock

    def update(self, function: Callable[[Any], Any]) -> Any:
        """Replace the value by `function(value)`; returns the new one. Takes the lock."""
        with self.lock:
            new = function(self.value)
            self.value = new
        return new

    def statistics(self) -> dict[str, bool]:
        """`locked`: whether somebody holds its lock."""
        return {"locked": self.lock.locked()}

    def __repr__(self) -> str:
        return f"Value({self.value!r})" if self._list._ref._live else "<Value of an ended session>"
