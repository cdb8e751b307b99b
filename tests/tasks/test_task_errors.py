"""What a task raises arrives as what it was: own type, own attributes, remote traceback; or as the nearest to it."""

import asyncio
import inspect
import linecache
import threading

import numpy as np
import pytest

import shoal
from conftest import audit, run_python
from shoal.exceptions import PicklingError, ShoalError, TaskError, UnpicklableCause

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote(max_retries=0)
def fail(kind, *args, **kwargs):
    error = kind(*args, **kwargs)
    raise error


class Plain(Exception):
    pass


class TwoArguments(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.first, self.second = first, second


class KeywordOnly(ValueError):
    def __init__(self, *, size):
        super().__init__("size")
        self.size = size


class WithArray(Exception):
    pass


ERRORS = [
    (ValueError, "v", 1), (KeyError, "k"), (ZeroDivisionError,), (PermissionError, 13, "no", "file"), (MemoryError, "m"),
    (UnicodeDecodeError, "utf8", b"x", 0, 1, "r"), (StopIteration, 5), (StopAsyncIteration,), (AssertionError,),
    (RecursionError, "r"), (EOFError,), (ImportError, "i"), (TimeoutError, "t"), (Plain, 1), (TwoArguments, 1, "b"),
    (ShoalError, "s"), (shoal.exceptions.GetTimeoutError, "g"), (BrokenPipeError, 32, "b"), (NotImplementedError,),
    (SyntaxError, "s", ("file", 1, 2, "text")), (Warning, "w"), (BufferError,), (SystemError, "s"),
]  # fmt: skip


@pytest.mark.parametrize("given", ERRORS, ids=lambda given: given[0].__name__)
def test_an_exception_arrives_with_its_own_type_and_attributes(given):
    kind, *args = given
    error = kind(*args)
    with pytest.raises(kind) as caught:
        shoal.get(fail.remote(*given))
    got = caught.value
    assert got.args == error.args
    assert {k: getattr(got, k) for k in vars(error)} == vars(error)
    assert isinstance(got, TaskError) and "in fail" in str(got) and "Traceback" in str(got)
    assert type(got.cause) is kind
    for name in ("errno", "filename", "name", "object", "lineno", "value"):
        if hasattr(error, name):
            assert getattr(got, name) == getattr(error, name)


def test_an_exception_whose_constructor_takes_keywords_only():
    with pytest.raises(KeywordOnly) as caught:
        shoal.get(fail.remote(KeywordOnly, size=3))
    assert caught.value.size == 3 and isinstance(caught.value, ValueError)


def test_the_remote_traceback_names_the_users_lines_and_not_shoals():
    def inner():
        raise Plain("here")

    @shoal.remote
    def outer():
        inner()

    with pytest.raises(Plain) as caught:
        shoal.get(outer.remote())
    text = str(caught.value)
    assert "in outer" in text and "in inner" in text and 'raise Plain("here")' in text and "worker.py" not in text


def test_chains_of_causes_and_notes_are_in_the_text():
    @shoal.remote
    def chained():
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    with pytest.raises(ValueError, match="second") as caught:
        shoal.get(chained.remote())
    assert "KeyError: 'first'" in str(caught.value) and "direct cause" in str(caught.value)


def test_the_same_error_can_be_had_again_and_again():
    ref = fail.remote(TwoArguments, 1, 2)
    for _ in range(3):
        with pytest.raises(TwoArguments) as caught:
            shoal.get(ref)
        assert (caught.value.first, caught.value.second) == (1, 2)
    with pytest.raises(TwoArguments):
        shoal.get([shoal.put(1), ref])


def test_get_of_many_raises_the_first_in_the_list():
    with pytest.raises(KeyError):
        shoal.get([shoal.put(1), fail.remote(KeyError, 1), fail.remote(ValueError, 2)])


@pytest.mark.parametrize(
    "kind",
    [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError],
    ids=lambda kind: kind.__name__,
)
def test_what_is_no_exception_arrives_inside_a_task_error(kind):
    with pytest.raises(TaskError) as caught:
        shoal.get(fail.remote(kind, 3))
    assert type(caught.value.cause) is kind and not isinstance(caught.value, kind)
    assert caught.value.cause.args == (3,)
    assert shoal.get(same.remote(1)) == 1


@shoal.remote
def same(x):
    return x


def test_sys_exit_in_a_task_ends_its_worker_only():
    @shoal.remote
    def leave(how):
        import os
        import sys

        if how == "exit":
            sys.exit(os.getpid())
        return os.getpid()

    with pytest.raises(TaskError, match="SystemExit") as caught:
        shoal.get(leave.remote("exit"))
    pid = caught.value.cause.code
    assert pid not in shoal.get([leave.remote("stay") for _ in range(50)])


def test_a_nested_task_that_exits_does_not_take_its_caller_with_it():
    @shoal.remote(max_retries=0)
    def leave():
        raise SystemExit(5)

    @shoal.remote(max_retries=0, num_cpus=2)
    def outer():
        try:
            shoal.get(leave.options(num_cpus=2).remote())
        except TaskError as error:
            return error.cause.code

    assert [shoal.get(outer.remote()) for _ in range(5)] == [5] * 5


def test_unpicklable_exceptions_are_stood_in_for():
    class Bad(Exception):
        def __reduce__(self):
            raise RuntimeError("not with me")

    def with_lock():
        error = ValueError("has a lock", threading.Lock())
        error.lock = threading.Lock()
        return error

    @shoal.remote
    def raises(kind):
        raise Bad("bad") if kind == "reduce" else with_lock()

    for kind, name in (("reduce", "Bad"), ("lock", "ValueError")):
        with pytest.raises(TaskError, match=name) as caught:
            shoal.get(raises.remote(kind))
        cause = caught.value.cause
        assert isinstance(cause, UnpicklableCause) and name in cause.type_name
        assert "in raises" in str(caught.value)


def test_an_exception_that_unpickles_badly():
    class Traitor(Exception):
        def __reduce__(self):
            return int, ("x",)

    @shoal.remote(max_retries=0)
    def raises():
        raise Traitor

    with pytest.raises(Exception) as caught:
        shoal.get(raises.remote())
    assert caught.value is not None
    assert shoal.get(same.remote(1)) == 1


def test_an_exception_whose_text_raises():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

        __repr__ = __str__

    @shoal.remote
    def raises():
        raise Mute

    with pytest.raises(TaskError):
        shoal.get(raises.remote())


def test_an_exception_that_holds_a_reference_and_an_array():
    with pytest.raises(WithArray) as caught:
        shoal.get(fail.remote(WithArray, [shoal.put("inside")], np.ones(5000)))
    (ref,), array = caught.value.args
    assert shoal.get(ref) == "inside" and array.sum() == 5000
    del ref, array, caught
    audit()


def test_very_large_exceptions():
    with pytest.raises(ValueError) as caught:
        shoal.get(fail.remote(ValueError, "x" * 5_000_000))
    assert len(caught.value.args[0]) == 5_000_000


@pytest.mark.parametrize("value", ["lock", "generator", "module", "deep"])
def test_unpicklable_results_are_named(value):
    @shoal.remote
    def make():
        import sys

        deep = {"a": [1, {"b": threading.Lock()}]}
        return {
            "lock": threading.Lock(),
            "generator": (x for x in "a"),
            "module": sys._getframe(),
            "deep": deep,
        }[value]

    with pytest.raises(PicklingError, match="cannot pickle") as caught:
        shoal.get(make.remote())
    if value == "deep":
        assert caught.value.path.endswith("['a'][1]['b']")
    assert shoal.get(same.remote(1)) == 1


def test_an_error_inside_a_get_inside_a_task_keeps_its_type_on_the_way_up():
    @shoal.remote
    def outer(depth):
        if depth:
            return shoal.get(outer.remote(depth - 1))
        raise TwoArguments("a", "b")

    with pytest.raises(TwoArguments) as caught:
        shoal.get(outer.remote(5))
    assert (caught.value.first, caught.value.second) == ("a", "b")
    assert type(caught.value.cause) is TwoArguments


def test_raising_again_with_more_text():
    @shoal.remote
    def again():
        try:
            shoal.get(fail.remote(TwoArguments, 1, 2))
        except TwoArguments as error:
            raise RuntimeError("in again") from error

    with pytest.raises(RuntimeError, match="in again"):
        shoal.get(again.remote())


def test_exceptions_of_main():
    done = run_python(
        """
        import shoal
        shoal.init(num_cpus=1)

        class Mine(Exception):
            def __init__(self, a, b):
                super().__init__(a)
                self.b = b
            def describe(self):
                return f"{self.args[0]}-{self.b}"

        @shoal.remote
        def fail():
            raise Mine(1, b=[2])

        for _ in range(2):
            try:
                shoal.get(fail.remote())
            except Mine as error:
                print(type(error.cause) is Mine, error.describe())

        @shoal.remote
        def passes(x):
            return x

        try:
            shoal.get(passes.remote(fail.remote()))
        except Mine as error:
            print(error.describe())
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True 1-[2]\nTrue 1-[2]\n1-[2]\n"


def test_an_error_that_nobody_gets_is_no_error():
    refs = [fail.remote(ValueError, i) for i in range(50)]
    shoal.wait(refs, num_returns=50)
    del refs
    audit()


TYPED = """
import shoal

def helper(x):
    def deeper():
        return x / 0
    return deeper()

@shoal.remote
def calls(function, x):
    return function(x)

@shoal.remote
class Divides:
    def by_zero(self, x):
        return helper(
            x,
        )
"""


def typed(text, name):
    """Run `text` as a notebook or an interpreter does: in __main__, with its lines in linecache and in no file."""
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    scope = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), scope)
    return scope


@pytest.mark.parametrize("name", ["<ipython-input-7-0123456789ab>", "/nowhere/ipykernel_77/0123456789.py"])
def test_what_was_typed_into_a_notebook_has_its_lines_in_the_remote_traceback(name):
    cell = typed(TYPED, name)
    actor = cell["Divides"].remote()
    for ref in [cell["calls"].remote(cell["helper"], 1), actor.by_zero.remote(1)]:
        with pytest.raises(ZeroDivisionError) as caught:
            shoal.get(ref)
        text = str(caught.value)
        assert f'File "{name}", line 6, in deeper' in text and "return x / 0" in text and "return deeper()" in text
    assert "return helper(" in text
    later = typed(TYPED + "\n" * 40 + "def late(x):\n    return x.nothing_of_that_name\n", name)  # further down
    with pytest.raises(AttributeError) as caught:
        shoal.get(cell["calls"].remote(later["late"], 1))
    line = (TYPED + "\n" * 40).count("\n") + 2
    assert f"line {line}, in late\n    return x.nothing_of_that_name" in str(caught.value)
    assert "return function(x)" in str(caught.value)


def test_inspect_finds_the_source_of_what_was_typed():
    @shoal.remote
    def source_of(function):
        return inspect.getsource(function)

    cell = typed(TYPED, "<ipython-input-8-0123456789ab>")
    source = shoal.get(source_of.remote(cell["helper"]))
    assert source == inspect.getsource(cell["helper"]) and "return deeper()" in source


def test_lines_read_from_a_file_are_not_replaced_by_what_was_typed_under_its_name(tmp_path):
    file = tmp_path / "cell.py"
    file.write_text("# the file\n")

    @shoal.remote
    class Reader:
        def read(self, name, _=None):
            return linecache.getline(name, 1)

    reader = Reader.remote()
    assert shoal.get(reader.read.remote(str(file))) == "# the file\n"
    cell = typed("def other():\n    return 1\n", str(file))
    assert shoal.get(reader.read.remote(str(file), cell["other"])) == "# the file\n"
