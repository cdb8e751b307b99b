"""put and get: what goes in comes out, in every form of the call, and what is wrong is refused."""

import collections
import dataclasses
import math
import threading
import time

import numpy as np
import pytest

import shoal
from conftest import until
from shoal.exceptions import GetTimeoutError, PicklingError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
def hold(path):
    """Waits until `path` exists."""
    until(path.exists)
    return "held"


@dataclasses.dataclass
class Pair:
    left: object
    right: object


VALUES = [
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 1.5, math.inf,
    -math.inf, 5e-324, 1j, "", "a", "\0", "ä€😀", "x" * 100_000, "\ud800", "a\udfffb" * 1000, b"", b"\0\xff",
    b"y" * 100_000, bytearray(), bytearray(b"z" * 5000), (), [], {}, set(), frozenset({1}), (None,), [[[]]], ((), ()),
    {"a": {"b": [1, (2, "c")]}}, {1: "one", None: 2, (1, 2): 3}, {1, "two", None}, range(10), slice(1, 2), Ellipsis,
    NotImplemented, int, ValueError, collections.OrderedDict(a=1), collections.deque([1, 2], maxlen=3), Pair(1, [2]),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda v: repr(v)[:30].encode("ascii", "replace").decode())
def test_values_come_back_equal_and_of_the_same_type(value):
    back = shoal.get(shoal.put(value))
    assert type(back) is type(value)
    assert back == value
    assert math.copysign(1, back) == math.copysign(1, value) if isinstance(value, float) else True


@pytest.mark.parametrize("value", VALUES, ids=lambda v: repr(v)[:30].encode("ascii", "replace").decode())
def test_values_pass_through_a_task(value):
    @shoal.remote
    def same(x, *, key):
        return [x, key]

    back = shoal.get(same.remote(value, key=value))
    assert back == [value, value]
    assert [type(x) for x in back] == [type(value)] * 2


def test_a_nan_stays_one():
    assert math.isnan(shoal.get(shoal.put(math.nan)))
    assert math.isnan(shoal.get(shoal.put([math.nan]))[0])


def test_subclasses_of_plain_types_keep_their_class():
    class Int(int):
        pass

    class Text(str):
        extra = None

    class Row(tuple):
        pass

    text = Text("t")
    text.extra = [1]
    back = shoal.get(shoal.put([Int(7), text, Row((1, 2))]))
    assert [type(x).__name__ for x in back] == ["Int", "Text", "Row"]
    assert back == [7, "t", (1, 2)] and back[1].extra == [1]
    for value, name in (
        (Int(7), "Int"),
        (text, "Text"),
        (Row((1,)), "Row"),
        (collections.Counter("aa"), "Counter"),
    ):
        assert type(shoal.get(shoal.put(value))).__name__ == name


def test_what_get_returns_is_the_callers_own():
    ref = shoal.put({"list": [1]})
    first = shoal.get(ref)
    first["list"].append(2)
    assert shoal.get(ref) == {"list": [1]}


def test_put_keeps_the_value_of_that_moment():
    array, values = np.arange(5000), [1]
    refs = shoal.put(array), shoal.put(values)
    array[:] = -1
    values.append(2)
    assert (shoal.get(refs[0]) == np.arange(5000)).all()
    assert shoal.get(refs[1]) == [1]


def test_a_deep_structure():
    value = None
    for _ in range(300):
        value = [value]
    assert shoal.get(shoal.put(value)) == value


def test_a_value_that_contains_itself():
    value = [1]
    value.append(value)
    back = shoal.get(shoal.put(value))
    assert back[0] == 1 and back[1] is back


# --- the forms of get ---------------------------------------------------------------------------------------


def test_get_of_a_list_or_tuple_returns_a_list_in_that_order():
    refs = [shoal.put(i) for i in range(100)]
    assert shoal.get(refs) == list(range(100))
    assert shoal.get(tuple(refs)) == list(range(100))
    assert shoal.get(refs[::-1]) == list(range(99, -1, -1))
    assert shoal.get([refs[3]] * 5) == [3] * 5
    assert shoal.get([]) == [] and shoal.get(()) == []


