"""put(mutable=True): what can be changed in place, in which form it comes back, and what is refused."""

import array
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field

import numpy as np
import pytest

import shoal
from conftest import at_rest, until
from shoal.exceptions import NotMutableError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
def assign(box, where, what):
    shoal.get(box[0])[where] = what


@shoal.remote
def fill(box, what):
    shoal.get(box[0])[...] = what


def address(array):
    return array.__array_interface__["data"][0]


# -- arrays -------------------------------------------------------------------------------------------------

STRUCT = np.dtype([("id", "i4"), ("name", "S5"), ("xyz", "f8", (3,)), ("flag", "?")], align=True)
VALUES = {
    "bool": (np.zeros(5, bool), True),
    "int8": (np.zeros(5, np.int8), -7),
    "uint16": (np.zeros((2, 3), np.uint16), 65535),
    "int64": (np.arange(6).reshape(2, 3), 2**40),
    "float16": (np.zeros(4, np.float16), 0.5),
    "float32": (np.zeros((2, 2, 2), np.float32), 1.5),
    "longdouble": (np.zeros(3, np.longdouble), np.longdouble(2.5)),
    "complex64": (np.zeros(3, np.complex64), 1 + 2j),
    "complex128": (np.zeros(3, np.complex128), 1 - 2j),
    "datetime": (np.zeros(3, "M8[ns]"), np.datetime64("2024-02-29T12:00", "ns")),
    "timedelta": (np.zeros(3, "m8[s]"), np.timedelta64(5, "s")),
    "bytes": (np.zeros(3, "S4"), b"abcd"),
    "text": (np.zeros(3, "U4"), "ünïc"),
    "void": (np.zeros(3, "V8"), np.void(b"12345678")),
    "struct": (np.zeros(3, STRUCT), np.array((1, b"one", (1.0, 2.0, 3.0), True), STRUCT)),
    "big-endian": (np.zeros(3, ">i4"), 258),
}


@pytest.mark.parametrize("dtype", VALUES)
def test_arrays_of_each_dtype(dtype):
    source, value = VALUES[dtype]
    ref = shoal.put(source, mutable=True)
    view = shoal.get(ref)
    assert view.dtype == source.dtype and view.shape == source.shape
    assert view.tobytes() == source.tobytes()
    assert view.flags.writeable and not view.flags.owndata
    shoal.get(fill.remote([ref], value))
    expected = np.empty_like(source)
    expected[...] = value
    assert (view == expected).all() and not (source == expected).any()
    assert address(shoal.get(ref)) == address(view)


def test_fields_of_a_structured_array():
    ref = shoal.put(np.zeros(4, STRUCT), mutable=True)
    view = shoal.get(ref)

    @shoal.remote
    def by_field(box):
        records = shoal.get(box[0])
        records["xyz"][2, 1] = 5.0
        records[3]["name"] = b"last"
        records["flag"][:2] = True

    shoal.get(by_field.remote([ref]))
    assert view["xyz"][2].tolist() == [0, 5, 0]
    assert view["name"].tolist() == [b"", b"", b"", b"last"]
    assert view["flag"].tolist() == [True, True, False, False]


def test_a_single_number():
    ref = shoal.put(np.array(3.5), mutable=True)
    view = shoal.get(ref)
    assert view.shape == () and view == 3.5
    shoal.get(assign.remote([ref], (), 4.5))
    view += 1
    assert shoal.get(ref) == 5.5


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)])
def test_empty_arrays(shape):
    ref = shoal.put(np.empty(shape, np.int32), mutable=True)
    view = shoal.get(ref)
    assert view.shape == shape and view.dtype == np.int32
    shoal.get(fill.remote([ref], 1))
    with shoal.lock(ref):
        view += 1


def test_fortran_order_is_kept():
    source = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    ref = shoal.put(source, mutable=True)
    view = shoal.get(ref)
    assert view.flags.f_contiguous and not view.flags.c_contiguous
    assert (view == source).all()
    shoal.get(assign.remote([ref], (2, 1), 99.0))
    assert view[2, 1] == 99 and source[2, 1] == 9


