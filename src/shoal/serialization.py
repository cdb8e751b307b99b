"""The one place that pickles.

A value becomes `(meta, buffers)`: a protocol 5 pickle, and the large pieces of memory it refers to (array
data, Arrow buffers), which are left out of the pickle so that they are copied once, straight into the arena.
`deserialize` puts views of the arena in their place; nothing large is copied on the way out.

Two picklers are tried. The C pickler takes about half a microsecond and handles what can be imported by name.
When it fails, or its output names `__main__` (a worker's `__main__` is another module) or a module registered
with `cloudpickle.register_pickle_by_value`, the value is pickled again, by cloudpickle. So a `__reduce__` may
run twice in one `serialize`. Libraries are not imported here: their reducers become active once somebody else
has imported them.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import reprlib
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

from shoal._code import CodeReducer
from shoal.exceptions import PicklingError, ShoalError

PROTOCOL = 5
INBAND_LIMIT = 1024
"""Buffers of fewer bytes stay inside the pickle: copying them is cheaper than accounting for them."""

_FINAL = (ShoalError, MemoryError)  # errors that another pickler would not cure
_KEEP_PICKLER = 64 * 1024  # a pickler that wrote more has grown tables that make every later call slower

Reduced = tuple[Any, ...]
Reducer = Callable[[Any], Reduced | str]
Buffers = list[memoryview]

# --- the reducers in force ----------------------------------------------------------------------------------

_custom: dict[type, Reducer] = {}  # register_serializer
_library: dict[type, Reducer] = {}  # ours, for the libraries imported so far
_table: dict[type, Reducer] = {}  # copyreg's, overlaid with both; picklers hold it, so it changes in place

_modules_seen = -1
_copyreg_seen: dict[Any, Any] = {}
_active: set[str] = set()
_by_value_modules: Callable[[], set[str]] | None = None


def _keep_current() -> None:
    """Bring `_table` up to date with the imported libraries and with copyreg."""
    # If a module went as another came, a new library is noticed late; till then its own pickling is used.
    if len(sys.modules) != _modules_seen or copyreg.dispatch_table != _copyreg_seen:
        _refresh()


def _refresh() -> None:
    global _modules_seen, _copyreg_seen, _by_value_modules
    seen = len(sys.modules)
    for name, activate in _LIBRARIES.items():
        module = sys.modules.get(name)
        if module is None or name in _active:
            continue
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            seen = -1  # another thread is importing it: look again next time
            continue
        try:
            _library.update(activate(module))
        except AttributeError:  # a stub, or something else that merely has this name
            continue
        _active.add(name)
    if "cloudpickle" in _active:
        _by_value_modules = sys.modules["cloudpickle"].list_registry_pickle_by_value
    _copyreg_seen = dict(copyreg.dispatch_table)
    table: dict[Any, Any] = {**_copyreg_seen, **_library, **_custom}
    _table.update(table)
    for kind in _table.keys() - table.keys():
        _table.pop(kind, None)
    _modules_seen = seen


class _Call(tuple[Any, ...]):
    """Pickles as a call: (function, arguments)."""

    def __reduce__(self) -> Reduced:
        return tuple(self)


def _placeholder() -> pickle.PickleBuffer:
    """A buffer that is pickled as "the next buffer, writable", whatever is put in its place."""
    return pickle.PickleBuffer(bytearray())


def _dumps_call(function: Callable[..., Any], *arguments: Any) -> bytes:
    return pickle.dumps(_Call((function, arguments)), PROTOCOL, buffer_callback=lambda _: False)


# A pickler would copy the bytes into its stream first, and they may be gigabytes.
_WHOLE = {kind: _dumps_call(kind, _placeholder()) for kind in (bytes, bytearray)}


class _Collector:
    """Where a pickler writes: the stream for what is in-band, the list for what is not."""

    def __init__(self, limit: int = INBAND_LIMIT) -> None:
        self.stream = io.BytesIO()
        self.buffers: Buffers = []
        self.limit = limit

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """The pickler's buffer_callback: True leaves the buffer in-band."""
        view = buffer.raw()
        if view.nbytes < self.limit:
            return True
        self.buffers.append(view)
        return False


