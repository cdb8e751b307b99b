"""All kinds of classes as actors: whatever Python lets one write, a handle and a process can deal with."""

import abc
import contextvars
import functools
import os
import subprocess
import sys
import threading
from typing import Generic, NamedTuple, Protocol, TypeVar

import pytest

import shoal
from conftest import until
from shoal.exceptions import ActorDiedError

pytestmark = pytest.mark.usefixtures("audited")
T = TypeVar("T")


def traced(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        return "traced", function(self, *args, **kwargs)

    return wrapper


def call(cls, method, *args, options=None, make=(), **kwargs):
    """Makes an actor of the class, and gets the result of one call."""
    handle = shoal.remote(cls).options(**(options or {})).remote(*make)
    return shoal.get(getattr(handle, method).remote(*args, **kwargs))


def test_decorated_methods():
    class Decorated:
        n = 10

        @traced
        def wrapped(self, x):
            return x + self.n

        @traced
        @shoal.method(num_returns=2)
        def two(self):
            return 1

        add = functools.partialmethod(wrapped, 5)

        double = staticmethod(lambda x: x * 2)

        @property
        def slow(self):
            return 5

    assert call(Decorated, "wrapped", 1) == ("traced", 11)
    assert call(Decorated, "two") == ["traced", 1]  # functools.wraps keeps the options
    assert call(Decorated, "add") == ("traced", 15)
    assert call(Decorated, "double", 4) == 8
    with pytest.raises(AttributeError, match="no method 'slow'"):
        call(Decorated, "slow")


def test_abstract_classes():
    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...

        def twice(self):
            return 2 * self.area()

    class Square(Shape):
        def area(self):
            return 4

    assert call(Square, "twice") == 8
    with pytest.raises(ActorDiedError, match="abstract"):
        call(Shape, "area")


def test_slots_metaclasses_generics_and_protocols():
    class Meta(type):
        def make(cls):
            return "of the metaclass"

    class Slotted(Generic[T], metaclass=Meta):
        __slots__ = ("value",)

        def __init__(self, value: T):
            self.value = value

        def get(self) -> T:
            return self.value

        def own(self):
            return type(self).make()

    class Reads(Protocol):
        def read(self) -> int: ...

    class Reader(Reads):
        def read(self) -> int:
            return 1

    assert call(Slotted, "get", make=(3,)) == 3
    assert call(Slotted, "own", make=(3,)) == "of the metaclass"
    assert call(Reader, "read") == 1


def test_subclasses_of_built_in_classes():
    class Table(dict):
        def put(self, key, value):
            self[key] = value
            return len(self)

        def __getitem__(self, key):
            return "got", super().__getitem__(key)

    class Pair(NamedTuple):
        left: int
        right: int

        def sum(self):
            return self.left + self.right

    handle = shoal.remote(Table).remote({"a": 1}, b=2)
    assert shoal.get(handle.put.remote("c", 3)) == 3
    assert shoal.get(handle.__getitem__.remote("c")) == ("got", 3)
    assert shoal.get(handle.get.remote("a")) == 1 and sorted(shoal.get(handle.copy.remote())) == [
        "a",
        "b",
        "c",
    ]
    assert call(Pair, "sum", make=(1, 2)) == 3
    assert call(Pair, "index", 2, make=(1, 2)) == 1


def test_mixins_and_cooperative_constructors():
    class Named:
        def __init__(self, *, name, **rest):
            super().__init__(**rest)
            self.name = name

    class Sized:
        def __init__(self, *, size, **rest):
            super().__init__(**rest)
            self.size = size

    class Both(Named, Sized):
        def show(self):
            return f"{self.name} {self.size} {[c.__name__ for c in type(self).__mro__[:3]]}"

    handle = shoal.remote(Both).remote(name="box", size=3)
    assert shoal.get(handle.show.remote()) == "box 3 ['Both', 'Named', 'Sized']"


def test_new_and_getattr():
    class Odd:
        def __new__(cls, *args):
            self = super().__new__(cls)
            self.made = args
            return self

        def __init__(self, *args):
            pass

        def __getattr__(self, name):
            if name.startswith("dynamic"):
                return name
            raise AttributeError(name)

        def read(self):
            return self.made, self.dynamic_thing

    handle = shoal.remote(Odd).remote(1, 2)
    assert shoal.get(handle.read.remote()) == ((1, 2), "dynamic_thing")
    with pytest.raises(AttributeError, match="no method 'dynamic_thing'"):
        handle.dynamic_thing.remote()


def test_names_that_a_handle_uses_itself():
    class Clash:
        def remote(self):
            return "remote"

        def options(self):
            return "options"

        def _ref(self):
            return "inside"

        def _class_name(self):
            return self._ref()

        def read(self):
            return self._class_name()

    handle = shoal.remote(Clash).remote()
    assert shoal.get([handle.remote.remote(), handle.options.remote()]) == ["remote", "options"]
    assert shoal.get(handle.read.remote()) == "inside"
    assert "Clash" in repr(handle)


def test_a_class_that_is_changed_after_it_was_made_remote():
    class Plain:
        n = 1

        def get(self):
            return self.n

    Remote = shoal.remote(Plain)
    Plain.n = 2
    first = Remote.remote()
    assert shoal.get(first.get.remote()) == 2
    Plain.n = 3  # it was sent already
    assert shoal.get(Remote.remote().get.remote()) == 2


def test_the_same_name_for_different_classes():
    def make(n):
        class Same:
            def get(self):
                return n

        return shoal.remote(Same)

    assert [shoal.get(make(n).remote().get.remote()) for n in range(5)] == list(range(5))


def test_the_plain_class_stays_usable():
    class Plain:
        def get(self):
            return 1

    Remote = shoal.remote(Plain)
    assert Plain().get() == 1 and Remote._class is Plain
    assert Remote.__name__ == "Plain" and "Plain" in repr(Remote)

    class Derived(Plain):
        def get(self):
            return super().get() + 1

    assert call(Derived, "get") == 2


def test_an_actor_with_threads_of_its_own():
    class Background:
        def __init__(self):
            self.ticks = 0
            self.results = []
            self.gate = threading.Event()
            self.thread = threading.Thread(target=self.run, daemon=True)
            self.thread.start()

        def run(self):
            @shoal.remote
            def square(x):
                return x * x

            for i in range(10):
                self.results.append(shoal.get(square.remote(i)))
            self.gate.set()

        def wait(self):
            self.gate.wait(30)
            return self.results

    assert call(Background, "wait") == [i * i for i in range(10)]


def test_processes_of_an_actor():
    class Parent:
        def run(self):
            return subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout

        def fork(self):
            pid = os.fork()
            if pid == 0:
                try:
                    shoal.put(1)
                except shoal.exceptions.ForkedError:
                    os._exit(42)
                os._exit(1)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        def well(self):
            return shoal.get(shoal.put("well"))

    handle = shoal.remote(Parent).remote()
    assert shoal.get([handle.run.remote(), handle.fork.remote(), handle.well.remote()]) == [
        "42\n",
        42,
        "well",
    ]


def test_context_variables_of_async_calls_are_their_own():
    class Async:
        def __init__(self):
            self.variable = contextvars.ContextVar("mine", default="unset")

        async def set(self, value):
            before = self.variable.get()
            self.variable.set(value)
            return before

    handle = shoal.remote(Async).remote()
    assert shoal.get([handle.set.remote(i) for i in range(5)]) == ["unset"] * 5


def test_the_process_ends_though_a_thread_of_it_does_not():
    class Stubborn:
        def start(self):
            threading.Thread(target=threading.Event().wait).start()  # not a daemon
            return os.getpid()

    handle = shoal.remote(Stubborn).remote()
    pid = shoal.get(handle.start.remote())
    del handle
    until(lambda: not os.path.exists(f"/proc/{pid}"))


def test_environment_and_runtime_context():
    class Facts:
        def read(self):
            context = shoal.get_runtime_context()
            return os.environ.get("FLAVOUR"), context.get_actor_id(), context.get_actor_name(), os.getpid()

    cls = shoal.remote(Facts)
    handle = cls.options(name="facts", runtime_env={"env_vars": {"FLAVOUR": "mint"}}).remote()
    flavour, actor_id, name, pid = shoal.get(handle.read.remote())
    assert (flavour, actor_id, name) == ("mint", handle._actor_id, "facts") and pid != os.getpid()
    assert shoal.get(cls.remote().read.remote())[0] is None
