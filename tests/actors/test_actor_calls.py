"""Actors: making one, its state, its methods and how they return."""

import functools
from dataclasses import dataclass

import numpy as np
import pytest

import shoal
from conftest import until
from shoal import _core
from shoal.exceptions import TaskError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
class Counter:
    """Counts."""

    shared = "class attribute"

    def __init__(self, start=0, *more, step=1, **names):
        self.value = start + sum(more)
        self.step = step
        self.names = names

    def increment(self, by=None):
        self.value += self.step if by is None else by
        return self.value

    def get(self):
        return self.value

    def parts(self):
        return self.step, self.names

    def fail(self, text):
        raise KeyError(text)

    @shoal.method(num_returns=2)
    def pair(self):
        return self.value, -self.value

    @shoal.method(num_returns=0)
    def forget(self):
        self.value += 100

    def count(self, n):
        for i in range(n):
            self.value += 1
            yield i

    @shoal.method(num_returns=3)
    def three_from_a_generator(self):
        yield from "abc"

    def _private(self):
        return "private"

    @classmethod
    def of_the_class(cls):
        return cls.__name__, cls.shared

    @staticmethod
    def of_nobody(x):
        return x * 2

    @property
    def twice(self):
        return self.value * 2

    def __call__(self, x=1):
        return self.value + x

    def many_arguments(self, a, /, b, *args, c=3, **kwargs):
        return a, b, args, c, kwargs


def test_constructor_takes_all_kinds_of_arguments():
    counter = Counter.remote(1, 2, 3, step=5, color="red")
    assert shoal.get(counter.increment.remote()) == 11
    assert shoal.get(counter.parts.remote()) == (5, {"color": "red"})


def test_constructor_arguments_that_are_references_arrive_as_values():
    @shoal.remote
    def later(x):
        return x

    counter = Counter.remote(shoal.put(40), later.remote(2), step=later.remote(7))
    assert shoal.get(counter.increment.remote()) == 49


def test_references_inside_containers_stay_references():
    inner = shoal.put("inside")
    counter = Counter.remote(held=[inner])
    _, names = shoal.get(counter.parts.remote())
    assert names["held"] == [inner]
    assert shoal.get(names["held"][0]) == "inside"


def test_constructor_takes_large_arrays_and_keeps_views_of_them():
    @shoal.remote
    class Keeper:
        def __init__(self, direct, by_ref):
            self.arrays = direct, by_ref

        def sums(self):
            return [float(a.sum()) for a in self.arrays], [a.flags.writeable for a in self.arrays]

    array = np.ones(100_000)
    keeper = Keeper.remote(array, shoal.put(array * 2))
    assert shoal.get(keeper.sums.remote()) == ([100_000.0, 200_000.0], [False, False])


def test_state_stays_and_actors_of_one_class_do_not_share_it():
    one, other = Counter.remote(), Counter.remote(100)
    assert shoal.get([one.increment.remote() for _ in range(5)]) == [1, 2, 3, 4, 5]
    assert shoal.get([other.increment.remote(10), one.get.remote()]) == [110, 5]


def test_method_arguments_of_all_kinds():
    counter = Counter.remote()
    ref = shoal.put("B")
    call = counter.many_arguments.remote("A", ref, 1, 2, c=ref, d=[ref])
    a, b, args, c, kwargs = shoal.get(call)
    assert (a, b, args, c) == ("A", "B", (1, 2), "B")
    assert kwargs == {"d": [ref]}


def test_wrong_arguments_fail_the_call_and_not_the_actor():
    counter = Counter.remote()
    with pytest.raises(TypeError, match="unexpected keyword"):
        shoal.get(counter.get.remote(nonsense=1))
    with pytest.raises(TypeError, match="positional"):
        shoal.get(counter.get.remote(1, 2, 3))
    assert shoal.get(counter.get.remote()) == 0


def test_an_exception_arrives_as_its_own_type_and_names_the_method():
    counter = Counter.remote()
    with pytest.raises(KeyError) as caught:
        shoal.get(counter.fail.remote("lost"))
    assert isinstance(caught.value, TaskError)
    assert "Counter.fail" in str(caught.value) and "lost" in str(caught.value)
    assert shoal.get(counter.increment.remote()) == 1