class _PlainPickler(pickle.Pickler):
    """The C pickler, kept for reuse: making one takes longer than pickling a small value with it."""

    dispatch_table = _table

    def __init__(self) -> None:
        self.out = _Collector()
        super().__init__(self.out.stream, PROTOCOL, buffer_callback=self.out.keep)


_idle: list[_PlainPickler] = []  # taken by pop() and given back by append(), so that calls may nest and race


@functools.cache
def _pickler_type(by_value: bool, mutable: bool = False) -> Any:
    """A pickler class with a table of its own; `mutable` adds a hook that sees every object first."""
    base: Any = pickle.Pickler
    if by_value:
        import cloudpickle

        base = cloudpickle.Pickler

    class TablePickler(base):  # type: ignore[misc]
        def __init__(self, out: Any, table: dict[type, Reducer]) -> None:
            self.out = out
            self.dispatch_table = table
            super().__init__(out.stream, PROTOCOL, buffer_callback=out.keep)

    class MutablePickler(TablePickler):
        def persistent_id(self, obj: Any) -> int | None:
            return self.out.look_at(obj, self.dispatch_table)  # type: ignore[no-any-return]

    return MutablePickler if mutable else TablePickler


def _by_value_table(overlay: dict[type, Reducer]) -> dict[type, Reducer]:
    import cloudpickle

    # Flattened: cloudpickle's own is a ChainMap, whose look-ups run in Python for every object.
    table = cloudpickle.Pickler.dispatch_table
    return {**table, types.CodeType: CodeReducer(table[types.CodeType]), **overlay}


def _must_go_by_value(meta: bytes) -> bool:
    # A false alarm (a string that says so) costs only time. A submodule's name contains that of its package.
    if b"__main__" in meta:
        return True
    return _by_value_modules is not None and any(name.encode() in meta for name in _by_value_modules())


# --- serialize ----------------------------------------------------------------------------------------------


def serialize(value: Any, name: str = "value") -> tuple[bytes, Buffers]:
    """Pickle `value` into `(meta, buffers)`; the buffers are contiguous views of the value's own memory.

    Copy the buffers before the value changes. `name` is what error messages call the value. Raises
    `shoal.exceptions.PicklingError`, which names the part of the value that cannot be pickled.
    """
    if type(value) in _WHOLE and len(value) >= INBAND_LIMIT:
        return _WHOLE[type(value)], [memoryview(value)]
    _keep_current()
    try:
        pickler = _idle.pop()
    except IndexError:
        pickler = _PlainPickler()
    try:
        pickler.dump(value)
    except _FINAL:
        raise
    except Exception:  # anything may come out of a user's __reduce__; cloudpickle has the last word
        pass
    else:
        out = pickler.out
        meta = out.stream.getvalue()
        buffers, out.buffers = out.buffers, []
        pickler.clear_memo()
        if len(meta) <= _KEEP_PICKLER:
            out.stream.seek(0)
            out.stream.truncate()
            _idle.append(pickler)
        if not _must_go_by_value(meta):
            return meta, buffers
    by_value = _Collector()
    try:
        _pickler_type(True)(by_value, _by_value_table({**_library, **_custom})).dump(value)
    except Exception as error:
        _fail(value, name, error)
    return by_value.stream.getvalue(), by_value.buffers


def deserialize(meta: bytes | memoryview, buffers: Sequence[Any] = ()) -> Any:
    """The value back from `meta`; its large parts are views of `buffers`, as writable as the buffers are."""
    # But torch has no read-only tensors: writing to one over a read-only mapping ends the process.
    return pickle.loads(meta, buffers=buffers) if buffers else pickle.loads(meta)