@pytest.mark.parametrize("slices", [np.s_[::2], np.s_[:, 1:3], np.s_[::-1, ::-1], np.s_[1], np.s_[:, :, None], np.s_[1:1]], ids=str)
def test_sources_that_are_not_contiguous(slices):
    base = np.arange(40.0).reshape(5, 8)
    source = base[slices]
    ref = shoal.put(source, mutable=True)
    view = shoal.get(ref)
    assert (view == source).all() and view.shape == source.shape
    shoal.get(fill.remote([ref], -1))
    assert (view == -1).all() and (base == np.arange(40.0).reshape(5, 8)).all()


def test_a_broadcast_and_a_transposed_source():
    broadcast = np.broadcast_to(np.arange(3), (4, 3))
    view = shoal.get(shoal.put(broadcast, mutable=True))
    view[0, 0] = 9
    assert view[:, 0].tolist() == [9, 0, 0, 0]
    cube = np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2)
    view = shoal.get(shoal.put(cube, mutable=True))
    view[2, 1, 3] = -1
    assert (view[:2] == cube[:2]).all() and view[2, 1, 3] == -1


def test_a_source_that_is_read_only():
    source = np.arange(5)
    source.flags.writeable = False
    view = shoal.get(shoal.put(source, mutable=True))
    view[0] = 9
    assert view.tolist() == [9, 1, 2, 3, 4]
    immutable = shoal.get(shoal.put(np.ones(10_000)))
    assert not immutable.flags.writeable
    view = shoal.get(shoal.put(immutable, mutable=True))
    view += 1
    assert view.sum() == 20_000 and immutable.sum() == 10_000


@pytest.mark.parametrize("size", [1, 127, 128, 129, 4096, 5000, 1_000_000])
def test_small_and_large_arrays_alike(size):
    ref = shoal.put(np.zeros(size), mutable=True)
    shoal.get(assign.remote([ref], size - 1, 1.0))
    assert shoal.get(ref)[size - 1] == 1 and shoal.get(ref).sum() == 1
    assert address(shoal.get(ref)) % 64 == 0


# -- containers ---------------------------------------------------------------------------------------------


@dataclass
class Model:
    weights: np.ndarray
    bias: np.ndarray
    name: str = "model"
    history: list = field(default_factory=list)


class Plain:
    def __init__(self):
        self.array = np.zeros(3)
        self.other = "text"


class Slotted:
    __slots__ = ("array",)

    def __init__(self):
        self.array = np.zeros(3)


Pair = namedtuple("Pair", "left right")


def test_containers_of_arrays():
    value = {
        "a": np.zeros(3),
        "list": [np.zeros(2), (np.zeros(2), "text")],
        5: {"deep": np.zeros((2, 2))},
        "n": 7,
    }
    ref = shoal.put(value, mutable=True)
    mine = shoal.get(ref)

    @shoal.remote
    def change(box):
        theirs = shoal.get(box[0])
        theirs["a"][0] = 1
        theirs["list"][0][1] = 2
        theirs["list"][1][0][0] = 3
        theirs[5]["deep"][1, 1] = 4
        theirs["n"] = 8  # an ordinary value: a copy
        theirs["new"] = 1

    shoal.get(change.remote([ref]))
    assert (mine["a"][0], mine["list"][0][1], mine["list"][1][0][0], mine[5]["deep"][1, 1]) == (1, 2, 3, 4)
    assert mine["n"] == 7 and "new" not in mine and mine["list"][1][1] == "text"


@pytest.mark.parametrize("make", [Plain, Slotted, lambda: Model(np.zeros(3), np.zeros(1))])
def test_objects_with_arrays(make):
    ref = shoal.put(make(), mutable=True)
    mine = shoal.get(ref)

    @shoal.remote
    def change(box):
        theirs = shoal.get(box[0])
        getattr(theirs, "array", getattr(theirs, "weights", None))[1] = 5

    shoal.get(change.remote([ref]))
    assert getattr(mine, "array", getattr(mine, "weights", None)).tolist() == [0, 5, 0]