def test_an_argument_whose_task_failed_fails_the_call_only():
    @shoal.remote
    def broken():
        raise ZeroDivisionError("the argument")

    counter = Counter.remote()
    with pytest.raises(ZeroDivisionError, match="the argument"):
        shoal.get(counter.increment.remote(broken.remote()))
    assert shoal.get(counter.get.remote()) == 0


def test_an_unpicklable_argument_is_refused_where_it_is_given():
    import threading

    counter = Counter.remote()
    with pytest.raises(TypeError, match=r"in the call of increment\(\).*argument 'by'") as caught:
        counter.increment.remote(by=threading.Lock())
    assert isinstance(caught.value, shoal.exceptions.PicklingError)
    assert shoal.get(counter.increment.remote()) == 1


def test_an_unpicklable_result_fails_the_call_only():
    @shoal.remote
    class Maker:
        def lock(self):
            import threading

            return threading.Lock()

        def well(self):
            return "well"

    maker = Maker.remote()
    with pytest.raises(TypeError, match="pickle"):
        shoal.get(maker.lock.remote())
    assert shoal.get(maker.well.remote()) == "well"


def test_num_returns():
    counter = Counter.remote(3)
    plus, minus = counter.pair.remote()
    assert shoal.get([plus, minus]) == [3, -3]
    assert counter.forget.remote() is None
    assert shoal.get(counter.get.remote()) == 103
    assert shoal.get(counter.pair.options(num_returns=1).remote()) == (103, -103)
    assert shoal.get(counter.parts.options(num_returns=2).remote()) == [1, {}]
    assert shoal.get(counter.three_from_a_generator.remote()) == ["a", "b", "c"]


def test_a_wrong_number_of_returns_fails_all_of_them():
    counter = Counter.remote()
    for ref in counter.pair.options(num_returns=3).remote():
        with pytest.raises(ValueError, match="num_returns=3"):
            shoal.get(ref)
    with pytest.raises(TypeError, match="several values"):
        shoal.get(counter.get.options(num_returns=2).remote())
    assert shoal.get(counter.get.remote()) == 0


def test_generator_methods_stream():
    counter = Counter.remote()
    items = counter.count.remote(4)
    assert isinstance(items, shoal.ObjectRefGenerator)
    assert [shoal.get(ref) for ref in items] == [0, 1, 2, 3]
    assert shoal.get(counter.get.remote()) == 4


def test_a_generator_method_that_fails_gives_its_items_first():
    @shoal.remote
    class Source:
        def items(self):
            yield 1
            yield 2
            raise RuntimeError("dry")

    source = Source.remote()
    refs = list(source.items.remote())
    assert shoal.get(refs[:2]) == [1, 2]
    with pytest.raises(RuntimeError, match="dry"):
        shoal.get(refs[2])
    assert len(refs) == 3


def test_a_dropped_generator_leaves_nothing():
    counter = Counter.remote()
    shoal.get(counter.get.remote())
    before = _core.statistics()["objects"]
    items = counter.count.remote(50)
    next(items)
    del items
    shoal.get(counter.get.remote())
    until(lambda: _core.statistics()["objects"] <= before)


def test_private_class_and_static_methods_and_call():
    counter = Counter.remote(7)
    assert shoal.get(counter._private.remote()) == "private"
    assert shoal.get(counter.of_the_class.remote()) == ("Counter", "class attribute")
    assert shoal.get(counter.of_nobody.remote(21)) == 42
    assert shoal.get(counter.__call__.remote(x=3)) == 10


