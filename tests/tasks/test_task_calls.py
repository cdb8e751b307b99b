"""Calling a task: arguments in every form, options, numbers of returns."""

import functools
import threading
import warnings

import numpy as np
import pytest

import shoal
from conftest import at_rest, audit, leftovers, until
from shoal.exceptions import GetTimeoutError, PicklingError, SchedulingWarning, TaskError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
def everything(a, b=2, /, c=3, *rest, d, e=5, **others):
    return a, b, c, rest, d, e, others


@shoal.remote(num_returns=1)
def same(*args):
    return args


def test_arguments_in_every_form():
    assert shoal.get(everything.remote(1, d=4)) == (1, 2, 3, (), 4, 5, {})
    assert shoal.get(everything.remote(1, 20, 30, 40, 50, d=4, e=6, f=7, g=8)) == ((1, 20, 30, (40, 50), 4, 6, {"f": 7, "g": 8}))
    assert shoal.get(everything.remote(*range(5), **{"d": 0, "not a name": 1})) == (0, 1, 2, (3, 4), 0, 5, {"not a name": 1})
    assert shoal.get(everything.remote(1, d=None, self=1, args=2, kwargs=3, function=4)) == (
        (1, 2, 3, (), None, 5, {"self": 1, "args": 2, "kwargs": 3, "function": 4})
    )


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((), {"d": 1}), ((1,), {}), ((), {"a": 1, "d": 2})])
def test_wrong_arguments_are_the_tasks_error(args, kwargs):
    ref = everything.remote(*args, **kwargs)
    with pytest.raises(TypeError, match=r"everything\(\) missing 1 required|everything\(\) missing 2"):
        shoal.get(ref)


def test_a_direct_call_is_refused_and_says_what_to_write():
    with pytest.raises(TypeError, match=r"everything\.remote\(.*everything\._function"):
        everything(1, d=2)
    assert everything._function(1, d=2) == (1, 2, 3, (), 2, 5, {})


def test_many_arguments():
    assert shoal.get(same.remote(*range(3000))) == tuple(range(3000))
    refs = [shoal.put(i) for i in range(2000)]
    assert shoal.get(same.remote(*refs)) == tuple(range(2000))
    assert shoal.get(same.remote(*[np.full(2000, i) for i in range(50)]))[49][0] == 49

    @shoal.remote
    def names(**kwargs):
        return sorted(kwargs.items())

    assert shoal.get(names.remote(**{f"k{i}": i for i in range(1000)})) == sorted((f"k{i}", i) for i in range(1000))


def test_defaults_of_every_kind():
    @shoal.remote
    def defaults(array=np.arange(5000), *, text="d", mutable=[]):  # noqa: B006
        return float(array.sum()), text, mutable

    assert shoal.get(defaults.remote()) == (12497500.0, "d", [])


def test_large_arguments_arrive_as_views_and_are_stored_once():
    array = np.zeros(1 << 20)

    @shoal.remote
    def look(x, y):
        return x.flags.writeable, y.flags.writeable, np.shares_memory(x, y)

    ref = shoal.put(array)
    assert shoal.get(look.remote(ref, ref)) == (False, False, True)
    assert shoal.get(look.remote(array, array)) == (False, False, False)


def test_an_argument_is_what_it_was_at_the_call(tmp_path):
    go = tmp_path / "go"

    @shoal.remote
    def hold():
        until(go.exists, 60)

    blockers = [hold.remote() for _ in range(2)]
    values, array = [1, 2], np.ones(5000)
    late = same.remote(values, array)
    values.append(3)
    array[:] = 0
    go.touch()
    got = shoal.get(late)
    assert got[0] == [1, 2] and got[1].sum() == 5000
    shoal.get(blockers)


# --- options ------------------------------------------------------------------------------------------------


def test_options_make_another_function_and_leave_the_first():
    @shoal.remote(num_returns=2, name="pair")
    def pair(x):
        return x, x + 1

    one = pair.options(num_returns=1)
    assert shoal.get(pair.remote(1)) == [1, 2]
    assert shoal.get(one.remote(1)) == (1, 2)
    assert shoal.get(one.options(num_returns=2).remote(5)) == [5, 6]
    assert shoal.get(pair.options(num_returns=None).remote(1)) == (1, 2)
    assert shoal.get(pair.options().remote(1)) == [1, 2]
    assert repr(pair) == repr(one) and "pair" in repr(pair)


