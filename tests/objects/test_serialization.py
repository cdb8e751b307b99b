"""shoal.serialization: what comes back, whether it is a view, and what the errors say.

The arena is played by one block of memory, into which the buffers are copied as a put would; "is a view"
always means that an address lies in it.
"""

import array
import collections
import contextlib
import copyreg
import dataclasses
import enum
import functools
import gc
import importlib
import io
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref

import cloudpickle
import numpy as np
import pytest

from shoal import serialization
from shoal.exceptions import NotMutableError, PicklingError, ShoalError
from shoal.mutable_values import serialize_mutable
from shoal.serialization import (
    INBAND_LIMIT,
    deregister_serializer,
    deserialize,
    dumps_by_value,
    find_unpicklable,
    inspect_serializability,
    register_serializer,
    serialize,
)

SOURCE = os.path.dirname(os.path.abspath(serialization.__file__))


class Arena:
    def __init__(self, buffers, writable):
        sizes = [memoryview(buffer).nbytes for buffer in buffers]
        starts = np.cumsum([0] + [-(-size // 64) * 64 for size in sizes])
        memory = np.zeros(int(starts[-1]) + 64, np.uint8)
        memory = memory[-memory.ctypes.data % 64 :]
        self.start, self.end = memory.ctypes.data, memory.ctypes.data + int(starts[-1])
        self.views = []
        for buffer, start, size in zip(buffers, starts, sizes):  # noqa: B905
            memory[start : start + size] = np.frombuffer(buffer, np.uint8) if size else ()
            view = memoryview(memory[start : start + size])
            self.views.append(view if writable else view.toreadonly())

    def holds(self, array):
        address, _ = array.__array_interface__["data"]
        return self.start <= address and address + array.nbytes <= self.end

    def holds_arrow(self, array):
        buffers = [buffer for buffer in array.buffers() if buffer is not None and buffer.size >= INBAND_LIMIT]
        assert buffers
        return all(self.start <= buffer.address < self.end for buffer in buffers)

    def holds_tensor(self, tensor):
        return self.start <= tensor.data_ptr() < self.end


def round_trip(value):
    meta, buffers = serialize(value)
    arena = Arena(buffers, writable=False)
    return deserialize(meta, arena.views), arena


def round_trip_mutable(value):
    meta, buffers = serialize_mutable(value)
    arena = Arena(buffers, writable=True)
    return deserialize(meta, arena.views), deserialize(meta, arena.views), arena


def run_program(tmp_path, program, *arguments):
    """Run a program as __main__; `shoal` is there without its __init__, which needs the native core."""
    start = f"""
        import sys, types
        shoal = types.ModuleType("shoal")
        shoal.__path__ = [{SOURCE!r}]
        sys.modules["shoal"] = shoal
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(start) + textwrap.dedent(program))
    command = [sys.executable, str(path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- plain values -------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Sample:
    data: object
    label: str = "a"


class Slotted:
    __slots__ = ("data", "other")

    def __init__(self, data, other=None):
        self.data = data
        self.other = other


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        2**200,
        1.5,
        3j,
        "text",
        "ä" * 5000,
        b"bytes",
        b"b" * 5000,
        bytearray(b"c" * 10),
        bytearray(b"c" * 5000),
        (1, [2, {"a": {3, 4}}], frozenset({5})),
        Colour.RED,
        Point(1, 2),
        Sample([1], "b"),
        collections.OrderedDict(a=1),
        collections.deque([1, 2]),
        range(3),
        ValueError("x", 1).args,
        np.float64(2.5),
        np.dtype("f4"),
        int,
        len,
        os.path.join,
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:12]}",
)
def test_plain_values_come_back_equal_and_of_the_same_type(value):
    result, _ = round_trip(value)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_large_byte_string_is_not_copied_into_the_pickle(kind):
    value = kind(b"x" * 100_000)
    meta, buffers = serialize(value)
    assert len(meta) < 100
    assert [buffer.nbytes for buffer in buffers] == [100_000]
    result, _ = round_trip(value)
    assert type(result) is kind and result == value


def test_identity_and_cycles_within_a_value_are_kept():
    shared = np.arange(1000)
    loop = [shared, shared]
    loop.append(loop)
    meta, buffers = serialize(loop)
    assert len(buffers) == 1
    result, _ = round_trip(loop)
    assert result[0] is result[1] and result[2] is result


def test_the_buffers_are_raw_views_of_the_values_own_memory():
    value = np.arange(6000.0).reshape(60, 100)
    _, (buffer,) = serialize({"a": value})
    assert buffer.format == "B" and buffer.ndim == 1 and buffer.nbytes == value.nbytes
    value[0, 0] = 42
    assert np.frombuffer(buffer)[0] == 42


def test_meta_may_be_a_memoryview_and_buffers_any_exporter():
    meta, buffers = serialize(np.arange(1000))
    result = deserialize(memoryview(meta), [bytes(buffer) for buffer in buffers])
    assert result[-1] == 999 and not result.flags.writeable


# --- NumPy --------------------------------------------------------------------------------------------------

record = np.dtype([("id", "i4"), ("when", "M8[s]"), ("xyz", "f8", (3,)), ("name", "U5")], align=True)
padded = np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [0, 16], "itemsize": 32})

ARRAYS = {
    "c order": np.arange(6000.0).reshape(20, 30, 10),
    "fortran order": np.asfortranarray(np.arange(6000).reshape(20, 300)),
    "transposed": np.arange(6000.0).reshape(20, 300).T,
    "not contiguous": np.arange(12000.0)[::2],
    "not contiguous 2d": np.arange(60000).reshape(200, 300)[5:150, 7:100],
    "axes swapped": np.arange(6000).reshape(10, 20, 30).swapaxes(0, 1),
    "negative strides": np.arange(6000)[::-1],
    "broadcast": np.broadcast_to(np.arange(3.0), (1000, 3)),
    "big endian": np.arange(6000, dtype=">i4"),
    "bool": np.arange(6000) % 3 == 0,
    "half": np.arange(6000, dtype="f2"),
    "long double": np.arange(6000, dtype="g"),
    "complex": np.arange(6000) * 1j,
    "longlong": np.arange(6000, dtype="q"),
    "bytes": np.array([b"ab", b"cdefg"] * 1000),
    "text": np.array(["ab", "cdefg"] * 1000),
    "void": np.zeros(1000, "V7"),
    "datetime": np.arange(6000).astype("M8[us]"),
    "datetime fortran": np.asfortranarray(np.arange(6000).reshape(20, 300).astype("M8[ns]")),
    "timedelta not contiguous": np.arange(6000).astype("m8[D]")[::3],
    "structured": np.zeros(1000, record),
    "padded": np.zeros(1000, padded),
    "structured fortran": np.asfortranarray(np.zeros((10, 20), record)),
    "field of a structured": np.zeros(1000, record)["xyz"],
    "read-only": np.frombuffer(bytes(8000)),
}


def same(result, expected):
    assert type(result) is np.ndarray
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)
    fortran = expected.flags.f_contiguous and not expected.flags.c_contiguous
    assert result.flags.f_contiguous if fortran else result.flags.c_contiguous


@pytest.mark.parametrize("name", ARRAYS)
def test_large_arrays_are_read_only_views(name):
    value = ARRAYS[name]
    meta, buffers = serialize([value])
    assert sum(buffer.nbytes for buffer in buffers) == value.nbytes
    assert len(meta) < 600
    (result,), arena = round_trip([value])
    same(result, value)
    assert arena.holds(result)
    assert not result.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        result[...] = value


@pytest.mark.parametrize(
    "value",
    [
        np.arange(10.0),
        np.array(3.0),
        np.array(np.datetime64("2020-01-01")),
        np.zeros((0, 3)),
        np.zeros((2, 0), "M8[s]"),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(20)[::2],
        np.zeros(3, record),
        np.array(["a", "bc"]),
        np.zeros(3, "S0"),
    ],
    ids=repr,
)
def test_small_arrays_stay_in_the_pickle_and_are_read_only_too(value):
    _, buffers = serialize(value)
    assert not buffers
    result, _ = round_trip(value)
    same(result, value)
    if value.size:
        assert not result.flags.writeable


def test_the_limit_between_small_and_large():
    assert serialize(np.zeros(INBAND_LIMIT - 1, np.uint8))[1] == []
    assert len(serialize(np.zeros(INBAND_LIMIT, np.uint8))[1]) == 1


def test_arrays_of_objects_are_pickled_by_value():
    value = np.array([1, "a", None, [2]] * 1000, dtype=object)
    result, _ = round_trip(value)
    assert result.dtype == object and result.tolist() == value.tolist()


@pytest.mark.skipif(not hasattr(np, "dtypes") or not hasattr(np.dtypes, "StringDType"), reason="NumPy < 2")
def test_variable_length_strings():
    value = np.array(["a", "b" * 100] * 1000, dtype=np.dtypes.StringDType())
    result, _ = round_trip(value)
    assert result.dtype == value.dtype and (result == value).all()
    with pytest.raises(NotMutableError, match="StringDType"):
        serialize_mutable(value)


def test_dtype_metadata_survives():
    dtype = np.dtype("f8", metadata={"unit": "m"})
    with pytest.warns(UserWarning, match="metadata") if _metadata_is_dropped(dtype) else contextlib.nullcontext():
        result, _ = round_trip(np.zeros(1000, dtype))
    assert result.dtype == dtype


def _metadata_is_dropped(dtype):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pickle.dumps(dtype)
    return bool(caught)


def test_a_memmap_becomes_a_view(tmp_path):
    value = np.memmap(tmp_path / "data", dtype="f4", mode="w+", shape=(100, 10))
    value[:] = 3
    result, arena = round_trip(value)
    same(result, np.asarray(value))
    assert arena.holds(result)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_subclasses_of_ndarray_keep_their_class():
    matrix, arena = round_trip(np.matrix(np.arange(1000).reshape(10, 100)))
    assert type(matrix) is np.matrix and matrix[3, 4] == 304 and arena.holds(matrix)
    value = np.rec.array([(1, 2.0)] * 1000, dtype=[("a", "i4"), ("b", "f8")])
    result, arena = round_trip(value)
    assert type(result) is np.recarray and result.b[999] == 2.0 and arena.holds(result)
    masked = np.ma.array(np.arange(1000), mask=np.arange(1000) % 2)
    result, _ = round_trip(masked)
    assert type(result) is np.ma.MaskedArray and result.sum() == masked.sum()


def test_memoryviews():
    value = memoryview(np.arange(1000.0).reshape(10, 100))
    result, arena = round_trip(value)
    assert result == value and result.readonly
    assert arena.holds(np.asarray(result))
    for small in (memoryview(b"abc"), memoryview(b""), memoryview(array.array("i", [1, 2, 3]))[::2]):
        result, _ = round_trip(small)
        assert result.tolist() == small.tolist() and result.format == small.format


def test_foreign_buffers():
    fortran = pickle.PickleBuffer(np.asfortranarray(np.arange(2000).reshape(20, 100)))
    result, arena = round_trip(fortran)
    assert arena.holds(np.frombuffer(result, np.uint8)) and bytes(result) == fortran.raw().tobytes()
    with pytest.raises(PicklingError, match="contiguous"):
        serialize(pickle.PickleBuffer(np.arange(2000)[::-1]))


# --- Arrow, pandas, Polars ----------------------------------------------------------------------------------


def arrow_leaves(table):
    for column in table.columns:
        for chunk in getattr(column, "chunks", [column]):
            if chunk.nbytes >= INBAND_LIMIT:
                yield chunk


def make_table(pa, rows=2000):
    return pa.table(
        {
            "i": np.arange(rows),
            "f": pa.array([None, 0.5] * (rows // 2)),
            "s": [str(row) * 3 for row in range(rows)],
            "l": [[row, row] for row in range(rows)],
            "d": pa.array(["x", "y"] * (rows // 2)).dictionary_encode(),
            "t": pa.array(np.arange(rows).astype("M8[us]")),
            "st": [{"a": row} for row in range(rows)],
            "b": [row % 2 == 0 for row in range(rows)],
            "dec": pa.array([1, 2] * (rows // 2)).cast(pa.decimal128(30, 2)),
        }
    )


def test_arrow_tables_batches_and_arrays_are_views():
    pa = pytest.importorskip("pyarrow")
    table = pa.concat_tables([make_table(pa), make_table(pa)])
    result, arena = round_trip({"table": table})
    assert result["table"].equals(table) and result["table"].schema == table.schema
    assert all(arena.holds_arrow(chunk) for chunk in arrow_leaves(result["table"]))
    batch = make_table(pa).to_batches()[0]
    result, arena = round_trip(batch)
    assert result.equals(batch)
    assert all(arena.holds_arrow(column) for column in arrow_leaves(result))
    for name in ("i", "s", "l", "d"):
        column = table.column(name)
        result, arena = round_trip(column)
        assert result.equals(column) and all(arena.holds_arrow(chunk) for chunk in result.chunks)
        result, arena = round_trip(column.chunk(0))
        assert result.equals(column.chunk(0)) and arena.holds_arrow(result)


def test_a_slice_of_an_arrow_table_does_not_drag_the_table_along():
    pa = pytest.importorskip("pyarrow")
    table = make_table(pa, 100_000).slice(70_001, 13)
    meta, buffers = serialize(table)
    assert len(meta) + sum(buffer.nbytes for buffer in buffers) < 30_000
    result, _ = round_trip(table)
    assert result.equals(table)


def make_frame(pd, rows=2000):
    frame = pd.DataFrame(
        {
            "a": np.arange(float(rows)),
            "b": np.arange(float(rows)) * 2,
            "i": np.arange(rows),
            "t": pd.date_range("2020-01-01", periods=rows),
            "tz": pd.date_range("2020-01-01", periods=rows, tz="UTC"),
            "s": [str(row) for row in range(rows)],
            "c": pd.Categorical(["x", "y"] * (rows // 2)),
            "n": pd.array([1, None] * (rows // 2), dtype="Int64"),
        },
        index=np.arange(rows) * 2,
    )
    frame["later"] = np.arange(rows) * 0.5
    return frame


def test_pandas_blocks_are_views():
    pd = pytest.importorskip("pandas")
    frame = make_frame(pd)
    for value in (frame, frame[100:1900], frame.copy()):
        result, arena = round_trip(value)
        pd.testing.assert_frame_equal(result, value)
        for name in ("a", "b", "i", "later"):
            assert arena.holds(result[name].to_numpy()), name
        assert arena.holds(result["t"].to_numpy().view("i8"))
        assert arena.holds(result["c"].array.codes)
        assert arena.holds(result["n"].array._data)
        assert arena.holds(result.index.to_numpy())
        with pytest.raises(ValueError, match="read-only"):
            result["a"].to_numpy()[0] = 1
    series, arena = round_trip(frame["b"])
    pd.testing.assert_series_equal(series, frame["b"])
    assert arena.holds(series.to_numpy())
    wide = pd.DataFrame(np.arange(6000.0).reshape(1000, 6))
    result, arena = round_trip(wide)
    pd.testing.assert_frame_equal(result, wide)
    assert arena.holds(result.to_numpy())


def test_pandas_strings_in_arrow_are_views():
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    series = pd.Series([str(row) * 5 for row in range(2000)], dtype="string[pyarrow]")
    result, arena = round_trip(series)
    pd.testing.assert_series_equal(result, series)
    (chunk,) = result.array.__arrow_array__().chunks
    assert arena.holds_arrow(chunk)


def make_polars(pl, rows=2000):
    return pl.DataFrame(
        {
            "i": np.arange(rows),
            "s": [str(row) * 5 for row in range(rows)],
            "f": [None, 0.5] * (rows // 2),
            "c": pl.Series(["x", "y"] * (rows // 2), dtype=pl.Categorical),
            "e": pl.Series(["x", "y"] * (rows // 2), dtype=pl.Enum(["x", "y"])),
            "t": pl.Series(range(rows)).cast(pl.Datetime("us", "UTC")),
            "l": [[row, row] for row in range(rows)],
            "st": [{"a": row} for row in range(rows)],
        }
    )


def polars_in(arena, pl, series):
    arrow = series.to_frame().to_arrow(compat_level=pl.CompatLevel.newest()).column(0)
    return all(arena.holds_arrow(chunk) for chunk in arrow.chunks)


def test_polars_frames_and_series_are_views():
    pl = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    if not hasattr(pl, "CompatLevel"):
        pytest.skip("this Polars cannot hand out its strings without a copy")
    frame = make_polars(pl)
    for value in (frame, frame.slice(300, 1500), pl.concat([frame, frame], rechunk=False)):
        result, arena = round_trip(value)
        assert result.equals(value) and result.schema == value.schema
        for name in ("i", "s", "f", "t", "l", "st"):
            assert polars_in(arena, pl, result[name]), name
    result, arena = round_trip([frame["s"], frame["e"]])
    assert result[0].equals(frame["s"]) and result[0].name == "s"
    assert polars_in(arena, pl, result[0])
    assert result[1].dtype == frame["e"].dtype


def test_polars_that_arrow_cannot_carry():
    pl = pytest.importorskip("polars")
    for value in (
        pl.DataFrame({"i": [1, 2]}),
        pl.DataFrame(),
        pl.Series("n", list(range(1000)), dtype=getattr(pl, "Int128", pl.Int64)),
        pl.DataFrame({"s": [str(row) * 10 for row in range(100_000)]}).slice(5, 60),
    ):
        meta, buffers = serialize(value)
        assert len(meta) + sum(buffer.nbytes for buffer in buffers) < 50_000
        result, _ = round_trip(value)
        assert result.equals(value)


def test_polars_objects_are_refused():
    # Through Arrow they would come back as addresses.
    pl = pytest.importorskip("polars")
    objects = pl.Series("o", [object()] * 1000, dtype=pl.Object)
    with pytest.raises((PicklingError, pl.exceptions.PanicException)):
        serialize(objects)


# --- torch --------------------------------------------------------------------------------------------------

TENSORS = {
    "float": lambda torch: torch.arange(6000.0).reshape(60, 100),
    "bfloat16": lambda torch: torch.arange(6000.0).to(torch.bfloat16),
    "bool": lambda torch: torch.arange(6000) % 2 == 0,
    "complex": lambda torch: torch.arange(6000.0).to(torch.complex64).conj(),
    "not contiguous": lambda torch: torch.arange(12000).reshape(100, 120)[:, ::2],
    "transposed": lambda torch: torch.arange(6000).reshape(60, 100).T,
    "gradient": lambda torch: torch.arange(6000.0, requires_grad=True),
    "parameter": lambda torch: torch.nn.Parameter(torch.arange(6000.0)),
    "frozen parameter": lambda torch: torch.nn.Parameter(torch.arange(6000.0), requires_grad=False),
    "result": lambda torch: torch.arange(6000.0, requires_grad=True) * 2,
}


def same_tensor(torch, result, expected):
    assert type(result) is type(expected)
    assert result.dtype == expected.dtype and result.shape == expected.shape
    assert result.requires_grad == expected.requires_grad
    assert torch.equal(result, expected)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_are_views(name):
    torch = pytest.importorskip("torch")
    value = TENSORS[name](torch)
    meta, buffers = serialize(value)
    assert len(meta) < 600 and sum(buffer.nbytes for buffer in buffers) == value.numel() * value.element_size()
    result, arena = round_trip(value)  # the warning about read-only memory would be an error here
    same_tensor(torch, result, value)
    assert arena.holds_tensor(result)


def test_small_and_unusual_tensors():
    torch = pytest.importorskip("torch")
    for value in (
        torch.tensor(3.0),
        torch.zeros(0, 3),
        torch.arange(5, dtype=torch.int16),
        torch.nn.Parameter(torch.zeros(3)),
        torch.zeros(0, requires_grad=True),
    ):
        result, _ = round_trip(value)
        same_tensor(torch, result, value)
        result.detach().add_(1)  # its own memory, which may be written
    sparse = torch.eye(100).to_sparse()
    result, _ = round_trip(sparse)
    assert result.is_sparse and torch.equal(result.to_dense(), torch.eye(100))
    tagged = torch.zeros(3)
    tagged.note = "kept"
    assert round_trip(tagged)[0].note == "kept"


def test_a_state_dict_and_a_module_are_views():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(100, 50), torch.nn.ReLU(), torch.nn.BatchNorm1d(50))
    result, arena = round_trip(model.state_dict())
    assert list(result) == list(model.state_dict())
    assert arena.holds_tensor(result["0.weight"])
    result, arena = round_trip(model)
    assert arena.holds_tensor(result[0].weight) and isinstance(result[0].weight, torch.nn.Parameter)
    x = torch.ones(4, 100)
    assert torch.equal(result.eval()(x), model.eval()(x))


# --- mutable ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARRAYS)
def test_mutable_arrays_are_writable_views_and_shared(name):
    value = ARRAYS[name]
    one, other, arena = round_trip_mutable({"x": [value]})
    mine, yours = one["x"][0], other["x"][0]
    same(mine, value)
    assert arena.holds(mine) and mine.flags.writeable
    mine[...] = np.roll(value, 7)
    np.testing.assert_array_equal(yours, np.roll(value, 7))


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3.0),
        np.array(3),
        np.array(3, "M8[s]"),
        np.zeros((0, 3)),
        np.zeros((2, 0), "M8[s]"),
        np.zeros(2, record),
        np.frombuffer(b"abc", "u1"),
    ],
    ids=repr,
)
def test_mutable_arrays_are_out_of_band_however_small(value):
    one, other, arena = round_trip_mutable(value)
    same(one, value)
    assert len(arena.views) == 1 and one.flags.writeable
    if value.size:
        assert arena.holds(one)
        one[...] = np.zeros((), value.dtype)
        np.testing.assert_array_equal(other, np.zeros_like(value))


def test_mutable_containers_of_arrays(tmp_path):
    mapped = np.memmap(tmp_path / "data", dtype="f4", mode="w+", shape=(10,))
    value = {
        "sample": Sample(np.zeros(4)),
        "slotted": Slotted(np.zeros(2)),
        "list": [np.zeros(1), (np.zeros(2), "text", 3)],
        "map": mapped,
        "rec": np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        "constant": 5,
    }
    one, other, arena = round_trip_mutable(value)
    arrays = [
        one["sample"].data,
        one["slotted"].data,
        one["list"][0],
        one["list"][1][0],
        one["map"],
        one["rec"],
    ]
    assert all(arena.holds(part) and part.flags.writeable for part in arrays)
    one["sample"].data += 7
    one["rec"].b[0] = 9
    assert other["sample"].data.tolist() == [7] * 4 and other["rec"].b[0] == 9
    assert one["list"][1][1:] == ("text", 3) and one["constant"] == 5
    assert type(one["sample"]) is Sample and type(one["slotted"]) is Slotted


def test_mutable_twice_the_same_array_is_one_array():
    value = np.zeros(3)
    one, _, arena = round_trip_mutable([value, value])
    assert one[0] is one[1] and len(arena.views) == 1


def test_mutable_bytearrays_become_memoryviews():
    value = {"b": bytearray(b"abc"), "large": bytearray(5000), "a": np.zeros(3), "empty": bytearray()}
    value["again"] = value["b"]
    one, other, arena = round_trip_mutable(value)
    assert type(one["b"]) is memoryview and not one["b"].readonly
    assert arena.holds(np.asarray(one["b"])) and arena.holds(np.asarray(one["large"])) and arena.holds(one["a"])
    assert one["b"] is one["again"] and one["empty"].nbytes == 0
    one["b"][0] = ord("z")
    one["a"][1] = 5
    assert bytes(other["b"]) == b"zbc" and other["a"].tolist() == [0, 5, 0]
    assert bytes(round_trip_mutable(bytearray(b"alone"))[0]) == b"alone"


def test_mutable_buffers_of_the_standard_library():
    one, other, arena = round_trip_mutable([array.array("d", [1, 2]), memoryview(bytes(4)), memoryview(b"")])
    assert one[0].format == "d" and one[0].tolist() == [1, 2] and arena.holds(np.asarray(one[0]))
    one[0][1] = 7.5
    one[1][2] = 9  # it was read-only where it came from
    assert other[0].tolist() == [1, 7.5] and other[1].tolist() == [0, 0, 9, 0]


def test_what_get_returned_can_be_put_again():
    for value in (bytearray(b"abc"), np.arange(3.0), array.array("i", [4])):
        one, _, _ = round_trip_mutable({"x": value})
        again, _, arena = round_trip_mutable(one)
        assert arena.holds(np.asarray(again["x"])) and bytes(again["x"]) == bytes(value)
        frozen, _ = round_trip(one)
        assert bytes(frozen["x"]) == bytes(value)


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "result"])
def test_mutable_tensors(name):
    torch = pytest.importorskip("torch")
    value = TENSORS[name](torch)
    one, other, arena = round_trip_mutable((value, torch.zeros(2), torch.zeros(0), torch.tensor(1.0)))
    same_tensor(torch, one[0], value)
    assert len(arena.views) == 4 and arena.holds_tensor(one[0]) and arena.holds_tensor(one[1])
    one[0].detach().zero_()
    one[3].fill_(5)
    assert torch.count_nonzero(other[0]) == 0 and other[3].item() == 5


def test_a_mutable_module_can_be_trained_by_one_and_seen_by_the_other():
    torch = pytest.importorskip("torch")
    one, other, _ = round_trip_mutable(torch.nn.Linear(3, 1))
    before = other.weight.clone()
    one(torch.ones(2, 3)).sum().backward()
    torch.optim.SGD(one.parameters(), lr=1.0).step()
    assert torch.equal(one.weight, other.weight) and not torch.equal(other.weight, before)


def test_mutable_pandas_of_numbers():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.zeros((10, 3)), columns=range(3))
    one, other, _ = round_trip_mutable(frame)
    one.iloc[4, 1] = 5.0
    assert other.iloc[4, 1] == 5.0


@pytest.mark.parametrize("value", [5, "text", {"a": [1.0]}, None, b"bytes", Sample(3)], ids=repr)
def test_a_value_without_an_array_cannot_be_mutable(value):
    with pytest.raises(NotMutableError, match="no array") as caught:
        serialize_mutable(value)
    for word in ("np.array", "container", "actor", "mutable"):
        assert word in str(caught.value)
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, ShoalError)


@pytest.mark.parametrize(
    "value",
    [
        np.array([1, "a"], dtype=object),
        np.zeros(2, [("a", "i4"), ("o", object)]),
        np.ma.array([1, 2], mask=[0, 1]),
    ],
    ids=["objects", "field of objects", "masked"],
)
def test_arrays_that_cannot_be_shared_are_refused(value):
    with pytest.raises(NotMutableError):
        serialize_mutable({"fine": np.zeros(3), "not": value})


def test_tensors_that_cannot_be_shared_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(NotMutableError, match="sparse"):
        serialize_mutable([np.zeros(3), torch.eye(3).to_sparse()])


def test_mutable_by_value():
    class Local:
        def __init__(self):
            self.data = np.zeros(3)
            self.raw = bytearray(b"abc")

    one, other, arena = round_trip_mutable(Local())
    assert arena.holds(one.data) and arena.holds(np.asarray(one.raw))
    one.data[0] = 1
    one.raw[0] = 0
    assert other.data[0] == 1 and other.raw[0] == 0


# --- by value -----------------------------------------------------------------------------------------------


def test_functions_and_classes_without_an_importable_name():
    factor = np.arange(1000.0)

    class Local:
        def __init__(self, x):
            self.x = x

    result, arena = round_trip([lambda x: x * factor, Local(factor)])
    assert result[0](2)[3] == 6
    assert arena.holds(result[1].x)
    assert pickle.loads(dumps_by_value(lambda: 5))() == 5
    assert pickle.loads(dumps_by_value(Local))(7).x == 7


def test_a_function_may_write_to_the_arrays_it_carries():
    large, small = np.zeros(1000), np.zeros(3)

    def change():
        large[0] = small[0] = 1
        return large[0] + small[0]

    assert pickle.loads(dumps_by_value(change))() == 2
    assert large[0] == 0


def test_importable_functions_go_by_reference():
    assert len(serialize(textwrap.dedent)[0]) < 60
    assert round_trip(functools.partial(textwrap.indent, prefix=" "))[0].func is textwrap.indent
    assert pickle.loads(dumps_by_value(textwrap.dedent)) is textwrap.dedent


def test_modules_registered_by_value_are_honoured(tmp_path, monkeypatch):
    folder = tmp_path / "only_here"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner" / "__init__.py").write_text("class Thing:\n    pass\n\ndef number():\n    return 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here.inner

    values = [only_here.inner.Thing(), only_here.inner.number]
    by_reference = [serialize(value)[0] for value in values]
    cloudpickle.register_pickle_by_value(only_here)
    try:
        by_value = [serialize(value)[0] for value in values]
    finally:
        cloudpickle.unregister_pickle_by_value(only_here)
    for name in ("only_here", "only_here.inner"):
        del sys.modules[name]
    monkeypatch.undo()
    for meta in by_reference:
        with pytest.raises(ModuleNotFoundError):
            deserialize(meta)
    assert type(deserialize(by_value[0])).__name__ == "Thing"
    assert deserialize(by_value[1])() == 5


def test_what_is_defined_in_main_travels_by_value(tmp_path):
    run_program(
        tmp_path,
        """
        import dataclasses, pickle
        import numpy as np
        from shoal.mutable_values import serialize_mutable
        from shoal.serialization import serialize

        @dataclasses.dataclass
        class Job:
            data: object
            def total(self):
                return helper(self.data)

        def helper(data):
            return data.sum()

        class Error(Exception):
            pass

        def save(kind, pair):
            meta, buffers = pair
            with open(sys.argv[1] + kind, "wb") as file:
                pickle.dump((meta, [bytes(buffer) for buffer in buffers]), file)

        save("plain", serialize([Job(np.arange(1000)), helper, Job, Error("text")]))
        save("mutable", serialize_mutable(Job(np.arange(10))))
        """,
        f"{tmp_path}/",
    )
    meta, buffers = pickle.loads((tmp_path / "plain").read_bytes())
    assert len(buffers) == 1
    job, helper, kind, error = deserialize(meta, buffers)
    assert job.total() == helper(job.data) == 499500
    assert type(job) is kind and kind.__module__ == "__main__"
    assert error.args == ("text",) and isinstance(error, Exception)
    meta, buffers = pickle.loads((tmp_path / "mutable").read_bytes())
    job = deserialize(meta, [bytearray(buffer) for buffer in buffers])
    job.data[0] = 100
    assert job.total() == 145


def test_text_that_merely_says_main_comes_back():
    assert round_trip(["__main__", np.arange(3).tolist()])[0] == ["__main__", [0, 1, 2]]


# --- imports ------------------------------------------------------------------------------------------------


def test_no_library_is_imported_until_it_is_needed(tmp_path):
    out = run_program(
        tmp_path,
        """
        import shoal.serialization as serialization
        serialization.deserialize(*serialization.serialize({"a": (1, "b")}))
        libraries = {"numpy", "pandas", "pyarrow", "polars", "torch", "cloudpickle"}
        print(sorted(libraries & set(sys.modules)))
        import numpy
        meta, buffers = serialization.serialize(numpy.zeros(1000, "M8[s]"))
        print(len(buffers))
        """,
    )
    assert out.split() == ["[]", "1"]


# --- registration -------------------------------------------------------------------------------------------


class Handle:
    def __init__(self, number):
        self.number = number
        self.lock = threading.Lock()


class SubHandle(Handle):
    pass


@pytest.fixture
def handles():
    register_serializer(Handle, serializer=lambda handle: handle.number, deserializer=lambda number: Handle(-number))
    yield
    deregister_serializer(Handle)


def test_a_registered_serializer_is_used_for_exactly_its_class(handles):
    result, _ = round_trip({"h": [Handle(3), Handle(4)]})
    assert [handle.number for handle in result["h"]] == [-3, -4]
    assert round_trip([Handle(3), lambda: 5])[0][0].number == -3  # also when cloudpickle does it
    with pytest.raises(PicklingError):
        serialize(SubHandle(3))
    register_serializer(Handle, serializer=lambda handle: handle.number, deserializer=Handle)
    assert round_trip(Handle(3))[0].number == 3
    deregister_serializer(Handle)
    with pytest.raises(PicklingError):
        serialize(Handle(3))
    deregister_serializer(Handle)
    assert Handle not in copyreg.dispatch_table


def test_the_state_of_a_registered_serializer_is_shared_like_any_other():
    class Wrapped:
        def __init__(self, data):
            self.data, self.lock = data, threading.Lock()

    register_serializer(Wrapped, serializer=lambda wrapped: wrapped.data, deserializer=Wrapped)
    try:
        result, arena = round_trip(Wrapped(np.arange(1000)))
        assert type(result) is Wrapped and arena.holds(result.data)
        one, other, _ = round_trip_mutable(Wrapped(np.arange(3)))
        one.data[0] = 9
        assert other.data[0] == 9
    finally:
        deregister_serializer(Wrapped)


def test_a_serializer_can_replace_a_librarys_own():
    register_serializer(np.ndarray, serializer=lambda data: data.tolist(), deserializer=tuple)
    try:
        assert round_trip(np.arange(3))[0] == (0, 1, 2)
    finally:
        deregister_serializer(np.ndarray)
    assert type(round_trip(np.arange(3))[0]) is np.ndarray


def test_the_deserializer_travels_with_the_object(tmp_path):
    run_program(
        tmp_path,
        """
        import pickle, threading
        from shoal.serialization import register_serializer, serialize
        class Mine:
            def __init__(self, x):
                self.x, self.lock = x, threading.Lock()
        register_serializer(Mine, serializer=lambda mine: mine.x, deserializer=lambda x: Mine(x + 1))
        with open(sys.argv[1], "wb") as file:
            file.write(serialize([Mine(1), Mine(2)])[0])
        """,
        tmp_path / "out",
    )
    result = deserialize((tmp_path / "out").read_bytes())
    assert [mine.x for mine in result] == [2, 3]


def test_only_a_class_can_be_registered():
    with pytest.raises(TypeError, match="class"):
        register_serializer(Handle(1), serializer=id, deserializer=id)


def test_changes_of_copyreg_are_noticed():
    class Thing:
        pass

    try:
        copyreg.pickle(Thing, lambda thing: (int, ("1",)))
        assert round_trip(Thing())[0] == 1
        copyreg.pickle(Thing, lambda thing: (int, ("2",)))
        assert round_trip(Thing())[0] == 2
    finally:
        del copyreg.dispatch_table[Thing]
    assert type(round_trip(Thing())[0]) is not int


# --- nesting and threads ------------------------------------------------------------------------------------


class Nested:
    def __init__(self, inner):
        self.inner = inner

    def __reduce__(self):
        meta, buffers = serialize(self.inner)
        return deserialize, (meta, list(map(pickle.PickleBuffer, buffers)))


def test_a_reduce_may_serialize():
    value = Nested([np.arange(1000), Nested({"deep": np.arange(2000), "f": lambda: 3}), Nested(1)])
    result, arena = round_trip([value, np.arange(500)])
    assert arena.holds(result[0][0]) and arena.holds(result[0][1]["deep"]) and arena.holds(result[1])
    assert result[0][1]["deep"][-1] == 1999 and result[0][1]["f"]() == 3 and result[0][2] == 1


def test_threads_do_not_mix_their_values_up():
    failures = []

    def work(number):
        for turn in range(200):
            value = {"n": number, "a": np.full(300, number), "t": turn, "o": Sample(np.full(3, turn))}
            meta, buffers = serialize(value)
            result = deserialize(meta, buffers)
            if result["n"] != number or result["a"][0] != number or result["o"].data[2] != turn:
                failures.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_nothing_is_kept_alive():
    gc.disable()  # references must go by themselves, not when the collector comes round
    try:
        for attribute in (Sample(np.zeros(1000)), threading.Lock(), bytearray(3)):
            value = Slotted(np.zeros(1000), attribute)
            gone = weakref.ref(value.data)
            for function in (serialize, serialize_mutable):
                try:
                    function(value)
                except PicklingError as error:
                    error.__traceback__ = error.__cause__.__traceback__ = None
            del value
            assert gone() is None
    finally:
        gc.enable()


class Holder:
    pass


@pytest.mark.parametrize("value", [np.zeros(1000), np.zeros(1000, "M8[s]"), memoryview(bytes(4000))], ids=repr)
def test_the_collector_survives_an_error_that_has_become_garbage(value):
    # Until Python 3.12 it crashes on a memoryview that is exported by a PickleBuffer.
    for function in (serialize, serialize_mutable):
        holder = Holder()
        holder.me = holder
        try:
            function([value, np.zeros(3), threading.Lock()])
        except PicklingError as error:
            holder.error = error
        assert holder.error.__traceback__ is not None
        del holder
        gc.collect()


# --- errors -------------------------------------------------------------------------------------------------


class Model:
    def __init__(self):
        self.weights = np.zeros(1000)
        self.lock = threading.Lock()


class WithState:
    def __init__(self):
        self.dropped = threading.Lock()
        self.kept = 1

    def __getstate__(self):
        return {"kept": self.kept}


class Stubborn:
    def __reduce__(self):
        raise RuntimeError("I stay here")


def test_the_error_names_the_path():
    with pytest.raises(PicklingError) as caught:
        serialize({"model": Model(), "fine": 1}, "argument x")
    assert "cannot pickle argument x['model'].lock (a _thread.lock)" in str(caught.value)
    assert caught.value.path == "argument x['model'].lock"
    assert isinstance(caught.value.__cause__, TypeError)
    assert isinstance(caught.value, pickle.PicklingError) and isinstance(caught.value, TypeError)
    with pytest.raises(PicklingError, match=r"value\.other \(a _thread\.lock\)"):
        serialize_mutable(Slotted(np.zeros(3), threading.Lock()))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (threading.Lock(), "value"),
        ([1, (2, threading.Lock())], "value[1][1]"),
        ({"a": {"b": Model()}}, "value['a']['b'].lock"),
        (Slotted(Slotted(threading.Lock())), "value.data.data"),
        (Sample(threading.Lock()), "value.data"),
        ({Model()}, "value[0].lock"),
        (collections.OrderedDict(k=threading.Lock()), "value['k']"),
        (collections.deque([0, threading.Lock()]), "value[1]"),
        (functools.partial(print, threading.Lock()), "value.<state>[0]"),
        (threading.Lock().acquire, "value.<argument 0>"),
        (Model().__init__, "value.__self__.lock"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_find_unpicklable(value, path):
    places = find_unpicklable(value)
    assert [place.split(" (")[0] for place in places] == [path]
    assert "_thread.lock" in places[0]


def test_find_unpicklable_in_functions_and_classes():
    lock = threading.Lock()

    def closure():
        return lock

    def default(x=lock):
        return x

    def nested():
        return [(lambda: lock_of_the_module) for _ in "ab"]

    class Local:
        attribute = lock

    assert find_unpicklable(closure, "f") == ["f.<closure lock> (a _thread.lock)"]
    assert find_unpicklable(default, "f") == ["f.__defaults__[0] (a _thread.lock)"]
    assert find_unpicklable(nested, "f") == ["f.<global lock_of_the_module> (a _thread.lock)"]
    assert find_unpicklable(Local, "C") == ["C.attribute (a _thread.lock)"]
    with pytest.raises(PicklingError, match="closure.<closure lock>"):
        dumps_by_value(closure)


lock_of_the_module = threading.Lock()


def test_find_unpicklable_believes_getstate():
    assert find_unpicklable(WithState()) == []
    assert find_unpicklable([WithState(), threading.Lock()]) == ["value[1] (a _thread.lock)"]


def test_find_unpicklable_of_something_picklable_is_empty():
    assert find_unpicklable({"a": np.zeros(3), "f": lambda: 1, "m": [Sample(1)]}) == []


def test_several_are_all_named_and_one_only_once():
    lock = threading.Lock()
    places = find_unpicklable({"a": lock, "b": lock, "c": io.StringIO, "d": sys._getframe()})
    assert [place.split(" (")[0] for place in places] == ["value['a']", "value['d']"]
    with pytest.raises(PicklingError, match=r"value\[0\] .*nor value\[1\]"):
        serialize([threading.Lock(), threading.RLock()])


def test_the_search_is_bounded():
    deep = threading.Lock()
    for _ in range(30):
        deep = [deep]
    assert find_unpicklable(deep) == ["value" + "[0]" * 8 + " (a list)"]
    loop = [threading.Lock()]
    loop.append(loop)
    assert find_unpicklable(loop) == ["value[0] (a _thread.lock)"]
    many = [Sample(number) for number in range(5000)] + [threading.Lock()]
    assert find_unpicklable(many) == ["value (a list)"]


def test_errors_of_the_users_own_code_are_chained():
    with pytest.raises(PicklingError, match="I stay here") as caught:
        serialize([Stubborn()])
    assert "value[0] (a " in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_errors_of_shoal_pass_unchanged():
    class Refusing:
        def __reduce__(self):
            raise error

    error = ShoalError("not from here")
    for function in (serialize, serialize_mutable, dumps_by_value):
        with pytest.raises(ShoalError) as caught:
            function(Refusing())
        assert caught.value is error


def test_after_an_error_all_goes_on():
    for _ in range(3):
        with pytest.raises(PicklingError):
            serialize([np.arange(1000), threading.Lock()])
        value, arena = round_trip([np.arange(1000)])
        assert arena.holds(value[0])


def test_recursion_without_end_is_an_error():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(PicklingError, match="setrecursionlimit"):
        serialize(deep)


def test_the_helpers_are_where_the_messages_say():
    util = importlib.import_module("shoal.util")
    for name in ("register_serializer", "deregister_serializer", "inspect_serializability"):
        assert getattr(util, name) is getattr(serialization, name)


def test_inspect_serializability():
    out = io.StringIO()
    lock = threading.Lock()

    def function():
        return lock

    ok, failures = inspect_serializability(function, print_file=out)
    assert not ok
    (failure,) = failures
    assert failure.obj is lock and failure.name == "lock" and failure.parent is function
    assert "lock" in repr(failure)
    assert "cannot be pickled" in out.getvalue() and "<closure lock>" in out.getvalue()
    ok, failures = inspect_serializability([Model()], name="models", depth=1, print_file=out)
    assert [failure.name for failure in failures] == ["[0]"] and not ok
    assert inspect_serializability({"a": 1}, print_file=out) == (True, set())


def test_inspect_serializability_prints_by_default(capsys):
    inspect_serializability(5, name="five")
    assert capsys.readouterr().out == "five (int) can be pickled\n"
