"""A replay buffer in shared memory."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from shoal import _core, serialization
from shoal.containers._named import named
from shoal.engine import current
from shoal.exceptions import NotMutableError
from shoal.mutable import _dimensions


class Ring:
    """The last `capacity` records, each a dict of arrays of fixed shape; many producers, many samplers, no actor.

    Args:
        capacity: records it holds; a new one takes the place of the oldest.
        fields: name -> (shape of one record's value, dtype), for instance {"obs": ((84, 84, 4), "uint8")}; any dtype
            without Python objects.
        prioritized: keep a priority for each record (a sum tree), for `sample(prioritized=True)`.
        name: other participants get the same ring by the same name (with what the first of them asked for).

    A producer claims a place by one atomic step, writes, and marks the record complete. A record that is being written,
    or whose producer was killed in the middle, is never sampled; its place is used again when the ring comes round.
    Producers that come round to a place where another one still writes leave it out and take the next.
    Sampling copies the chosen records from shared memory into one batch, and nothing else.

    A sampled record may be overwritten while it is copied, if producers lap the whole ring meanwhile; `sample` looks for
    that and draws such records again.

    Prioritized sampling: Schaul et al., Prioritized Experience Replay (2016), with a sum tree.

    >>> import numpy as np, shoal
    >>> ring = shoal.Ring(1000, {"obs": ((4,), "float32"), "reward": ((), "float32")})
    >>> for i in range(10):
    ...     place = ring.append(obs=np.full(4, i), reward=i)
    >>> batch = ring.sample(32)
    >>> batch["obs"].shape, len(ring)
    ((32, 4), 10)
    """

    def __init__(
        self,
        capacity: int,
        fields: Mapping[str, tuple[tuple[int, ...], Any]],
        *,
        prioritized: bool = False,
        name: str | None = None,
    ) -> None:
        if capacity < 1 or capacity != int(capacity):
            raise ValueError(f"capacity must be a positive integer, not {capacity!r}")
        if not fields or "_" in {key[:1] for key in fields}:
            raise ValueError("fields must name at least one field, and no name may start with an underscore")
        current()
        self._bind(named("ring", name, lambda: _make(int(capacity), fields, prioritized)))

    def _bind(self, ref: Any) -> None:
        self._ref = ref
        arrays = current().get(ref, None)
        self._stamp = arrays.pop("_stamp")
        claimed = arrays.pop("_claimed")
        self._tree = arrays.pop("_tree", None)
        self._highest = arrays.pop("_highest", None)
        self._fields: dict[str, Any] = arrays
        self.capacity = len(self._stamp)
        self._claimed, self._skipped, self._first_stamp = (
            _core._counter_at(ref, array.__array_interface__["data"][0]) for array in (claimed, claimed[1:], self._stamp)
        )
        self._lock = current().lock(ref, False)
        self._random: Any = None

    @classmethod
    def _of(cls, ref: Any) -> Ring:
        ring = cls.__new__(cls)
        ring._bind(ref)
        return ring

    def __reduce__(self) -> tuple[Any, ...]:
        return (Ring._of, (self._ref,))

    def __len__(self) -> int:
        """Records that can be sampled, or are just being written."""
        return min(self._claimed.value, self.capacity)

    # -- in -------------------------------------------------------------------------------------------------

    def append(self, record: Mapping[str, Any] | None = None, /, *, priority: float | None = None, **fields: Any) -> int:
        """Add one record, given as a dict or as keywords (or both); returns its place.

        `priority` is that of the highest so far if it is not given. Raises KeyError if a field is missing or unknown,
        ValueError if a value does not fit its field or the priority is no positive number; nothing is added then.
        """
        values = {**(record or {}), **fields}
        self._same_fields(values)
        if priority is not None and not (self._tree is not None and 0 < priority < float("inf")):
            raise ValueError(
                f"a priority is a positive, finite number, not {priority!r}"
                if self._tree is not None
                else "this ring keeps no priorities: make it with prioritized=True"
            )
        number = int.from_bytes(self._claim(1), sys.byteorder)
        place = number % self.capacity
        try:
            for key, array in self._fields.items():
                array[place] = values[key]
        except BaseException:
            self._stamp[place] = 0
            raise
        _core.fence()
        self._stamp[place] = 2 * (number + 1)
        if self._tree is not None:
            self.update_priorities([place], [self._highest[0] if priority is None else priority])
        return int(place)

    def extend(self, **fields: Any) -> Any:
        """Add several records at once, each field an array with one more leading axis; returns their places."""
        import numpy as np

        self._same_fields(fields)
        count = len(next(iter(fields.values())))
        if count == 0:
            return np.empty(0, np.int64)
        if count > self.capacity:
            raise ValueError(f"{count} records do not fit into a ring of {self.capacity}")
        if any(len(values) != count for values in fields.values()):
            raise ValueError("all fields must have the same number of records")
        if any(np.shape(values)[1:] != self._fields[key].shape[1:] for key, values in fields.items()):
            raise ValueError("a field's values must have the shape of its records, after the leading axis")
        numbers = np.frombuffer(self._claim(count), np.int64)
        places = numbers % self.capacity
        try:
            for key, array in self._fields.items():
                for start, end in _runs(places):
                    array[places[start] : places[start] + end - start] = fields[key][start:end]
        except BaseException:
            self._stamp[places] = 0
            raise
        _core.fence()
        self._stamp[places] = 2 * (numbers + 1)
        if self._tree is not None:
            self.update_priorities(places, np.full(count, self._highest[0]))
        return places

    def _claim(self, count: int) -> bytes:
        return _core.ring_claim(self._claimed, self._skipped, self._first_stamp, self.capacity, count)

    def _same_fields(self, values: Mapping[str, Any]) -> None:
        if values.keys() != self._fields.keys():
            raise KeyError(f"a record has the fields {sorted(self._fields)}, this one has {sorted(values)}")

    # -- out ------------------------------------------------------------------------------------------------

    def sample(
        self, batch_size: int, *, prioritized: bool = False, out: dict[str, Any] | None = None, rng: Any = None
    ) -> dict[str, Any]:
        """A batch of complete records, drawn with replacement: a dict of arrays of `batch_size` records.

        Args:
            batch_size: records to draw.
            prioritized: draw in proportion to the priorities (else uniformly).
            out: a dict returned by an earlier call, to be filled again instead of making new arrays.
            rng: a numpy Generator.

        The result also has `_place` (where each record lies, for `update_priorities`) and, when prioritized,
        `_probability`. Raises IndexError while there is no complete record.
        """
        import numpy as np

        rng = rng or self._generator()
        if out is None:
            out = {key: np.empty((batch_size, *a.shape[1:]), a.dtype) for key, a in self._fields.items()}
            out["_place"] = np.empty(batch_size, np.int64)
        elif not all(_fits(out.get(key), a.dtype, (batch_size, *a.shape[1:])) for key, a in self._fields.items()) or not _fits(
            out.get("_place"), np.int64, (batch_size,)
        ):
            raise ValueError("out must be what an earlier call with this batch_size returned: it has another shape or dtype")
        place = out["_place"]
        missing = np.arange(batch_size)
        for _ in range(64):
            drawn = self._draw(len(missing), prioritized, rng)
            stamp = self._stamp[drawn]
            whole = (stamp & 1 == 0) & (stamp > 0)
            _core.fence()  # the records are read between the two looks at their stamps
            if not whole.all():
                place[missing[whole]] = drawn[whole]
                self._gather(out, missing[whole], drawn[whole], batch_size)
                _core.fence()
                good = whole.copy()
                good[whole] = self._stamp[drawn[whole]] == stamp[whole]
            else:
                place[missing] = drawn
                self._gather(out, missing, drawn, batch_size)
                _core.fence()
                good = self._stamp[drawn] == stamp
            if good.all():
                break
            missing = missing[~good]
        else:
            raise IndexError(
                "the ring has no complete record to sample" if len(self) == 0 else "too few complete records to sample"
            )
        if prioritized:
            leaves = len(self._tree) // 2
            out["_probability"] = self._tree[leaves + place] / max(self._tree[1], 1e-300)
        return out

    def _gather(self, out: dict[str, Any], rows: Any, places: Any, batch_size: int) -> None:
        for key, array in self._fields.items():
            if len(rows) == batch_size:
                _core.ring_gather(array, places, out[key])
            else:
                out[key][rows] = array[places]

    def _draw(self, count: int, prioritized: bool, rng: Any) -> Any:
        import numpy as np

        held = len(self)
        if held == 0:
            raise IndexError("the ring is empty")
        if not prioritized:
            return rng.integers(0, held, count)
        if self._tree is None:
            raise ValueError("this ring keeps no priorities: make it with prioritized=True")
        places = np.empty(count, np.int64)
        _core.ring_draw(self._tree, rng.random(count), places)
        # Rounding, or a change of the tree on the way down, may end one off: stay inside.
        return np.minimum(places, held - 1, out=places)

    def update_priorities(self, places: Any, priorities: Any) -> None:
        """Set the priorities of records: positive, finite numbers; apply your own exponent. Takes the ring's lock.

        Args:
            places: where the records lie, as `append`, `extend` and `sample` (`_place`) give it; a place may occur twice.
            priorities: as many numbers, or one for all.

        Raises ValueError for a priority that is none, IndexError for a place that the ring does not have; nothing is
        changed then. A record that has been overwritten since it was sampled passes its priority on to the new one.
        """
        import numpy as np

        if self._tree is None:
            raise ValueError("this ring keeps no priorities: make it with prioritized=True")
        places = np.ascontiguousarray(places, np.int64).reshape(-1)
        priorities = np.ascontiguousarray(priorities, np.float64)
        if priorities.shape != places.shape:
            priorities = np.ascontiguousarray(np.broadcast_to(priorities, places.shape))
        self._acquire()
        try:
            _core.ring_update(self._tree, self._highest, places, priorities, self.capacity)
        finally:
            self._lock.release()

    def _acquire(self) -> None:
        from shoal.exceptions import LockHolderDied

        try:
            self._lock.acquire()
        except LockHolderDied:
            # We hold it. The leaves are single numbers and whole; the sums above them may be half changed.
            tree = self._tree
            level = len(tree) // 4
            while level >= 1:
                tree[level : 2 * level] = tree[2 * level : 4 * level : 2] + tree[2 * level + 1 : 4 * level : 2]
                level //= 2

    def _generator(self) -> Any:
        if self._random is None:
            import numpy as np

            self._random = np.random.default_rng()
        return self._random

    def statistics(self) -> dict[str, int]:
        """`length`, `capacity`, and `appended`: the records added since the beginning."""
        return {"length": len(self), "capacity": self.capacity, "appended": self._claimed.value - self._skipped.value}


def _fits(array: Any, dtype: Any, shape: tuple[int, ...]) -> bool:
    return bool(getattr(array, "dtype", None) == dtype and array.shape == shape)


def _make(capacity: int, fields: Mapping[str, tuple[tuple[int, ...], Any]], prioritized: bool) -> Any:
    """A mutable object with all arrays of a ring in one buffer, made where it stays."""
    import numpy as np

    layout: list[tuple[str, tuple[int, ...], Any, int]] = []
    size = 0

    def add(name: str, shape: tuple[int, ...], dtype: Any) -> None:
        nonlocal size
        kind = np.dtype(dtype)
        if kind.hasobject or kind.itemsize == 0:
            raise NotMutableError(f"the field {name!r} cannot be of dtype {kind}: its elements are not bytes of known size")
        layout.append((name, shape, kind, size))
        size += -(-math.prod(shape) * kind.itemsize // 64) * 64

    for name, (shape, dtype) in fields.items():
        add(name, (capacity, *_dimensions(shape)), dtype)
    add("_stamp", (capacity,), np.int64)
    add("_claimed", (2,), np.int64)  # places given out, and those of them that were left out
    if prioritized:
        add("_tree", (2 << (capacity - 1).bit_length(),), np.float64)
        add("_highest", (1,), np.float64)
    ref = current().new_array(serialization._dumps_call(_arrays, layout, serialization._placeholder()), size, True)
    if prioritized:
        current().get(ref, None)["_highest"][0] = 1
    return ref


def _arrays(layout: list[tuple[str, tuple[int, ...], Any, int]], buffer: Any) -> dict[str, Any]:
    import numpy as np

    return {name: np.ndarray(shape, dtype, buffer, start) for name, shape, dtype, start in layout}


def _runs(places: Any) -> Iterator[tuple[int, int]]:
    """Where places follow one another: (start, end) of each such stretch; one or two, unless some were left out."""
    import numpy as np

    breaks = [0, *(np.flatnonzero(np.diff(places) != 1) + 1), len(places)]
    return itertools.pairwise(breaks)