def test_inheritance():
    class Base:
        def __init__(self, x):
            self.x = x

        def inherited(self):
            return self.x

        def overridden(self):
            return "base"

        def __call__(self):
            return self.x

        @shoal.method(num_returns=2)
        def two(self):
            return 1, 2

    class Middle(Base):
        def overridden(self):
            return "middle of " + super().overridden()

    @shoal.remote
    class Derived(Middle):
        def __init__(self, x):
            super().__init__(x * 2)

        def own(self):
            return self.inherited() + 1

    derived = Derived.remote(10)
    assert shoal.get([derived.inherited.remote(), derived.own.remote()]) == [20, 21]
    assert shoal.get(derived.overridden.remote()) == "middle of base"
    assert shoal.get(derived.two.remote()) == [1, 2]
    assert shoal.get(derived.__call__.remote()) == 20
    as_base = shoal.remote(Base).remote(5)
    assert shoal.get(as_base.inherited.remote()) == 5


def test_special_methods_of_the_class_do_not_change_its_handles():
    @shoal.remote
    @dataclass
    class Point:
        x: int = 0

        def __len__(self):
            return 0

        def __bool__(self):
            return False

        def __iter__(self):
            return iter("no")

        def __contains__(self, item):
            return item == self.x

        def __getitem__(self, key):
            return key + self.x

        def read(self):
            return self.x, str(self)

    one, other = Point.remote(1), Point.remote(2)
    assert "Point" in repr(one) and "Point" in str(one)
    assert one and one != other and one == one
    assert len({one, other, one}) == 2
    assert shoal.get(one.__contains__.remote(1)) is True
    assert shoal.get(other.__getitem__.remote(3)) == 5
    assert shoal.get(other.__len__.remote()) == 0
    x, text = shoal.get(one.read.remote())
    assert x == 1 and text.endswith("Point(x=1)")


def test_attributes_made_by_the_constructor_and_callables_of_the_class():
    def helper(self, x):
        return x + self.offset

    @shoal.remote
    class Odd:
        borrowed = helper
        partial = functools.partial(int, base=2)
        kind = int  # a class: not a method

        def __init__(self):
            self.offset = 5

        def read(self):
            return self.kind("3")

    odd = Odd.remote()
    assert shoal.get(odd.borrowed.remote(1)) == 6
    assert shoal.get(odd.partial.remote("101")) == 5
    assert shoal.get(odd.read.remote()) == 3
    with pytest.raises(AttributeError):
        odd.kind.remote("3")


def test_a_function_can_be_run_inside_the_actor():
    counter = Counter.remote(5)
    assert shoal.get(counter.__ray_call__.remote(lambda self, x: self.value + x, 3)) == 8
    assert shoal.get(counter.__ray_ready__.remote()) is True


def test_recursive_data_and_nested_results():
    @shoal.remote
    class Nest:
        def make(self):
            ref = shoal.put([1, 2, 3])
            return {"ref": ref, "array": np.arange(5000)}

    nest = Nest.remote()
    result = shoal.get(nest.make.remote())
    shoal.kill(nest)
    until(lambda: _dead(nest))
    assert shoal.get(result["ref"]) == [1, 2, 3]
    assert result["array"].sum() == 4999 * 2500


def _dead(handle):
    return _core.actor_info(handle._ref._handle)["state"] == 3


def test_a_method_can_wait_for_other_work():
    @shoal.remote
    def square(x):
        return x * x

    @shoal.remote
    class Boss:
        def sum(self, n):
            refs = [square.remote(i) for i in range(n)]
            ready, rest = shoal.wait(refs, num_returns=n)
            assert not rest
            return sum(shoal.get(ready))

        def by_other(self, counter, n):
            return sum(shoal.get([counter.increment.remote() for _ in range(n)]))

        def impatient(self, refs):
            with pytest.raises(shoal.exceptions.GetTimeoutError):
                shoal.get(refs[0], timeout=0.01)
            return shoal.wait(refs, timeout=0.01)[0]

    boss = Boss.remote()
    assert shoal.get(boss.sum.remote(20)) == sum(i * i for i in range(20))
    assert shoal.get(boss.by_other.remote(Counter.remote(), 10)) == 55

    blocked = shoal.lock()
    with blocked:

        @shoal.remote
        def stuck(lock):
            with lock:
                return 1

        ref = stuck.remote(blocked)
        assert shoal.get(boss.impatient.remote([ref])) == []
    assert shoal.get(ref) == 1
