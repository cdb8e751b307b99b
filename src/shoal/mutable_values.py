"""How values with writable arrays are pickled: for `put(mutable=True)`, and out again for `get(private=True)`."""

from __future__ import annotations

import ctypes
import io
import pickle
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from shoal import serialization
from shoal.exceptions import NotMutableError
from shoal.serialization import Buffers, Reduced, Reducer, _Collector

__all__ = ["deserialize_private", "serialize_mutable"]


def serialize_mutable(value: Any, name: str = "value") -> tuple[bytes, Buffers]:
    """Like `serialize`, for `put(value, mutable=True)`: all arrays in `value` are out-of-band, however small.

    Given writable buffers, `deserialize` returns writable arrays and dense CPU tensors, also where the
    original was read-only or not contiguous. A `bytearray`, `array.array` or `memoryview` comes back as a
    writable `memoryview` of the shared memory: it cannot be resized, so it is no bytearray any more. Arrays
    and tensors over the same memory (an array and its slices, tied weights) stay so, if they fill at least as many
    bytes, counted one by one, as lie between the first and the last of them. Raises `NotMutableError` if
    nothing in `value` can be shared, or an array in it cannot.
    """
    serialization._keep_current()
    try:
        meta, buffers = _share(value, by_value=False)
    except serialization._FINAL:
        raise
    except Exception:
        pass
    else:
        if not serialization._must_go_by_value(meta):
            return meta, buffers
    try:
        return _share(value, by_value=True)
    except Exception as error:
        serialization._fail(value, name, error)


def _share(value: Any, by_value: bool) -> tuple[bytes, Buffers]:
    # Which arrays lie over one another is known when all have been seen; then those are pickled as parts of a region.
    first = _Sharing([])
    pickled = first.dump(value, by_value)
    regions = first.regions()
    return _Sharing(regions).dump(value, by_value) if regions else pickled


class _Span(NamedTuple):
    """The memory of an array, from its first byte to behind its last one."""

    start: int
    end: int
    array: Any  # it must not go while its addresses count
    nbytes: int


class _Region:
    """Memory with several arrays in it; pickles as one buffer."""

    def __init__(self, spans: list[_Span]) -> None:
        self.start, self.end = spans[0].start, max(span.end for span in spans)
        self.arrays = [span.array for span in spans]
        self.tensor = _RegionAsTensor(self)

    def memory(self) -> memoryview:
        memory: Any = (ctypes.c_ubyte * (self.end - self.start)).from_address(self.start)
        memory.arrays = self.arrays
        return memoryview(memory).cast("B")


class _RegionAsTensor:
    """The same for torch, where tensors over the same memory have a storage in common."""

    def __init__(self, region: _Region) -> None:
        self.region = region