def dumps_by_value(obj: Any) -> bytes:
    """Pickle a function or class; by value unless it can be imported by its name."""
    # Without the library reducers: an array that a function carries along stays writable where it runs.
    out = _Collector(limit=sys.maxsize)
    try:
        _pickler_type(True)(out, _by_value_table(_custom)).dump(obj)
    except Exception as error:
        _fail(obj, getattr(obj, "__qualname__", _type_name(obj)), error)
    return out.stream.getvalue()


# --- reducers ---------------------------------------------------------------------------------------------


def _reduce_memoryview(view: memoryview) -> Reduced:
    data: Any
    if view.nbytes < INBAND_LIMIT or not view.c_contiguous:
        data = view.tobytes()
    else:
        # Until Python 3.12 the garbage collector crashes on a memoryview that a PickleBuffer exports, and the
        # traceback of an error may make it garbage. It does not look into an array.
        import numpy

        array: Any = numpy.frombuffer(view, numpy.uint8)
        data = pickle.PickleBuffer(array)
    return _rebuild_memoryview, (data, view.format, view.shape)


def _rebuild_memoryview(buffer: Any, format: Any, shape: tuple[int, ...]) -> memoryview:
    flat = memoryview(buffer).cast("B")
    return flat.cast(format, shape) if flat.nbytes else flat.cast(format)  # a shape with a 0 is refused


_library[memoryview] = _reduce_memoryview

_dtype_codes: dict[int, str] = {}  # by the id of NumPy's own dtypes: pickling a dtype would double the time


def _activate_numpy(numpy: Any) -> dict[type, Reducer]:
    for char in "?bBhHiIlLqQefdgFDG":
        dtype = numpy.dtype(char)
        if numpy.dtype(dtype.str) is dtype:
            _dtype_codes[id(dtype)] = dtype.str
    view = numpy.ndarray.view
    return {
        numpy.ndarray: _reduce_ndarray,
        # NumPy would copy a subclass. A memmap has no file where it arrives, so it becomes an array.
        numpy.memmap: lambda array: _reduce_ndarray(view(array, numpy.ndarray)),
        numpy.recarray: lambda array: (view, (view(array, numpy.ndarray), numpy.recarray)),
        numpy.matrix: lambda array: (view, (view(array, numpy.ndarray), numpy.matrix)),
    }


def _is_plain_memory(dtype: Any) -> bool:
    """Whether an element is nothing but its bytes (no Python object, no variable-length string)."""
    return id(dtype) in _dtype_codes or (dtype.kind in "biufcmMSUV" and not dtype.hasobject and dtype.itemsize > 0)


def _reduce_ndarray(array: Any) -> Reduced | str:
    if not _is_plain_memory(array.dtype):
        return array.__reduce_ex__(PROTOCOL)  # type: ignore[no-any-return]
    if array.nbytes < INBAND_LIMIT:
        # bytes and not a bytearray: a small array comes back read-only, as a large one does.
        return _rebuilt_ndarray(array, array.tobytes("A"))
    if not array.flags.forc:
        array = array.copy()
    return _rebuilt_ndarray(array, pickle.PickleBuffer(_flat(array)))


def _rebuilt_ndarray(array: Any, data: Any) -> Reduced:
    dtype = _dtype_codes.get(id(array.dtype), array.dtype)
    if array.flags.fnc:
        return type(array), (array.shape, dtype, data, 0, None, "F")
    return type(array), (array.shape, dtype, data)


def _flat(array: Any) -> Any:
    """What exports the memory of a contiguous array: itself, unless it refuses to, as a datetime does."""
    if id(array.dtype) in _dtype_codes:
        return array
    return (array if array.flags.c_contiguous else array.T).reshape(-1).view("u1")


_torch_warned = False


def _tensor_bytes(tensor: Any) -> Any:
    """The memory of a dense CPU tensor, as uint8 because NumPy has no bfloat16; None for other tensors."""
    torch: Any = sys.modules["torch"]
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not dense or tensor._backward_hooks:
        return None
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy()


