"""Actors used wrongly: each mistake has an error that says what to do instead."""

import threading

import pytest

import shoal
from shoal.exceptions import PicklingError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
class Door:
    def __init__(self, width=1):
        self.width = width

    def open(self):
        return "open"

    def close(self):
        return "closed"

    def _oil(self):
        pass

    @property
    def wide(self):
        return self.width > 1


def test_direct_instantiation():
    with pytest.raises(TypeError, match=r"use Door\.remote"):
        Door(3)


def test_direct_method_call():
    door = Door.remote()
    with pytest.raises(TypeError, match=r"open\(\) cannot be called directly.*open\.remote"):
        door.open()


def test_unknown_method_names_the_known_ones():
    door = Door.remote()
    with pytest.raises(AttributeError, match=r"'opne'.*its methods are: close, open$"):
        door.opne.remote()
    assert not hasattr(door, "width")  # attributes of the instance are not methods
    with pytest.raises(AttributeError, match="'wide'"):
        door.wide.remote()


def test_a_class_without_methods():
    @shoal.remote
    class Empty:
        pass

    with pytest.raises(AttributeError, match="its methods are: none"):
        Empty.remote().anything.remote()


def test_attributes_of_a_handle_cannot_be_set():
    door = Door.remote()
    with pytest.raises(AttributeError):
        door.width = 5
    with pytest.raises(AttributeError):
        door.open = 5


def test_subclassing_an_actor_class():
    with pytest.raises(TypeError, match="derive from the plain class and decorate"):

        class Gate(Door):
            pass


@pytest.mark.parametrize("thing", [3, "name", None, [1]])
def test_remote_of_what_is_no_class(thing):
    with pytest.raises(TypeError, match="@remote"):
        shoal.remote(thing)


def test_remote_twice():
    with pytest.raises(TypeError, match="remote already"):
        shoal.remote(Door)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"num_return": 1}, "num_return"),
        ({"max_retries": 3}, "max_restarts"),
        ({"num_returns": 2}, "@shoal.method"),
        ({"lifetime": "forever"}, "detached"),
        ({"max_concurrency": 0}, "at least 1"),
        ({"max_restarts": -2}, "-1 for ever"),
        ({"name": ""}, "name"),
        ({"get_if_exists": True}, "needs a name"),
        ({"num_cpus": -1}, "negative"),
    ],
)
def test_wrong_options(options, advice):
    with pytest.raises(ValueError, match=advice):
        shoal.remote(**options)(type("X", (), {}))
    with pytest.raises(ValueError, match=advice):
        Door.options(**options)


def test_wrong_method_options():
    door = Door.remote()
    with pytest.raises(ValueError, match="num_returns"):
        door.open.options(num_returns=-1)
    with pytest.raises(ValueError, match="num_cpus"):
        door.open.options(num_cpus=1)
    with pytest.raises(TypeError, match="keyword options"):
        shoal.method(lambda self: None)
    with pytest.raises(TypeError, match="at least one"):
        shoal.method()


def test_get_kill_and_wait_of_the_wrong_thing():
    door = Door.remote()
    with pytest.raises(TypeError, match="call one of its methods"):
        shoal.get(door)
    with pytest.raises(TypeError, match="actor handle"):
        shoal.kill(door.open.remote())
    with pytest.raises(TypeError, match="actor handle"):
        shoal.kill("Door")
    with pytest.raises(TypeError):
        shoal.wait([door])
    with pytest.raises(TypeError, match=r"kill\(handle\)"):
        shoal.cancel(door)
    with pytest.raises(TypeError, match="outside of an actor"):
        shoal.exit_actor()
    with pytest.raises(RuntimeError, match="not run in an actor"):
        _ = shoal.get_runtime_context().current_actor


def test_an_unpicklable_constructor_argument_is_refused_where_it_is_given():
    with pytest.raises(PicklingError, match=r"in the call of Door\(\).*argument 'width'.*lock"):
        Door.remote(width=threading.Lock())
    with pytest.raises(PicklingError):
        Door.options(name="stillborn").remote(threading.Lock())
    again = Door.options(name="stillborn").remote(2)  # its name was not kept
    assert shoal.get(again.open.remote()) == "open"


def test_a_class_that_cannot_be_pickled():
    lock = threading.Lock()

    @shoal.remote
    class Holds:
        def read(self):
            return lock

    with pytest.raises(PicklingError, match="lock"):
        Holds.remote()


def test_a_constructor_argument_that_does_not_unpickle():
    class Bomb:
        def __reduce__(self):
            return (int, ("not a number",))

    door = Door.remote(Bomb())
    with pytest.raises(shoal.exceptions.ActorDiedError, match="not a number"):
        shoal.get(door.open.remote())


def test_no_graphs():
    for build in (lambda: Door.bind(), lambda: Door.remote().open.bind()):
        with pytest.raises(AttributeError, match="task graphs"):
            build()
