"""A dictionary in shared memory."""

from __future__ import annotations

import marshal
import operator
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from shoal import _core
from shoal.containers._named import named
from shoal.engine import current


def _encode(key: Any) -> bytes:
    """Bytes that are equal for equal keys in every process."""
    return marshal.dumps(_plain(key), 0)  # version 0: the same bytes for equal values, whatever their identity


def _plain(key: Any) -> Any:
    kind = type(key)
    if kind in (str, bytes, int, type(None)):
        return key
    if kind is bool:
        return int(key)
    if kind is float:
        return int(key) if key.is_integer() else key
    if kind is tuple:
        return tuple(_plain(part) for part in key)
    if hasattr(kind, "__index__"):  # a NumPy integer, a member of an IntEnum
        return operator.index(key)
    if isinstance(key, float):  # NumPy's float64
        return _plain(float(key))
    raise TypeError(f"a key of a shared Dict is a string, bytes, number, None or a tuple of these, not {key!r} ({kind.__name__})")


class Dict(MutableMapping[Any, Any]):
    """A dict that all participants share: each method is one step for everybody else.

    Args:
        items: what to begin with.
        name: other participants get the same dict by the same name (what it begins with counts once).

    Keys are strings, bytes, numbers, None and tuples of these (NumPy's numbers come back as Python's); values anything
    picklable. A value is copied in when it is stored; what comes out is a copy or, for arrays, a read-only view: change it by
    storing again. A participant killed in the middle of an operation has done it or not. Iteration goes over the keys of
    one moment, in the order of insertion.
    Not one step, but one for each item, are `items`, `values`, `copy` and comparison, `update` and `|=`, and `clear`. For
    several steps as one use `with d.lock:`.

    >>> import shoal
    >>> d = shoal.Dict({"a": 1})
    >>> d["b"] = [2, 3]
    >>> dict(d), d.setdefault("a", 9), d.pop("b"), len(d)
    ({'a': 1, 'b': [2, 3]}, 1, [2, 3], 1)
    """

    def __init__(self, items: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (), *, name: str | None = None) -> None:
        current()

        def make() -> Any:
            ref = _core.new_table(_core._new_lock())
            for key, value in dict(items).items():
                _core.table_op(ref, "set", _encode(key), value)
            return ref

        self._ref = named("dict", name, make)
        self._lock: Any = None

    @classmethod
    def _of(cls, ref: Any) -> Dict:
        made = cls.__new__(cls)
        made._ref = ref
        made._lock = None
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return (Dict._of, (self._ref,))

    @property
    def lock(self) -> Any:
        """A lock of this dict's own, for several steps as one. No method takes it by itself."""
        if self._lock is None:
            self._lock = _core._lock(_core.container_lock(self._ref), None, True)
        return self._lock

    def __getitem__(self, key: Any) -> Any:
        value = _core.table_op(self._ref, "get", _encode(key), None)
        if value is NotImplemented:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        _core.table_op(self._ref, "set", _encode(key), value)

    def __delitem__(self, key: Any) -> None:
        if _core.table_op(self._ref, "pop", _encode(key), None) is NotImplemented:
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return _core.table_op(self._ref, "get", _encode(key), None) is not NotImplemented

    def __len__(self) -> int:
        return int(_core.table_op(self._ref, "length", None, None))

    def __iter__(self) -> Iterator[Any]:
        return iter([marshal.loads(key) for key in _core.table_op(self._ref, "keys", None, None)])

    def __reversed__(self) -> Iterator[Any]:
        yield from reversed(list(self))

    def copy(self) -> dict[Any, Any]:
        """A plain dict of the items."""
        return dict(self.items())

    def __or__(self, other: Any) -> dict[Any, Any]:
        return self.copy() | dict(other) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Any) -> dict[Any, Any]:
        return dict(other) | self.copy() if isinstance(other, Mapping) else NotImplemented

    def __ior__(self, other: Any) -> Dict:
        self.update(other)
        return self

    @classmethod
    def fromkeys(cls, keys: Iterable[Any], value: Any = None) -> Dict:
        """A new Dict with that value for each of the keys."""
        return cls(dict.fromkeys(keys, value))

    def items(self) -> Any:
        """(key, value) pairs of what is there when each is looked at."""
        pairs = []
        for key in _core.table_op(self._ref, "keys", None, None):
            value = _core.table_op(self._ref, "get", key, None)
            if value is not NotImplemented:
                pairs.append((marshal.loads(key), value))
        return pairs

    def values(self) -> Any:
        """The values of what is there when each is looked at."""
        return [value for _, value in self.items()]

    _missing = object()

    def pop(self, key: Any, default: Any = _missing) -> Any:
        """Take a value out. Of several that try, one gets it. Raises KeyError without a default."""
        value = _core.table_op(self._ref, "pop", _encode(key), None)
        if value is not NotImplemented:
            return value
        if default is Dict._missing:
            raise KeyError(key)
        return default

    def popitem(self, last: bool = True) -> tuple[Any, Any]:
        """Take out the newest (or oldest) item. Raises KeyError if there is none."""
        pair = _core.table_op(self._ref, "fL" if last else "fF", None, None)
        if pair is None:
            raise KeyError("popitem(): the Dict is empty")
        return marshal.loads(pair[0]), pair[1]

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """The value of `key`; if there is none, `default` becomes it. Of several that try, one sets it."""
        while not _core.table_op(self._ref, "default", _encode(key), default):
            value = _core.table_op(self._ref, "get", _encode(key), None)
            if value is not NotImplemented:  # else it was taken out between the two steps
                return value
        return default

    def clear(self) -> None:
        """Take everything out, one by one."""
        while _core.table_op(self._ref, "fF", None, None) is not None:
            pass

    def statistics(self) -> dict[str, int]:
        """`length`."""
        return {"length": len(self)}

    def __repr__(self) -> str:
        return f"Dict({dict(self.items())!r})" if self._ref._live else "<Dict of an ended session>"