def _reduce_tensor(tensor: Any) -> Reduced | str:
    data = _tensor_bytes(tensor)
    if data is None:
        return tensor.__reduce_ex__(PROTOCOL)  # type: ignore[no-any-return]
    # torch has no read-only tensors, so a small one gets memory of its own, which may be written.
    in_band = data.nbytes < INBAND_LIMIT
    return _rebuilt_tensor(tensor, bytearray(data) if in_band else pickle.PickleBuffer(data))


def _rebuilt_tensor(tensor: Any, data: Any) -> Reduced:
    torch: Any = sys.modules["torch"]
    kind = (tensor.dtype, tuple(tensor.shape), tensor.requires_grad, type(tensor) is torch.nn.Parameter)
    return _rebuild_tensor, (data, *kind, tensor.__dict__)


def _rebuild_tensor(data: Any, dtype: Any, shape: tuple[int, ...], requires_grad: bool, is_parameter: bool, attributes: Any) -> Any:
    global _torch_warned
    import torch

    if not _torch_warned:  # torch says once in a process that memory is not writable: have that over with
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.frombuffer(b"0", dtype=torch.uint8)
        _torch_warned = True
    full = memoryview(data).nbytes > 0
    tensor = torch.frombuffer(data, dtype=dtype).view(shape) if full else torch.empty(shape, dtype=dtype)
    return _dressed_tensor(tensor, requires_grad, is_parameter, attributes)


def _dressed_tensor(tensor: Any, requires_grad: bool, is_parameter: bool, attributes: Any) -> Any:
    if is_parameter:
        tensor = sys.modules["torch"].nn.Parameter(tensor, requires_grad=requires_grad)
    elif requires_grad:
        tensor.requires_grad_()
    tensor.__dict__.update(attributes)
    return tensor


def _activate_pyarrow(pyarrow: Any) -> dict[type, Reducer]:
    kinds = (kind for kind in vars(pyarrow.lib).values() if isinstance(kind, type))
    return {kind: _reduce_arrow for kind in kinds if issubclass(kind, pyarrow.Array)}


def _reduce_arrow(array: Any) -> Reduced | str:
    """Arrow pickles the buffers of an array whole, also when the array is a slice of ten rows of them."""
    try:
        if array.get_total_buffer_size() > 2 * array.nbytes + 4 * INBAND_LIMIT:
            array = sys.modules["pyarrow"].concat_arrays([array])
    except Exception:  # not every type knows its size or can be copied: then as it is
        pass
    return array.__reduce_ex__(PROTOCOL)  # type: ignore[no-any-return]


def _reduce_polars(data: Any) -> Reduced | str:
    """Polars copies everything into its pickle; through Arrow nothing is copied."""
    polars: Any = sys.modules["polars"]
    size = data.estimated_size()
    if size >= INBAND_LIMIT:
        frame = data if isinstance(data, polars.DataFrame) else data.to_frame()
        try:
            table = frame.to_arrow(compat_level=polars.CompatLevel.newest())
            # What does not survive the way through Arrow (Object: bare pointers) must not take it.
            same = polars.from_arrow(table.slice(0, 0)).schema == frame.schema
            if same and table.get_total_buffer_size() <= 2 * size + 4 * INBAND_LIMIT:  # no slice of far more
                return _rebuild_polars, (table, frame is not data)
        except (Exception, polars.exceptions.PanicException):  # no pyarrow, or a type that Arrow has not
            pass
    return data.__reduce_ex__(PROTOCOL)  # type: ignore[no-any-return]


def _rebuild_polars(table: Any, is_series: bool) -> Any:
    import polars

    frame: Any = polars.from_arrow(table, rechunk=False)
    return frame.to_series(0) if is_series else frame


