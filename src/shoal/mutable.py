"""Arrays made directly in shared memory, and freezing."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Sequence
from typing import Any

from shoal import _core, serialization
from shoal._core import ObjectRef
from shoal.engine import current
from shoal.exceptions import NotMutableError, WritableViewsError

__all__ = ["empty", "freeze", "full", "zeros"]


def empty(shape: int | Sequence[int], dtype: Any = float) -> ObjectRef:
    """A mutable array in shared memory, not initialized, without a private copy first; returns its ObjectRef.

    `get(ref)` is the array. A reference comes back and not the array because the reference is what tasks,
    `lock` and `freeze` take, and because an array keeps the object from being frozen for as long as it lives.

    Args:
        shape: an integer or a sequence of them, as for `numpy.empty`.
        dtype: any NumPy dtype without Python objects.

    The contents are whatever the memory held before: data of dropped objects, or zeros. Costs some ten microseconds, and
    for large arrays what the system takes to provide pages that were never used before; nothing is copied or filled.

    Raises:
        NotMutableError: a dtype with Python objects in it, or without a size.
        ObjectStoreFullError: there is no room.
        ValueError, TypeError: a bad shape or dtype.

    >>> import shoal
    >>> ref = shoal.empty((2, 3), "int32")
    >>> array = shoal.get(ref)
    >>> array[:] = [[1, 2, 3], [4, 5, 6]]
    >>> int(shoal.get(ref).sum())
    21
    """
    return _new(shape, dtype, zero=False)


def zeros(shape: int | Sequence[int], dtype: Any = float) -> ObjectRef:
    """A mutable array of zeros, made directly in shared memory; returns its ObjectRef.

    Arguments and errors are those of `empty`; its memory is written once.

    >>> import shoal
    >>> shoal.get(shoal.zeros(3))
    array([0., 0., 0.])
    """
    return _new(shape, dtype, zero=True)


def full(shape: int | Sequence[int], fill_value: Any, dtype: Any = None) -> ObjectRef:
    """A mutable array filled with `fill_value`, made directly in shared memory.

    Returns its ObjectRef. `fill_value` may be anything that broadcasts to `shape` (else ValueError). Without
    `dtype` it is that of `fill_value`. Otherwise like `empty`; its memory is written once.

    >>> import shoal
    >>> shoal.get(shoal.full((2, 2), 7))
    array([[7, 7],
           [7, 7]])
    """
    import numpy

    ref = _new(shape, numpy.asarray(fill_value).dtype if dtype is None else dtype, zero=False)
    current().get(ref, None)[...] = fill_value
    return ref


def _new(shape: int | Sequence[int], dtype: Any, zero: bool) -> ObjectRef:
    import numpy

    kind = numpy.dtype(dtype)
    if kind.hasobject or kind.itemsize == 0:
        raise NotMutableError(
            f"an array of dtype {kind} cannot be made in shared memory: its elements are not bytes of known "
            "size. Use a dtype without Python objects, or put() the array"
        )
    template = numpy.lib.stride_tricks.as_strided(numpy.empty(1, kind), _dimensions(shape), writeable=False)
    meta = serialization._dumps_call(numpy.ndarray, template.shape, kind, serialization._placeholder())
    ref: ObjectRef = current().new_array(meta, template.size * kind.itemsize, zero)
    return ref


def _dimensions(shape: Any) -> tuple[int, ...]:
    import operator

    dimensions: tuple[int, ...]
    try:
        dimensions = (operator.index(shape),)
    except TypeError:
        if not isinstance(shape, Iterable):
            raise TypeError(f"a shape is an integer or a sequence of integers, not {shape!r}") from None
        dimensions = tuple(operator.index(n) for n in shape)
    if any(n < 0 for n in dimensions):
        raise ValueError(f"a shape has no negative numbers in it: {shape!r}")
    return dimensions


def freeze(ref: ObjectRef) -> ObjectRef:
    """Make a mutable object immutable, without a copy; returns the same reference.

    Afterwards `get` returns read-only views, everywhere and for good, and `lock(ref)` raises NotMutableError.
    It works once nobody can write to the object any more: a writable view may be an array that `get` returned, a
    slice of it, a tensor over it, in any process. References do no harm. A frozen object may be frozen again. It costs
    less than a microsecond, whatever the size. (A process made by a plain fork() is no participant: views that it
    inherited are not seen.)

    Raises:
        WritableViewsError: there are writable views; the message names the actors and tasks that hold them, `pids` their
            processes.
        NotMutableError: the object was never mutable, or is not made yet.
        TypeError: this is no ObjectRef.

    So a task can build a large result in place and return it for nothing. What comes back is a reference to
    the reference, as in Ray, so get twice:

    >>> import shoal
    >>> @shoal.remote
    ... def squares(n):
    ...     ref = shoal.empty(n, int)
    ...     array = shoal.get(ref)
    ...     for i in range(n):
    ...         array[i] = i * i
    ...     del array  # no writable view may be left
    ...     return shoal.freeze(ref)
    >>> shoal.get(shoal.get(squares.remote(5)))
    array([ 0,  1,  4,  9, 16])
    """
    if not isinstance(ref, ObjectRef):
        raise TypeError(f"freeze() takes the ObjectRef of a mutable object, not {ref!r}")
    engine = current()
    pids = engine.freeze(ref)
    if os.getpid() in pids:  # perhaps only garbage: a view in a cycle of references
        gc.collect()
        pids = engine.freeze(ref)
    if pids:
        labels = {process["pid"]: process["label"] for process in _core.processes()}
        who = ", ".join(
            f"process {pid} (this one)" if pid == os.getpid() else f"{labels.get(pid) or 'a worker'} (process {pid})"
            for pid in pids
        )
        error = WritableViewsError(
            f"cannot freeze the object: there are writable views of it in {who}. Drop them first: `del` the "
            "arrays that get() returned and what was made from them, slices and tensors too"
        )
        error.pids = tuple(pids)
        raise error
    return ref