class _Sharing(_Collector):
    """One attempt to pickle a value whose arrays are all to be shared."""

    def __init__(self, regions: list[_Region]) -> None:
        super().__init__()
        self.marks: dict[int, tuple[pickle.PickleBuffer, memoryview]] = {}
        self.bytearrays: dict[int, tuple[int, bytearray]] = {}
        self.array_types: tuple[type, ...] = ()
        self.spans: list[_Span] = []
        self.in_regions = regions

    def dump(self, value: Any, by_value: bool) -> tuple[bytes, Buffers]:
        table = serialization._by_value_table(self.reducers()) if by_value else self.reducers()
        serialization._pickler_type(by_value, mutable=True)(self, table).dump(value)
        if not self.marks and not self.bytearrays:
            what = serialization._type_name(value)
            raise NotMutableError(
                f"{'an' if what[0].lower() in 'aeiou' else 'a'} {what} with no array, tensor or bytearray in it cannot be "
                "mutable: wrap a number in np.array(...), use a shared container (Counter, Value, Dict, List, Queue) or a "
                "Versioned, keep it in an actor, or put it without mutable=True"
            )
        meta = self.stream.getvalue()
        if not self.bytearrays:
            return meta, self.buffers
        # pickle.loads knows no persistent ids, so the pickle that uses them is an argument in another one.
        views = [memoryview(original) for _, original in self.bytearrays.values()]
        placeholder = serialization._placeholder
        marks = [placeholder() for _ in views], [placeholder() for _ in self.buffers]
        return serialization._dumps_call(_load_with_bytearrays, meta, *marks), views + self.buffers

    def regions(self) -> list[_Region]:
        """Where several arrays of what was pickled lie over one another."""
        found: list[_Region] = []
        group: list[_Span] = []
        end = 0
        for span in [*sorted(self.spans, key=lambda span: span[:2]), None]:
            if span is not None and group and span.start < end:
                group.append(span)
            else:
                # Columns of a large matrix overlap too, but the matrix is not there to be copied.
                if len(group) > 1 and end - group[0].start <= sum(each.nbytes for each in group):
                    found.append(_Region(group))
                group, end = [span] if span is not None else [], 0
            end = max(end, span.end if span is not None else 0)
        return found

    def region_of(self, start: int, end: int, array: Any, nbytes: int) -> _Region | None:
        for region in self.in_regions:
            if region.start <= start and end <= region.end:
                return region
        self.spans.append(_Span(start, end, array, nbytes))
        return None

    def reducers(self) -> dict[type, Reducer]:
        table = {**serialization._table, memoryview: self.reduce_memoryview}
        table[_Region] = lambda region: (_same, (self.share(region.memory()),))
        table[_RegionAsTensor] = lambda base: (_region_as_tensor, (base.region,))
        if (numpy := sys.modules.get("numpy")) and "numpy" in serialization._active:
            self.array_types += (numpy.ndarray,)
            table[numpy.ndarray] = self.reduce_ndarray
            table[numpy.memmap] = lambda array: self.reduce_ndarray(array.view(numpy.ndarray))
        if (torch := sys.modules.get("torch")) and "torch" in serialization._active:
            self.array_types += (torch.Tensor,)
            table[torch.Tensor] = table[torch.nn.Parameter] = self.reduce_tensor
        if array := sys.modules.get("array"):
            table[array.array] = self.reduce_memoryview
        return {**table, **serialization._custom}

    def look_at(self, obj: Any, table: dict[type, Reducer]) -> int | None:
        """The persistent id of a bytearray: the C pickler asks no reducer about one, but it does ask this."""
        if type(obj) is bytearray:
            return self.bytearrays.setdefault(id(obj), (len(self.bytearrays), obj))[0]
        if isinstance(obj, self.array_types) and type(obj) not in table:
            raise NotMutableError(f"a {serialization._type_name(obj)} cannot be shared: only plain arrays and tensors can")
        return None

    def share(self, view: memoryview) -> pickle.PickleBuffer:
        # The array may be read-only here, and pickle would make it so for everybody; hence a stand-in.
        mark = serialization._placeholder()
        self.marks[id(mark)] = mark, view
        return mark

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        if id(buffer) not in self.marks:
            return super().keep(buffer)
        self.buffers.append(self.marks[id(buffer)][1])
        return False

    def reduce_ndarray(self, array: Any) -> Reduced:
        if not serialization._is_plain_memory(array.dtype):
            raise NotMutableError(
                f"an array of dtype {array.dtype} cannot be shared: it refers to objects of this process. "
                "Use a dtype of fixed width, or put it without mutable=True"
            )
        if array.nbytes:
            address = array.__array_interface__["data"][0]
            start, end = _extent(address, array.shape, array.strides, array.itemsize)
            if region := self.region_of(start, end, array, array.nbytes):
                return type(array), (array.shape, array.dtype, region, address - region.start, array.strides)
        array = array if array.flags.forc else array.copy()
        return serialization._rebuilt_ndarray(array, self.share(pickle.PickleBuffer(serialization._flat(array)).raw()))

    def reduce_tensor(self, tensor: Any) -> Reduced:
        data = serialization._tensor_bytes(tensor)
        if data is None:
            where = f"a {tensor.layout} tensor on {tensor.device}"
            raise NotMutableError(f"{where} cannot be shared: it must be dense, on the CPU and without hooks")
        function, (_, *kind) = serialization._rebuilt_tensor(tensor, None)
        if data.nbytes and not tensor.is_conj() and not tensor.is_neg():
            size = tensor.element_size()
            start, end = _extent(tensor.data_ptr(), tensor.shape, [step * size for step in tensor.stride()], size)
            region = self.region_of(start, end, tensor, data.nbytes)
            if region and (start - region.start) % size == 0:
                place = (start - region.start) // size, tuple(tensor.stride())
                return _rebuild_tensor_in, (region.tensor, place, *kind)
        return function, (self.share(memoryview(data)), *kind)

    def reduce_memoryview(self, source: Any) -> Reduced:  # also an array.array
        view = memoryview(source)
        flat = view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
        return serialization._rebuild_memoryview, (self.share(flat), view.format, view.shape)


def _extent(address: int, shape: Sequence[int], strides: Sequence[int], itemsize: int) -> tuple[int, int]:
    """The first byte of an array that is not empty, and the one behind its last."""
    steps = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
    return address + sum(step for step in steps if step < 0), address + sum(step for step in steps if step > 0) + itemsize


def _same(buffer: Any) -> Any:
    return buffer


def _region_as_tensor(region: Any) -> Any:
    import torch

    return serialization._rebuild_tensor(region, torch.uint8, (memoryview(region).nbytes,), False, False, {})


def _rebuild_tensor_in(base: Any, place: tuple[int, Any], dtype: Any, shape: Any, *rest: Any) -> Any:
    tensor = base.new_empty(0, dtype=dtype).set_(base.untyped_storage(), place[0], shape, place[1])
    return serialization._dressed_tensor(tensor, *rest)


class _BytearrayUnpickler(pickle.Unpickler):
    views: Sequence[memoryview]

    def persistent_load(self, index: int) -> memoryview:
        return self.views[index]


def _load_with_bytearrays(meta: bytes, shared: list[Any], buffers: list[Any]) -> Any:
    unpickler = _BytearrayUnpickler(io.BytesIO(meta), buffers=buffers)
    unpickler.views = [memoryview(view) for view in shared]
    return unpickler.load()


# -- get(ref, private=True) and the drafts of a Versioned ---------------------------------------------------


class _MakesWritable(type):
    def __call__(cls, shape: Any, dtype: Any = float, buffer: Any = None, *rest: Any) -> Any:
        import numpy

        if type(buffer) is bytes:  # a small array, whose data lies in the pickle itself
            buffer = bytearray(buffer)
        elif type(buffer) is memoryview:  # from a read-only array; what is behind the view may be written
            buffer = buffer.obj
        return numpy.ndarray(shape, dtype, buffer, *rest)

    def __getattr__(cls, name: str) -> Any:
        import numpy

        return getattr(numpy.ndarray, name)


class _WritableArray(metaclass=_MakesWritable):
    """In the place of `numpy.ndarray` while a pickle is read: the arrays it makes can be written."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "numpy" and name == "ndarray":
            return _WritableArray
        return super().find_class(module, name)


def deserialize_private(meta: Any, buffers: Sequence[Any]) -> Any:
    """`serialization.deserialize` over writable buffers: every NumPy array can be written, small ones too."""
    if "numpy" not in sys.modules:
        import numpy  # noqa: F401
    return _Unpickler(io.BytesIO(meta), buffers=buffers).load()