def test_tuples_sets_of_keys_and_ordered_dicts():
    ref = shoal.put(Pair(np.zeros(2), OrderedDict(x=np.ones(2))), mutable=True)
    pair = shoal.get(ref)
    assert isinstance(pair, Pair) and isinstance(pair.right, OrderedDict)
    shoal.get(ref).right["x"][:] = 7
    assert pair.right["x"].tolist() == [7, 7]


def test_an_array_that_is_there_twice_is_one():
    shared = np.zeros(3)
    value = {"one": shared, "other": shared}
    view = shoal.get(shoal.put(value, mutable=True))
    view["one"][0] = 1
    assert view["other"][0] == 1 and view["one"] is view["other"]


def test_an_array_and_its_slices_stay_one_memory():
    flat = np.arange(12.0)
    records = np.zeros(3, [("x", "f4"), ("n", "i4")])
    value = {
        "flat": flat, "matrix": flat.reshape(3, 4)[:, ::-1], "tail": flat[8:], "small": flat[:2].view("i8"),
        "records": records, "x": records["x"], "alone": np.zeros(2),
    }  # fmt: skip
    ref = shoal.put(value, mutable=True)
    mine = shoal.get(ref)

    @shoal.remote
    def change(refs):
        theirs = shoal.get(refs[0])
        theirs["tail"][:] = 7
        theirs["matrix"][0, 3] = 5
        theirs["x"][1] = 2.5

    shoal.get(change.remote([ref]))
    assert mine["flat"].tolist() == [5, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7]
    assert mine["matrix"].strides == (32, -8) and mine["matrix"][2].tolist() == [7] * 4
    assert mine["small"].dtype == np.int64 and mine["small"].view("f8")[0] == 5
    assert mine["records"]["x"].tolist() == [0, 2.5, 0] and not mine["alone"].any()
    assert flat[0] == 0


def test_columns_of_a_matrix_that_is_not_there_are_copied():
    matrix = np.zeros((1000, 1000))
    used = shoal.put({"a": matrix[:, 0], "b": matrix[:, 1]}, mutable=True)
    got = shoal.get(used)
    assert got["a"].strides == (8,)
    got["a"][:] = 1
    assert not got["b"].any()


def test_parts_of_an_array_that_is_made_while_pickling():
    class Halves:
        def __init__(self, one, two):
            self.one, self.two = one, two

        def __reduce__(self):
            both = np.concatenate([self.one, self.two])
            return Halves, (both[:3], both[3:])

    got = shoal.get(shoal.put([Halves(np.zeros(3), np.ones(3)) for _ in range(3)], mutable=True))
    got[0].one[:] = 5
    assert [half.one[0] for half in got] == [5, 0, 0] and [half.two[0] for half in got] == [1, 1, 1]


def test_references_inside_mutable_objects():
    inner = shoal.put(np.zeros(3), mutable=True)
    ref = shoal.put({"inner": inner, "own": np.zeros(3)}, mutable=True)
    del inner
    found = shoal.get(ref)["inner"]
    shoal.get(assign.remote([found], 0, 1))
    assert shoal.get(shoal.get(ref)["inner"])[0] == 1


def test_bytearrays_come_back_as_writable_memory():
    ref = shoal.put(bytearray(b"hello"), mutable=True)
    view = shoal.get(ref)
    assert isinstance(view, memoryview) and not view.readonly and bytes(view) == b"hello"
    shoal.get(assign.remote([ref], 0, ord("j")))
    view[4:] = b"y"
    assert bytes(shoal.get(ref)) == b"jelly"
    nested = shoal.get(shoal.put({"b": bytearray(5000)}, mutable=True))["b"]
    nested[4999] = 1
    assert nested.nbytes == 5000 and nested[4999] == 1