def test_decorator_forms():
    def plain(x):
        """Doc."""
        return x

    for function in (shoal.remote(plain), shoal.remote(num_cpus=1)(plain), shoal.remote(max_retries=0)(plain)):
        assert shoal.get(function.remote(3)) == 3
        assert (function.__name__, function.__doc__) == ("plain", "Doc.")
    with pytest.raises(TypeError):
        shoal.remote()
    with pytest.raises(TypeError):
        shoal.remote(plain, num_cpus=1)
    with pytest.raises(TypeError, match="remote already"):
        shoal.remote(shoal.remote(plain))
    for wrong in (5, "f", None):
        with pytest.raises(TypeError):
            shoal.remote(wrong)
        with pytest.raises(TypeError):
            shoal.remote(num_cpus=1)(wrong)
    with pytest.raises(AttributeError, match="bind"):
        shoal.remote(plain).bind(1)


def test_bad_options_are_refused_where_they_are_given():
    with pytest.raises(ValueError, match="'num_cpu' is not an option of a task: did you mean 'num_cpus'"):
        everything.options(num_cpu=1)
    with pytest.raises(ValueError, match="not an option"):
        shoal.remote(nonsense=1)(lambda: 1)
    for options in ({"num_cpus": -1}, {"num_gpus": -0.1}, {"memory": -1}, {"resources": {"a": -1}}, {"max_retries": -2}):
        with pytest.raises(ValueError):
            everything.options(**options)
        with pytest.raises(ValueError):
            shoal.remote(**options)(lambda: 1)
    for options in ({"num_cpus": "1"}, {"num_returns": 1.5}, {"resources": ["a"]}, {"retry_exceptions": 1}):
        with pytest.raises(TypeError):
            everything.options(**options)
    with pytest.raises(ValueError, match="max_calls"):
        everything.options(max_calls=1)
    with pytest.raises(ValueError, match="max_concurrency"):
        everything.options(max_concurrency=2)


@pytest.mark.parametrize(
    ("demand", "named"),
    [
        ({"num_cpus": 3}, r"'CPU': 3.*has only.*'CPU': 2"),
        ({"num_gpus": 1}, r"'GPU': 1"),
        ({"resources": {"unobtainium": 0.5}}, r"'unobtainium': 0.5"),
        ({"memory": 1 << 60}, r"'memory': 1.15.*e\+18"),
    ],
)
def test_an_impossible_demand_warns_at_the_call_and_the_task_waits(demand, named):
    @shoal.remote(**demand)
    def never():
        raise AssertionError("it ran")

    with pytest.warns(SchedulingWarning, match=rf"never\(\) demands.*{named}") as caught:
        ref = never.remote()
    assert caught[0].filename == __file__
    with pytest.raises(GetTimeoutError):
        shoal.get(ref, timeout=0.05)
    assert shoal.get(same.remote(1)) == (1,)
    shoal.cancel(ref)
    with pytest.raises(shoal.exceptions.TaskCancelledError):
        shoal.get(ref)


def test_a_possible_demand_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shoal.get(same.options(num_cpus=2).remote(1)) == (1,)
        assert shoal.get(same.options(num_cpus=0).remote(1)) == (1,)
        assert shoal.get(same.options(num_cpus=0.0001, memory=1000).remote(1)) == (1,)


# --- numbers of returns -------------------------------------------------------------------------------------


def test_num_returns():
    @shoal.remote
    def values(*given):
        return given

    assert values.options(num_returns=0).remote() is None
    assert shoal.get(values.options(num_returns=1).remote(1)) == (1,)
    refs = values.options(num_returns=3).remote("a", np.zeros(5000), None)
    assert isinstance(refs, list) and len(set(refs)) == 3
    assert shoal.get(refs[0]) == "a" and shoal.get(refs[1]).shape == (5000,) and shoal.get(refs[2]) is None
    refs = values.options(num_returns=500).remote(*range(500))
    assert shoal.get(refs) == list(range(500))


@pytest.mark.parametrize("made", [list, tuple, iter, lambda v: (x for x in v), dict.fromkeys, set], ids=str)
def test_several_returns_come_from_any_iterable(made):
    @shoal.remote(num_returns=2)
    def values():
        return made([1, 2])

    assert sorted(shoal.get(values.remote())) == [1, 2]


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5])
def test_a_wrong_number_of_returns_is_an_error_of_all_of_them(count):
    @shoal.remote(num_returns=3)
    def values():
        return list(range(count))

    for ref in values.remote():
        with pytest.raises(ValueError, match=f"num_returns=3.*{count}"):
            shoal.get(ref)


@pytest.mark.parametrize("value", [None, 5, object()], ids=str)
def test_several_returns_from_what_is_not_iterable(value):
    @shoal.remote(num_returns=2)
    def values():
        return value

    for ref in values.remote():
        with pytest.raises((TypeError, PicklingError), match="several values|pickle"):
            shoal.get(ref)