_LIBRARIES: dict[str, Callable[[Any], dict[type, Reducer]]] = {
    "numpy": _activate_numpy,
    "torch": lambda torch: dict.fromkeys((torch.Tensor, torch.nn.Parameter), _reduce_tensor),
    "pyarrow": _activate_pyarrow,
    "polars": lambda polars: dict.fromkeys((polars.DataFrame, polars.Series), _reduce_polars),
    "cloudpickle": lambda _: {},
}


def register_serializer(cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """Pickle instances of exactly `cls` as `serializer(instance)`, and rebuild them with `deserializer`.

    It holds for this process; the deserializer travels with the objects. Registering again replaces.
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_serializer expects a class, not {cls!r}")
    code = dumps_by_value(deserializer)
    _custom[cls] = lambda instance: (_rebuild_custom, (code, serializer(instance)))
    _refresh()


def deregister_serializer(cls: type) -> None:
    """Undo `register_serializer`; nothing happens for a class that has none."""
    _custom.pop(cls, None)
    _refresh()


_load_code = functools.lru_cache(maxsize=256)(pickle.loads)


def _rebuild_custom(code: bytes, state: Any) -> Any:
    return _load_code(code)(state)


# --- what cannot be pickled, and where it is ----------------------------------------------------------------

Part = tuple[str, str, Any]  # what to append to the path, the part's own name, the part
_HARMLESS = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})


class FailureTuple:
    """An object that cannot be pickled, though all that is in it can, or was not looked at any more."""

    def __init__(self, obj: Any, name: str, parent: Any, path: str = "") -> None:
        self.obj = obj
        self.name = name
        self.parent = parent
        self.path = path or name

    def __repr__(self) -> str:
        return f"FailureTuple({self.name} [obj={reprlib.repr(self.obj)}, parent={reprlib.repr(self.parent)}])"

    def __str__(self) -> str:
        what = _type_name(self.obj)
        return f"{self.path} ({'an' if what[0].lower() in 'aeiou' else 'a'} {what})"


def _failures(value: Any, name: str, depth: int) -> list[FailureTuple]:
    _keep_current()
    pickler, table = _pickler_type(True), _by_value_table({**_library, **_custom})
    deadline = time.monotonic() + 2.0
    found: list[FailureTuple] = []
    seen: dict[int, Any] = {}  # holds on to the objects, so that no id is used twice

    def fails(obj: Any, name: str, parent: Any, path: str, depth: int) -> bool:
        if type(obj) in _HARMLESS or len(seen) >= 2000 or time.monotonic() > deadline:
            return False
        if id(obj) in seen:
            return any(failure.obj is obj for failure in found)
        seen[id(obj)] = obj
        try:
            pickler(_Collector(), table).dump(obj)
            return False
        except Exception:
            parts = _parts(obj) if depth > 0 else ()
        # A list: all the parts are to be looked at, not only up to the first that fails.
        if not any([fails(part, name, obj, path + suffix, depth - 1) for suffix, name, part in parts]):
            found.append(FailureTuple(obj, name, parent, path))
        return True

    fails(value, name, None, name, depth)
    result = found.copy()
    found.clear()  # `fails` refers to itself, so what it refers to lives until the collector comes round
    seen.clear()
    return result


def _parts(obj: Any) -> Iterator[Part]:
    """What pickling `obj` would pickle next."""
    if isinstance(obj, types.FunctionType):
        yield from _function_parts(obj)
    elif isinstance(obj, types.MethodType):
        yield ".__self__", "__self__", obj.__self__
    elif isinstance(obj, type):
        own = (types.GetSetDescriptorType, types.MemberDescriptorType)  # of every class, and never pickled
        yield from _attributes({key: part for key, part in vars(obj).items() if not isinstance(part, own)})
    elif type(obj) is dict:
        for key, part in tuple(obj.items()):
            yield f".<key {reprlib.repr(key)}>", reprlib.repr(key), key
            yield f"[{reprlib.repr(key)}]", str(key), part
    elif type(obj) in (list, tuple, set, frozenset):
        yield from ((f"[{index}]", f"[{index}]", part) for index, part in enumerate(tuple(obj)))
    else:
        yield from _instance_parts(obj)


def _attributes(values: Any) -> Iterator[Part]:
    yield from ((f".{name}", str(name), part) for name, part in tuple(values.items()))


def _function_parts(function: types.FunctionType) -> Iterator[Part]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".<closure {name}>", name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    codes, used = [function.__code__], set[str]()
    for code in codes:  # which grows meanwhile
        used.update(code.co_names)
        codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    for name in sorted(used & function.__globals__.keys()):
        yield f".<global {name}>", name, function.__globals__[name]
    yield from _attributes({"__defaults__": function.__defaults__, "__kwdefaults__": function.__kwdefaults__})
    yield from _attributes(vars(function))


def _instance_parts(obj: Any) -> Iterator[Part]:
    try:
        # Pickle's own view: __getstate__ may leave out the very attribute that could not be pickled.
        reduced = obj.__reduce_ex__(PROTOCOL)
    except Exception:
        slots: list[Any] = [vars(kind).get("__slots__", ()) for kind in type(obj).__mro__]
        names = [name for slot in slots for name in ((slot,) if isinstance(slot, str) else slot)]
        state = {name: getattr(obj, name) for name in names if hasattr(obj, name)}
        reduced = None, (), (state, getattr(obj, "__dict__", {}))
    if isinstance(reduced, str):
        return
    constructor, arguments, state, items, pairs = (*reduced, None, None, None, None)[:5]
    for part in state if isinstance(state, tuple) else (state,):  # (__dict__, slots), if there are slots
        yield from _attributes(part) if isinstance(part, dict) else iter([(".<state>", "state", part)])
    yield ".<constructor>", "constructor", constructor
    yield from ((f".<argument {index}>", "argument", part) for index, part in enumerate(arguments or ()))
    yield from ((f"[{index}]", f"[{index}]", part) for index, part in enumerate(items or ()))
    yield from ((f"[{reprlib.repr(key)}]", str(key), part) for key, part in pairs or ())


def _type_name(obj: Any) -> str:
    kind = type(obj)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def find_unpicklable(value: Any, name: str = "value") -> list[str]:
    """Where in `value` pickling fails: `["value['model'].lock (a _thread.lock)"]`; empty if it does not.

    Looks into containers, instances, closures and the globals of functions, eight levels deep and for two
    seconds at most; what was reached by then is named.
    """
    return [str(failure) for failure in _failures(value, name, depth=8)]


def _fail(value: Any, name: str, error: Exception) -> NoReturn:
    if isinstance(error, _FINAL):
        raise error
    raise _explained(value, name, error) from error


# A function of its own: an exception in a variable of the frame that raises it is a cycle, with the value in it.
def _explained(value: Any, name: str, error: Exception) -> PicklingError:
    try:
        failures = _failures(value, name, depth=8)
    except Exception:  # the search is a courtesy; the error itself must get through
        failures = []
    first, *others = failures or [FailureTuple(value, name, None)]
    also = f", nor {', '.join(map(str, others[:3]))}" if others else ""
    advice = "Make it in the task or actor that uses it, or teach Shoal how to pickle it with shoal.util.register_serializer."
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        advice = "It is nested too deeply: raise sys.setrecursionlimit() where it is pickled and where it is used, or flatten it."
    explained = PicklingError(f"cannot pickle {first}{also}: {type(error).__name__}: {error}. {advice}")
    explained.path, explained.type_name = first.path, _type_name(first.obj)
    return explained


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Whether `base_obj` can be pickled, and what in it, `depth` levels down, cannot; prints a report too."""
    name = name or str(getattr(base_obj, "__qualname__", _type_name(base_obj)))
    failures = _failures(base_obj, name, depth)
    print(f"{name} ({_type_name(base_obj)}) {'cannot' if failures else 'can'} be pickled", file=print_file)
    for failure in failures:
        print(f"    because of {failure}", file=print_file)
    return not failures, set(failures)
