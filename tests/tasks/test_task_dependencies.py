"""References as arguments: resolved before the call, whatever they wait for; and errors that pass through."""

import random

import numpy as np
import pytest

import shoal
from conftest import audit, until
from shoal.exceptions import PicklingError, TaskCancelledError, TaskError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
def same(value):
    return value


@shoal.remote
def add(*values, extra=0):
    return sum(values) + extra


@shoal.remote
def hold(path, value):
    until(path.exists, 60)
    return value


@shoal.remote(max_retries=0)
def fail(kind, *args, **kwargs):
    raise kind(*args, **kwargs)


@shoal.remote
def kinds(*values, **named):
    return [type(v).__name__ for v in [*values, *named.values()]]


def test_only_references_at_the_top_are_resolved():
    ref = shoal.put(1)
    assert shoal.get(kinds.remote(ref, [ref], (ref,), {"a": ref}, key=ref, other=[ref])) == (
        ["int", "list", "tuple", "dict", "int", "list"]
    )

    @shoal.remote
    def inside(container):
        return [type(item).__name__ for item in container], shoal.get(container)

    for kind in (list, tuple):
        assert shoal.get(inside.remote(kind([ref, ref]))) == (["ObjectRef"] * 2, [1, 1])
        assert shoal.get(inside.remote(shoal.put(kind([ref, ref])))) == (["ObjectRef"] * 2, [1, 1])


def test_a_reference_to_a_reference_in_a_list_is_resolved_once():
    inner = shoal.put("inner")
    outer = shoal.put([inner])
    got = shoal.get(same.remote(outer))
    assert got == [inner] and shoal.get(got) == ["inner"]


def test_an_argument_that_is_still_being_made(tmp_path):
    go = tmp_path / "go"
    first = hold.remote(go, 20)
    second = add.remote(first, 1, extra=first)
    third = add.remote(second, second, first)
    assert shoal.wait([first, second, third], num_returns=3, timeout=0.05)[0] == []
    go.touch()
    assert shoal.get([third, second, first]) == [102, 41, 20]


def test_the_same_reference_many_times(tmp_path):
    go = tmp_path / "go"
    ref = hold.remote(go, 3)
    calls = [add.remote(*[ref] * 500) for _ in range(3)]
    go.touch()
    assert shoal.get(calls) == [1500] * 3


def test_a_diamond_and_a_lattice():
    top = same.remote(1)
    left, right = add.remote(top, 1), add.remote(top, 2)
    assert shoal.get(add.remote(left, right)) == 5
    row = [same.remote(1) for _ in range(12)]
    for _ in range(30):
        row = [add.remote(row[i], row[(i + 1) % 12], extra=-1) for i in range(12)]
    assert shoal.get(row) == [1] * 12


def test_a_chain_of_a_thousand_submitted_before_the_first_can_run(tmp_path):
    go = tmp_path / "go"
    ref = hold.remote(go, 0)
    for _ in range(1000):
        ref = add.remote(ref, 1)
    go.touch()
    assert shoal.get(ref, timeout=60) == 1000


def test_a_chain_whose_middle_is_dropped():
    ref = same.remote(np.zeros(20_000))
    for _ in range(200):
        ref = same.remote(ref)
    assert shoal.get(ref).shape == (20_000,)
    del ref
    audit()


def test_a_random_graph_is_computed_in_order():
    dice = random.Random(7)
    refs, values = [], []
    for _ in range(400):
        picks = [dice.randrange(len(refs)) for _ in range(dice.randrange(5))] if refs else []
        refs.append(add.remote(*[refs[k] for k in picks], extra=1))
        values.append(sum(values[k] for k in picks) + 1)
    assert shoal.get(refs) == values


def test_one_object_with_ten_thousand_dependents(tmp_path):
    go = tmp_path / "go"
    ref = hold.remote(go, 5)
    calls = [add.remote(ref, i) for i in range(10_000)]
    go.touch()
    assert shoal.get(calls) == [5 + i for i in range(10_000)]


def test_dependencies_across_tasks_that_submit_tasks():
    @shoal.remote
    def submit(value, depth):
        return [add.remote(value, 1) if depth == 0 else submit.remote(add.remote(value, 1), depth - 1)]

    ref = submit.remote(0, 10)
    for _ in range(11):
        ref = shoal.get(ref)[0]
    assert shoal.get(ref) == 11


# --- errors -------------------------------------------------------------------------------------------------


class Custom(Exception):
    def __init__(self, code, *, extra):
        super().__init__(f"code {code}")
        self.code, self.extra = code, extra


def test_the_error_of_an_argument_passes_through_with_its_own_type_and_runs_nothing(tmp_path):
    @shoal.remote
    def touch(*values):
        (tmp_path / "ran").touch()

    failed = fail.remote(Custom, 7, extra=[1])
    for call in (
        touch.remote(failed),
        touch.remote(1, failed),
        touch.remote(same.remote(same.remote(failed))),
    ):
        with pytest.raises(Custom, match="code 7") as caught:
            shoal.get(call)
        assert (caught.value.code, caught.value.extra) == (7, [1])
        assert isinstance(caught.value, TaskError) and "in fail" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_an_error_that_is_nested_does_not_pass_through_by_itself():
    failed = fail.remote(ValueError, "v")

    @shoal.remote
    def look(container):
        try:
            shoal.get(container[0])
        except ValueError as error:
            return f"caught {error.args}"

    assert shoal.get(look.remote([failed])) == "caught ('v',)"


def test_the_first_of_several_failed_arguments_is_the_error():
    with pytest.raises(KeyError):
        shoal.get(add.remote(fail.remote(KeyError, "first"), fail.remote(ValueError, "second")))


def test_all_returns_of_a_task_with_a_failed_argument_fail():
    failed = fail.remote(OSError, 2, "gone", "file")
    for ref in same.options(num_returns=3).remote(failed):
        with pytest.raises(FileNotFoundError) as caught:
            shoal.get(ref)
        assert (caught.value.errno, caught.value.filename) == (2, "file")
    assert same.options(num_returns=0).remote(failed) is None
    with pytest.raises(OSError):
        for ref in same.options(num_returns="streaming").remote(failed):
            shoal.get(ref)


def test_an_argument_that_does_not_unpickle_where_it_arrives():
    with pytest.raises(ZeroDivisionError):
        shoal.get(same.remote(Explosive()))
    with pytest.raises(ZeroDivisionError):
        shoal.get(same.remote(shoal.put(Explosive())))


class Explosive:
    def __reduce__(self):
        return divmod, (1, 0)


def test_a_cancelled_argument_is_the_error(tmp_path):
    go = tmp_path / "go"
    blockers = [hold.remote(go, 0) for _ in range(2)]
    cancelled = same.remote(1)
    dependent = add.remote(cancelled, 1)
    shoal.cancel(cancelled)
    go.touch()
    with pytest.raises(TaskCancelledError):
        shoal.get(dependent)
    shoal.get(blockers)


def test_errors_in_a_chain_keep_the_first_place():
    def boom():
        raise ArithmeticError("deep")

    @shoal.remote(max_retries=0)
    def start():
        boom()

    ref = start.remote()
    for _ in range(5):
        ref = same.remote(ref)
    with pytest.raises(ArithmeticError, match="deep") as caught:
        shoal.get(ref)
    text = str(caught.value)
    assert "in boom" in text and "start" in text and text.count("Traceback") == 1


def test_a_result_that_cannot_be_pickled_fails_its_dependents():
    @shoal.remote
    def generator():
        return (x for x in "abc")

    with pytest.raises(PicklingError, match="generator"):
        shoal.get(same.remote(generator.remote()))