def test_no_returns_run_all_the_same(tmp_path):
    @shoal.remote(num_returns=0)
    def touch(path, fail=False):
        path.touch()
        if fail:
            raise ValueError("nobody sees this")
        return "ignored"

    for i in range(3):
        assert touch.remote(tmp_path / str(i), fail=i == 1) is None
    until(lambda: len(list(tmp_path.iterdir())) == 3)


def test_some_returns_may_be_dropped_and_the_others_used():
    @shoal.remote(num_returns=3)
    def values():
        return [np.full(5000, i) for i in range(3)]

    for keep in range(3):
        ref = values.remote()[keep]
        assert shoal.get(ref)[0] == keep
    refs = [values.remote()[1] for _ in range(50)]
    assert all(view[0] == 1 for view in shoal.get(refs))


def test_an_unpicklable_return_among_several_fails_the_rest_only():
    @shoal.remote(num_returns=3)
    def values():
        return 1, threading.Lock(), 3

    first, *rest = values.remote()
    assert shoal.get(first) == 1
    for ref in rest:
        with pytest.raises(PicklingError, match="lock"):
            shoal.get(ref)


def test_one_value_can_be_returned_many_times():
    @shoal.remote(num_returns=2)
    def twice():
        array = np.ones(10_000)
        return array, {"same": array}

    first, second = shoal.get(twice.remote())
    assert first.sum() == second["same"].sum() == 10_000


# --- what can be a task -------------------------------------------------------------------------------------


def test_every_kind_of_callable():
    class Adder:
        def __init__(self, n):
            self.n = n

        def __call__(self, x):
            return x + self.n

        def method(self, x):
            return x - self.n

        @staticmethod
        def static(x):
            return x * 2

        @classmethod
        def of(cls, x):
            return cls(x).n

    for function, expected in (
        (lambda x: x + 1, 11), (functools.partial(pow, 2), 1024), (len, None), (Adder(5), 15), (Adder(5).method, 5),
        (Adder.static, 20), (Adder.of, 10), (functools.partial(Adder(1)), 11),
        (functools.wraps(len)(lambda x: x * 3), 30),
    ):  # fmt: skip
        remote = shoal.remote(function)
        if expected is not None:
            assert shoal.get(remote.remote(10)) == expected, function
        assert repr(remote)
    assert shoal.get(shoal.remote(len).remote([1, 2])) == 2
    with pytest.raises(TaskError):
        shoal.get(shoal.remote(len).remote(5))


def test_an_unpicklable_argument_of_a_callable_without_a_name():
    function = shoal.remote(functools.partial(print, "never"))
    with pytest.raises(PicklingError, match=r"argument 0\[1\].*lock"):
        function.remote([1, threading.Lock()])


def test_an_async_function_is_refused():
    async def coroutine():
        return 1

    with pytest.raises((TypeError, ValueError), match="async"):
        shoal.remote(coroutine)


def test_unpicklable_arguments_are_named_with_their_path():
    class Model:
        def __init__(self):
            self.lock = threading.Lock()

    @shoal.remote
    def train(model, *, config=None):
        return model, config

    until(at_rest)
    before = leftovers()
    for call, path in (
        (lambda: train.remote(threading.Lock()), "argument 0"),
        (lambda: train.remote(1, config={"a": [0, threading.Lock()]}), "argument 'config'['a'][1]"),
        (lambda: train.remote(Model()), "argument 0.lock"),
        (lambda: train.remote([shoal.put(1), np.zeros(5000), Model()]), "argument 0[2].lock"),
        (lambda: train.remote(shoal.put(1), config=(x for x in "ab")), "argument 'config'"),
    ):
        with pytest.raises(PicklingError, match=r"in the call of train\(\): cannot pickle") as caught:
            call()
        assert caught.value.path == path
        assert isinstance(caught.value, TypeError)
    del caught
    audit(kept=before)


def test_unpicklable_functions_are_named_with_their_path():
    lock = threading.Lock()

    @shoal.remote
    def closes_over():
        return lock

    with pytest.raises(PicklingError, match="lock") as caught:
        closes_over.remote()
    assert "closes_over" in caught.value.path and "lock" in caught.value.path


def test_calls_with_references_of_wrong_kinds():
    with pytest.raises(TypeError):
        shoal.get(same)
    with pytest.raises(TypeError):
        shoal.get(same.remote)
    with pytest.raises(TypeError):
        shoal.get([same.remote(1), same])