@pytest.mark.parametrize("many", [False, True])
def test_timeouts_that_are_not_reached(many):
    ref = shoal.put("x")
    for timeout in (None, 0, 0.0, 1, 2.5, 10**12, math.inf, np.float64(1), True):
        got = shoal.get([ref] if many else ref, timeout=timeout)
        assert got == (["x"] if many else "x")


@pytest.mark.parametrize("many", [False, True])
def test_a_timeout_raises_and_the_object_can_still_be_had(many, tmp_path):
    path = tmp_path / "go"
    ref = hold.remote(path)
    refs = [shoal.put(1), ref] if many else ref
    for timeout in (0, 0.0, 1e-9, 0.05):
        start = time.monotonic()
        with pytest.raises(GetTimeoutError, match=f"within {timeout} seconds") as caught:
            shoal.get(refs, timeout=timeout)
        assert isinstance(caught.value, TimeoutError)
        assert time.monotonic() - start >= timeout
    path.touch()
    assert shoal.get(refs, timeout=60) == ([1, "held"] if many else "held")


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("done", [False, True])
def test_bad_timeouts_are_refused_whether_or_not_the_object_is_there(many, done, tmp_path):
    path = tmp_path / "go"
    ref = shoal.put(1) if done else hold.remote(path)
    given = [ref] if many else ref
    for timeout in (-1, -0.001, -math.inf, math.nan):
        with pytest.raises(ValueError, match="timeout"):
            shoal.get(given, timeout=timeout)
    for timeout in ("1", [1], ref):
        with pytest.raises(TypeError, match="timeout"):
            shoal.get(given, timeout=timeout)
    path.touch()
    shoal.get(given)


@pytest.mark.parametrize("value", [5, None, "ref", object(), {}, {"a": 1}, len, np.arange(3), b"", {1, 2}, 1.5], ids=repr)
def test_get_of_what_is_no_reference(value):
    with pytest.raises(TypeError, match="ObjectRef"):
        shoal.get(value)
    with pytest.raises(TypeError, match="ObjectRef"):
        shoal.get([value])
    with pytest.raises(TypeError, match="ObjectRef"):
        shoal.get([shoal.put(1), value])


def test_get_of_a_nested_list_of_references_is_refused():
    ref = shoal.put(1)
    with pytest.raises(TypeError, match="ObjectRef"):
        shoal.get([[ref]])
    with pytest.raises(TypeError, match="ObjectRef"):
        shoal.get({ref})
    with pytest.raises(TypeError):
        shoal.get()


def test_put_of_a_reference_is_refused_and_the_error_says_what_to_do():
    with pytest.raises(TypeError, match=r"put\(\[ref\]\)"):
        shoal.put(shoal.put(1))


def test_put_of_what_cannot_be_pickled_names_it():
    with pytest.raises(PicklingError, match="_thread.lock") as caught:
        shoal.put({"a": [threading.Lock()]})
    assert caught.value.path == "value['a'][0]"


def test_a_reduce_that_raises_leaves_nothing_behind():
    class Bad:
        def __reduce__(self):
            raise RuntimeError("no")

    for _ in range(3):
        with pytest.raises(PicklingError, match="no"):
            shoal.put([np.zeros(10_000), shoal.put(1), Bad()])


def test_a_value_that_cannot_be_unpickled_raises_what_it_raises():
    ref = shoal.put(Raises())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            shoal.get(ref)


class Raises:
    def __reduce__(self):
        return divmod, (1, 0)


def test_a_put_inside_a_pickle():
    class Lazy:
        def __reduce__(self):
            return list, ((shoal.put("inner"), 1),)

    ref, one = shoal.get(shoal.put([Lazy()]))[0]
    assert shoal.get(ref) == "inner" and one == 1