def test_memoryviews_and_arrays_of_the_standard_library():
    ref = shoal.put(array.array("d", [1, 2, 3]), mutable=True)
    view = shoal.get(ref)
    shoal.get(assign.remote([ref], 1, 9.0))
    assert list(view) == [1, 9, 3]
    view = shoal.get(shoal.put(memoryview(b"abc"), mutable=True))
    view[0] = 0x7A
    assert bytes(view) == b"zbc"


def test_tensors():
    torch = pytest.importorskip("torch")
    ref = shoal.put({"w": torch.zeros(3, 2), "half": torch.zeros(2, dtype=torch.bfloat16)}, mutable=True)
    mine = shoal.get(ref)

    @shoal.remote
    def change(box):
        theirs = shoal.get(box[0])
        theirs["w"][1] = 5
        theirs["half"] += 1

    shoal.get(change.remote([ref]))
    assert mine["w"].sum() == 10 and mine["half"].tolist() == [1, 1]
    parameter = torch.nn.Parameter(torch.ones(3))
    again = shoal.get(shoal.put(parameter, mutable=True))
    assert isinstance(again, torch.nn.Parameter) and again.requires_grad
    assert mine["w"].data_ptr() == shoal.get(ref)["w"].data_ptr()


def test_pandas_frames_share_their_columns():
    pandas = pytest.importorskip("pandas", minversion="3")  # before, the names of columns are an array of objects
    ref = shoal.put(pandas.DataFrame({"a": np.zeros(2000), "b": np.arange(2000)}), mutable=True)
    frame = shoal.get(ref)
    assert frame["b"].sum() == 1999 * 1000
    assert np.shares_memory(shoal.get(ref)["a"].to_numpy(), frame["a"].to_numpy()) or (
        address(shoal.get(ref)["a"].to_numpy()) == address(frame["a"].to_numpy())
    )


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        0,
        1.5,
        "text",
        b"bytes",
        None,
        True,
        (),
        [],
        {},
        {"a": 1},
        [1, 2, 3],
        {1, 2},
        np.float64(3),
        object(),
        range(3),
    ],
    ids=repr,
)
def test_values_without_an_array_are_refused(value):
    until(at_rest)
    before = shoal._core.statistics()["objects"]
    with pytest.raises(NotMutableError, match="no array, tensor or bytearray in it cannot be mutable.*np.array") as caught:
        shoal.put(value, mutable=True)
    assert isinstance(caught.value, TypeError)
    assert shoal._core.statistics()["objects"] == before


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}, []], object),
        {"fine": np.zeros(3), "not": np.array(["a", None], object)},
        np.zeros(2, [("n", "i4"), ("o", "O")]),
    ],
    ids=["object", "nested", "field"],
)
def test_arrays_of_objects_are_refused(value):
    with pytest.raises(NotMutableError, match="refers to objects of this process.*fixed width"):
        shoal.put(value, mutable=True)


def test_subclasses_that_would_be_copied_are_refused():
    class Own(np.ndarray):
        pass

    for value in (np.zeros(3).view(Own), np.ma.masked_array([1, 2], [True, False])):
        with pytest.raises(NotMutableError, match="only plain arrays and tensors"):
            shoal.put(value, mutable=True)


def test_a_reference_is_no_value():
    with pytest.raises(TypeError, match=r"put\(\[ref\]\)"):
        shoal.put(shoal.put(np.zeros(3)), mutable=True)


def test_what_cannot_be_pickled_is_named():
    import threading

    until(at_rest)
    before = shoal._core.statistics()["objects"]
    with pytest.raises(shoal.exceptions.PicklingError, match="lock"):
        shoal.put({"array": np.zeros(3), "lock": threading.Lock()}, mutable=True)
    assert shoal._core.statistics()["objects"] == before


def test_mutable_objects_are_not_made_of_tasks_results():
    @shoal.remote
    def make():
        return np.zeros(10_000)

    ref = make.remote()
    assert not shoal.get(ref).flags.writeable
    with pytest.raises(NotMutableError, match="mutable=True"):
        shoal.lock(ref)
