"""The exceptions: their family, that they travel, and that a task's error can be caught by its own type."""

from __future__ import annotations

import abc
import asyncio
import copy
import dataclasses
import doctest
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

from shoal import exceptions
from shoal._errors import tasks
from shoal.exceptions import (
    ActorDiedError,
    ActorError,
    ActorUnavailableError,
    DeadlockError,
    GetTimeoutError,
    InternalError,
    LimitError,
    LockHolderDied,
    ObjectFreedError,
    ObjectLostError,
    ObjectStoreFullError,
    OwnerDiedError,
    PicklingError,
    RuntimeEnvSetupError,
    SessionVersionError,
    ShoalError,
    TaskCancelledError,
    TaskError,
    UnpicklableCause,
    UnserializableException,
    task_error_from,
)


def task_error(cause: BaseException | None = None) -> TaskError:
    return TaskError("f", "Traceback of f\n", cause or ValueError("bad", 3), pid=7, actor_id=b"\x01\xff")


# One of each class that needs arguments; the others are made with none, and with a text.
SAMPLES: dict[str, Callable[[], ShoalError]] = {
    "ActorDiedError": lambda: ActorDiedError(task_error(), class_name="A", name="a", pid=9),
    "ActorError": lambda: ActorError(b"\x01\xff", "text", actor_init_failed=True, preempted=True),
    "ActorUnavailableError": lambda: ActorUnavailableError("text", b"\x01\xff"),
    "DeadlockError": lambda: DeadlockError(["a waits for b", "b waits for a"]),
    "InternalError": lambda: InternalError(ValueError("odd"), "Traceback"),
    "LimitError": lambda: LimitError("MAX_OBJECTS", 4, "drop some"),
    "LockHolderDied": lambda: LockHolderDied("worker 1", "add", 7, "'sum'"),
    "ObjectFreedError": lambda: ObjectFreedError("ab12", "here", "x.py:1"),
    "ObjectLostError": lambda: ObjectLostError("ab12", "here", "x.py:1"),
    "OwnerDiedError": lambda: OwnerDiedError(b"\xab\x12"),
    "PicklingError": lambda: PicklingError("cannot pickle x", path="x", type_name="lock"),
    "RuntimeEnvSetupError": lambda: RuntimeEnvSetupError("no such file"),
    "SessionVersionError": lambda: SessionVersionError({"shoal": "2"}, {"shoal": "1"}),
    "TaskCancelledError": lambda: TaskCancelledError(b"\x01\xff"),
    "TaskError": task_error,
    "UnpicklableCause": lambda: UnpicklableCause("socket.error", "error()"),
    "UnserializableException": lambda: UnserializableException("Traceback"),
}

CLASSES: list[type[ShoalError]] = [
    getattr(exceptions, name)
    for name in exceptions.__all__
    if isinstance(getattr(exceptions, name), type) and name not in ("SchedulingWarning",)
]


def instances() -> list[ShoalError]:
    made: list[ShoalError] = []
    for cls in dict.fromkeys(CLASSES):  # the aliases are the same classes
        if cls.__name__ in SAMPLES:
            made.append(SAMPLES[cls.__name__]())
        else:
            made += [cls(), cls("a text", 2)]
    return made


def comparable(value: Any) -> Any:
    """Exceptions are equal only to themselves: compare what they consist of."""
    if isinstance(value, BaseException):
        state = {name: comparable(part) for name, part in vars(value).items()}
        return type(value), comparable(value.args), state, str(value)
    return tuple(map(comparable, value)) if isinstance(value, tuple) else value


class TestFamily:
    def test_everything_has_the_base_and_a_docstring(self) -> None:
        for cls in CLASSES:
            assert issubclass(cls, ShoalError)
            assert cls.__doc__ and cls.__module__ == "shoal.exceptions"

    def test_all_lists_each_class_of_the_module(self) -> None:
        defined = {name for name, value in vars(exceptions).items() if isinstance(value, type) and name[0] != "_"}
        imported = {name for name in defined if getattr(exceptions, name).__module__ != "shoal.exceptions"}
        assert defined - imported - set(exceptions.__all__) == set()
        assert len(exceptions.__all__) == len(set(exceptions.__all__))

    def test_names_of_ray(self) -> None:
        assert exceptions.RayError is ShoalError and exceptions.RayTaskError is TaskError
        assert exceptions.RayActorError is ActorError and exceptions.RaySystemError is InternalError

    @pytest.mark.parametrize(
        ("name", "base"),
        [
            ("ActorDiedError", ActorError),
            ("ActorUnavailableError", ActorError),
            ("ObjectFreedError", ObjectLostError),
            ("OwnerDiedError", ObjectLostError),
            ("NotInitializedError", exceptions.SessionError),
            ("SessionEndedError", exceptions.SessionError),
            ("ForkedError", exceptions.SessionError),
            ("GetTimeoutError", TimeoutError),
            ("ActorAlreadyExistsError", ValueError),
            ("ActorHandleNotFoundError", ValueError),
            ("PicklingError", TypeError),
            ("PicklingError", pickle.PicklingError),
            ("NotMutableError", TypeError),
            ("UnpicklableCause", RuntimeError),
        ],
    )
    def test_also_caught_as(self, name: str, base: type[Exception]) -> None:
        assert issubclass(getattr(exceptions, name), base)

    def test_scheduling_warning(self) -> None:
        assert issubclass(exceptions.SchedulingWarning, UserWarning)

    def test_the_examples_run(self) -> None:
        assert doctest.testmod(exceptions).failed == 0


class TestText:
    def test_says_something_without_a_text(self) -> None:
        assert str(exceptions.NotInitializedError()) == "There is no Shoal session: call shoal.init() first."
        full = str(ObjectStoreFullError())  # of two lines in the source
        assert full.endswith("give shoal.init a larger object_store_memory.") and "\n" not in full
        assert str(ActorUnavailableError()).startswith("The actor cannot be reached now")

    def test_the_text_given_wins(self) -> None:
        assert str(ObjectStoreFullError("1 GB of 1 GB used")) == "1 GB of 1 GB used"
        assert str(GetTimeoutError("after 2 s")) == "after 2 s"
        assert str(TaskCancelledError(error_message="stopped")) == "stopped"

    def test_a_subclass_without_a_docstring_speaks_as_its_base(self) -> None:
        class Mine(exceptions.SessionEndedError):
            pass

        assert str(Mine()) == str(exceptions.SessionEndedError())

    def test_lock_holder_died(self) -> None:
        error = LockHolderDied("worker 1", "add", 7, "'sum'")
        assert (error.holder, error.task_name, error.pid, error.lock_name) == ("worker 1", "add", 7, "'sum'")
        for part in ("worker 1", "add()", "pid 7", "'sum'", "You hold the lock now"):
            assert part in str(error)
        assert "None" not in str(LockHolderDied("a guest"))

    def test_limit(self) -> None:
        error = LimitError("MAX_PROCESSES", 64)
        assert (error.limit_name, error.value) == ("MAX_PROCESSES", 64)
        assert "MAX_PROCESSES=64" in str(error)

    def test_deadlock_names_all_participants(self) -> None:
        error = DeadlockError(["driver waits for x", "task f waits for y"])
        assert error.cycle == ("driver waits for x", "task f waits for y")
        assert "driver waits for x" in str(error) and "task f waits for y" in str(error)
        assert DeadlockError("one text").cycle == ("one text",)

    def test_object_lost(self) -> None:
        assert "ab12" in str(OwnerDiedError(b"\xab\x12")) and "owned it died" in str(OwnerDiedError("x"))
        assert "x.py:1" in str(ObjectLostError("ab12", call_site="x.py:1"))

    def test_internal_error_is_our_bug(self) -> None:
        error = InternalError(KeyError("slot"), "Traceback ...")
        assert error.client_exc == "KeyError('slot')" and error.traceback_str == "Traceback ..."
        assert "bug in Shoal" in str(error) and "KeyError('slot')" in str(error)

    def test_pickling_error(self) -> None:
        assert str(PicklingError("cannot pickle it")) == "cannot pickle it"
        error = PicklingError(path="args[0].lock", type_name="_thread.lock")
        assert (error.path, error.type_name) == ("args[0].lock", "_thread.lock")
        assert "args[0].lock" in str(error) and "_thread.lock" in str(error)


class TestActorErrors:
    def test_ids_are_shown_in_hex(self) -> None:
        assert ActorError(b"\x01\xff").actor_id == "01ff"
        assert ActorError("01ff").actor_id == "01ff"
        assert ActorUnavailableError("restarting", b"\x01\xff").actor_id == "01ff"
        assert ActorError().actor_id is None

    def test_flags(self) -> None:
        error = ActorError(error_msg="gone", actor_init_failed=True, preempted=True)
        assert error.actor_init_failed and error.preempted and error.error_msg == str(error) == "gone"
        assert not ActorError().actor_init_failed

    def test_died_of_its_init(self) -> None:
        cause = task_error()
        error = ActorDiedError.from_task_error(cause)
        assert error.actor_init_failed and error.cause is cause
        assert (error.actor_id, error.pid) == ("01ff", 7)
        assert "__init__ failed" in str(error) and "Traceback of f" in str(error)

    def test_died_otherwise(self) -> None:
        error = ActorDiedError("killed", class_name="Counter", name="c", pid=3)
        assert str(error) == "The actor Counter ('c', pid 3) is dead: killed"
        assert not error.actor_init_failed
        assert "None" not in str(ActorDiedError())


class Oddly(ShoalError):
    """A user's subclass whose parameters are not its args."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


each_error = pytest.mark.parametrize("error", instances(), ids=lambda error: type(error).__name__)


class TestTravel:
    @each_error
    @pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
    def test_pickle(self, error: ShoalError, pickler: Any) -> None:
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickler.dumps(error, protocol=protocol))
            assert comparable(again) == comparable(error)

    @each_error
    def test_copy(self, error: ShoalError) -> None:
        assert comparable(copy.copy(error)) == comparable(error)
        assert comparable(copy.deepcopy(error)) == comparable(error)

    def test_subclass_and_added_attribute(self) -> None:
        error = Oddly(4, detail="lost")
        error.added = [1, 2]  # type: ignore[attr-defined]
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.code, again.added) == ("4: lost", 4, [1, 2])

    def test_slots_of_a_subclass(self) -> None:
        again = pickle.loads(pickle.dumps(Slotted(5)))
        assert again.code == 5 and not hasattr(again, "unset")


class Slotted(ShoalError):
    __slots__ = ("code", "unset")

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


# -- causes that are hard to copy ---------------------------------------------------------------------------


class WrongInit(Exception):
    """The common mistake: pickles, but does not unpickle by itself."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code


class WrongInitOSError(OSError):
    def __init__(self, url: str, *, code: int) -> None:
        super().__init__(2, "gone", url)
        self.code = code


class WithNew(Exception):
    def __new__(cls, code: int, reason: str) -> WithNew:
        self = super().__new__(cls, code)
        self.reason = reason  # type: ignore[attr-defined]
        return self


class WithSlots(ValueError):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Taken(Exception):
    """Has names that TaskError uses itself."""

    def __init__(self) -> None:
        super().__init__("taken")
        self.pid = "my pid"
        self._task_error = "mine"

    @property
    def cause(self) -> str:
        return "my cause"

    @property
    def function_name(self) -> str:
        return "my function"


class WithMeta(Exception, metaclass=abc.ABCMeta):
    """Has a metaclass, as classes with abstract methods do."""


class OwnReduce(Exception):
    def __init__(self, handle: object, code: int) -> None:
        super().__init__(code)
        self.handle = handle
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return (OwnReduce, ("made again", self.code))


class OwnReduceEx(OwnReduce):
    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (OwnReduceEx, ("made again", self.code))


class Strict(Exception):
    """Looks at every attribute it is asked for and refuses to be changed."""

    def __init__(self) -> None:
        super().__init__("strict")
        self.__dict__["code"] = 1

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError("read-only")


def unicode_error() -> UnicodeDecodeError:
    return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


CAUSES: dict[str, tuple[Callable[[], Exception], dict[str, Any]]] = {
    "Exception": (lambda: Exception("a", 1), {}),
    "ValueError": (lambda: ValueError("bad"), {}),
    "KeyError": (lambda: KeyError("key"), {}),
    "ZeroDivisionError": (lambda: ZeroDivisionError(), {}),
    "StopIteration": (lambda: StopIteration(4), {"value": 4}),
    "FileNotFoundError": (lambda: OSError(2, "gone", "a.txt"), {"errno": 2, "filename": "a.txt"}),
    "OSError": (lambda: OSError(5, "broken"), {"errno": 5, "strerror": "broken", "filename": None}),
    "ImportError": (lambda: ImportError("no", name="mod", path="p"), {"name": "mod", "path": "p"}),
    "SyntaxError": (lambda: SyntaxError("bad", ("x.py", 3, 4, "text")), {"lineno": 3, "filename": "x.py"}),
    "UnicodeDecodeError": (unicode_error, {"start": 0, "end": 1, "object": b"\xff", "encoding": "utf-8"}),
    "WrongInit": (lambda: WrongInit(404, "gone"), {"code": 404}),
    "WrongInitOSError": (lambda: WrongInitOSError("url", code=5), {"code": 5, "errno": 2, "filename": "url"}),
    "WithNew": (lambda: WithNew(404, "gone"), {"reason": "gone"}),
    "WithSlots": (lambda: WithSlots(404), {"code": 404}),
    "Frozen": (lambda: Frozen(404), {"code": 404}),
    "Taken": (lambda: Taken(), {"pid": "my pid", "function_name": "my function"}),
    "WithMeta": (lambda: WithMeta("meta"), {}),
    "OwnReduce": (lambda: OwnReduce("made again", 3), {"code": 3, "handle": "made again"}),
    "OwnReduceEx": (lambda: OwnReduceEx("made again", 3), {"code": 3, "handle": "made again"}),
    "Strict": (lambda: Strict(), {"code": 1}),
    "GetTimeoutError": (lambda: GetTimeoutError("after 1 s"), {}),
    "LimitError": (lambda: LimitError("MAX", 1), {"limit_name": "MAX", "value": 1}),
    "ActorDiedError": (lambda: ActorDiedError("killed", pid=3), {"pid": 3, "actor_init_failed": False}),
    "ShoalError": (lambda: ShoalError("plain"), {}),
}

each_cause = pytest.mark.parametrize("name", CAUSES)


def check_dual(error: TaskError, original: Exception, attributes: dict[str, Any]) -> None:
    assert isinstance(error, TaskError)
    assert isinstance(error, type(original))
    assert type(error.cause) is type(original)
    assert error.args == error.cause.args == original.args
    assert str(error.cause) == str(original)
    for attribute, value in attributes.items():
        assert getattr(error, attribute) == value, attribute
        assert getattr(error.cause, attribute) == value, attribute
    assert "Traceback of f" in str(error)


class TestDual:
    @each_cause
    def test_is_both(self, name: str) -> None:
        make, attributes = CAUSES[name]
        cause = make()
        check_dual(task_error(cause).as_instanceof_cause(), cause, attributes)
        check_dual(task_error(cause).make_dual_exception_instance(), cause, attributes)

    @each_cause
    @pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
    def test_travels_as_plain_error(self, name: str, pickler: Any) -> None:
        make, attributes = CAUSES[name]
        cause = make()
        again = pickle.loads(pickler.dumps(task_error(cause)))
        assert type(again) is TaskError and again.pid == 7 and again.actor_id == "01ff"
        check_dual(again.as_instanceof_cause(), cause, attributes)

    @each_cause
    @pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
    def test_travels_as_dual(self, name: str, pickler: Any) -> None:
        make, attributes = CAUSES[name]
        cause = make()
        dual = task_error(cause).as_instanceof_cause()
        again = pickle.loads(pickler.dumps(dual))
        assert type(again) is type(dual) and str(again) == str(dual)
        check_dual(again, cause, attributes)

    @each_cause
    def test_can_be_copied(self, name: str) -> None:
        make, attributes = CAUSES[name]
        cause = make()
        for copied in (copy.copy, copy.deepcopy):
            check_dual(copied(task_error(cause).as_instanceof_cause()), cause, attributes)

    @each_cause
    def test_can_be_raised_and_caught_by_its_own_type(self, name: str) -> None:
        cause = CAUSES[name][0]()
        with pytest.raises(type(cause)) as caught:
            raise task_error(cause).as_instanceof_cause()
        shown = "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
        assert f"TaskError({type(cause).__qualname__})" in shown
        assert "Traceback of f" in shown or name == "SyntaxError"  # Python prints these in a way of its own

    def test_new_instance_each_time_of_one_class(self) -> None:
        error = task_error()
        first, second = error.as_instanceof_cause(), error.as_instanceof_cause()
        assert first is not second and type(first) is type(second)
        assert type(task_error(ValueError("other")).as_instanceof_cause()) is type(first)
        assert type(task_error(TypeError()).as_instanceof_cause()) is not type(first)

    def test_attributes_of_the_task_error_are_there(self) -> None:
        dual = task_error().as_instanceof_cause()
        assert (dual.function_name, dual.traceback_str, dual.pid) == ("f", "Traceback of f\n", 7)
        assert dual.as_instanceof_cause() is dual and dual.make_dual_exception_instance() is dual

    def test_attributes_are_a_copy(self) -> None:
        cause = WrongInit(1, "x")
        dual = task_error(cause).as_instanceof_cause()
        dual.code = 2  # type: ignore[attr-defined]
        assert cause.code == 1

    def test_its_class_called_makes_an_ordinary_exception(self) -> None:
        dual = task_error().as_instanceof_cause()
        with pytest.raises(ValueError, match="^more$") as caught:
            raise type(dual)("more") from dual  # type: ignore[call-arg]
        assert type(caught.value) is ValueError and caught.value.__cause__ is dual

    @pytest.mark.parametrize("cause", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
    def test_what_would_end_the_caller_stays_plain(self, cause: BaseException) -> None:
        error = task_error(cause)
        assert error.as_instanceof_cause() is error and error.make_dual_exception_instance() is error
        assert type(pickle.loads(pickle.dumps(error)).cause) is type(cause)

    def test_class_that_refuses_subclasses(self) -> None:
        class Final(Exception):
            def __init_subclass__(cls) -> None:
                raise TypeError("final")

        error = task_error(Final("x"))
        assert error.as_instanceof_cause() is error and isinstance(error.cause, Final)

    def test_class_with_an_odd_metaclass(self) -> None:
        class Meta(type):
            def __new__(mcs, name: str, bases: Any, body: dict[str, Any], *, key: int) -> Any:
                return super().__new__(mcs, name, bases, body)

            def __init__(cls, name: str, bases: Any, body: dict[str, Any], *, key: int) -> None:
                super().__init__(name, bases, body)

        class Odd(Exception, metaclass=Meta, key=1):
            pass

        error = task_error(Odd("x"))
        assert error.as_instanceof_cause() is error

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
    def test_exception_group(self) -> None:
        group_class = __import__("builtins").ExceptionGroup
        inner = (ValueError("one"), KeyError("two"))
        cause = group_class("several", inner)
        for error in (task_error(cause), pickle.loads(pickle.dumps(task_error(cause)))):
            dual: Any = error.as_instanceof_cause()
            assert issubclass(type(dual), group_class) and issubclass(type(dual), TaskError)
            assert [type(part) for part in dual.exceptions] == [ValueError, KeyError]
            matching, rest = dual.split(KeyError)
            assert [type(part) for part in matching.exceptions] == [KeyError]
            assert [type(part) for part in rest.exceptions] == [ValueError]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
    def test_notes_come_along_and_are_not_shared(self) -> None:
        cause: Any = ValueError("x")
        cause.add_note("at row 3")
        dual: Any = pickle.loads(pickle.dumps(task_error(cause))).as_instanceof_cause()
        dual.add_note("and 4")
        assert dual.__notes__ == ["at row 3", "and 4"]
        assert dual.cause.__notes__ == ["at row 3"]

    def test_class_by_value(self) -> None:
        class Local(Exception):
            code = 3

        again = pickle.loads(cloudpickle.dumps(task_error(Local("x"))))
        dual = again.as_instanceof_cause()
        assert dual.code == 3 and dual.args == ("x",)


class TestTaskError:
    def test_attributes(self) -> None:
        cause = ValueError("bad")
        error = TaskError("f", "tb", cause, "title", 7, "127.0.0.1", "<A>", b"\x01\xff")
        assert error.cause is cause and error.function_name == "f" and error.traceback_str == "tb"
        assert (error.proctitle, error.pid, error.ip) == ("title", 7, "127.0.0.1")
        assert (error.actor_repr, error.actor_id) == ("<A>", "01ff")
        assert str(error) == "f() raised ValueError (title, pid=7, 127.0.0.1, <A>)\n\ntb"
        assert repr(error) == "TaskError('f() raised ValueError')"

    def test_cause_must_be_an_exception(self) -> None:
        with pytest.raises(TypeError, match="must be an exception, not 'bad'"):
            TaskError("f", "tb", "bad")  # type: ignore[arg-type]

    def test_cause_is_never_a_task_error(self) -> None:
        cause = KeyError("k")
        inner = TaskError("f", "tb", cause)
        assert TaskError("g", "tb", inner).cause is cause
        assert TaskError("g", "tb", inner.as_instanceof_cause()).cause is cause

    def test_without_cause(self) -> None:
        cause = WrongInit(404, "gone")
        cause.lock = threading.Lock()  # type: ignore[attr-defined]
        error = TaskError("f", "Traceback of f", cause, pid=7, actor_repr="<A>", actor_id="ab")
        with pytest.raises(TypeError):
            pickle.dumps(error)
        for plain in (error.without_cause(), error.as_instanceof_cause().without_cause()):
            again = pickle.loads(pickle.dumps(plain))
            assert isinstance(again.cause, RuntimeError) and isinstance(again.cause, UnpicklableCause)
            assert again.cause.type_name.endswith("test_exceptions.WrongInit")
            assert again.cause.original_repr == "WrongInit('404 gone')"
            assert (again.pid, again.actor_repr, again.actor_id) == (7, "<A>", "ab")
            assert str(again) == str(error)
        assert error.cause is cause

    def test_without_cause_whose_repr_fails_or_is_long(self) -> None:
        class NoRepr(Exception):
            def __repr__(self) -> str:
                raise ZeroDivisionError

        stand_in = task_error(NoRepr()).without_cause().cause
        assert isinstance(stand_in, UnpicklableCause) and "ZeroDivisionError" in stand_in.original_repr
        long = task_error(ValueError("x" * 100_000)).without_cause().cause
        assert isinstance(long, UnpicklableCause) and len(long.original_repr) < 2_000


def caught(function: Callable[[], Any]) -> BaseException:
    try:
        function()
    except BaseException as exc:
        # The frame of this helper is not part of what a worker sees.
        return exc.with_traceback(exc.__traceback__ and exc.__traceback__.tb_next)
    raise AssertionError("did not raise")


def runtime_calling(function: Callable[[], Any]) -> Callable[[], Any]:
    """`function` called from code that seems to be a file of the package."""
    namespace: dict[str, Any] = {"function": function}
    source = "def execute():\n    return function()\n"
    file = os.path.join(os.path.dirname(exceptions.__file__), "worker.py")
    exec(compile(source, file, "exec"), namespace)
    return namespace["execute"]  # type: ignore[no-any-return]


def failing() -> None:
    raise ValueError("bad value")


class TestTaskErrorFrom:
    def test_carries_the_cause_and_the_place(self) -> None:
        exc = caught(failing)
        error = task_error_from(exc, "failing", actor_repr="<A>", actor_id=b"\x01")
        assert error.cause is exc and error.function_name == "failing" and error.pid == os.getpid()
        assert (error.actor_repr, error.actor_id) == ("<A>", "01")
        assert error.traceback_str.startswith("Traceback (most recent call last):")
        assert "in failing" in error.traceback_str
        assert error.traceback_str.rstrip().endswith("ValueError: bad value")

    def test_leaves_out_the_frames_of_the_runtime(self) -> None:
        error = task_error_from(caught(runtime_calling(failing)), "failing")
        assert "worker.py" not in error.traceback_str and "in failing" in error.traceback_str

    def test_keeps_frames_of_the_runtime_below_the_function(self) -> None:
        inner = runtime_calling(failing)

        def user() -> None:
            inner()

        text = task_error_from(caught(runtime_calling(user)), "user").traceback_str
        assert text.count("worker.py") == 1
        assert text.index("in user") < text.index("worker.py") < text.index("in failing")

    def test_keeps_frames_of_the_runtime_if_there_are_no_others(self) -> None:
        broken = runtime_calling(None)  # type: ignore[arg-type]
        text = task_error_from(caught(broken), "f").traceback_str
        assert "worker.py" in text and "TypeError: 'NoneType' object is not callable" in text

    def test_shows_what_led_to_it(self) -> None:
        def user() -> None:
            try:
                failing()
            except ValueError as exc:
                raise KeyError("outer") from exc

        text = task_error_from(caught(user), "user").traceback_str
        assert "ValueError: bad value" in text and "direct cause" in text and "KeyError: 'outer'" in text

    def test_second_task_gets_the_error_as_an_argument(self) -> None:
        first = task_error_from(caught(failing), "first").as_instanceof_cause()

        def resolve() -> None:
            raise first

        resolve_in_runtime = runtime_calling(resolve)
        exc = caught(resolve_in_runtime)
        # Only runtime frames: drop that of resolve().
        assert exc.__traceback__ is not None
        exc.__traceback__.tb_next = None
        second = task_error_from(exc, "second")
        assert second.cause is first.cause and isinstance(second.as_instanceof_cause(), ValueError)
        assert second.function_name == "second" and "in failing" in second.traceback_str
        assert "second() did not run" in second.traceback_str

    def test_error_goes_on_through_tasks(self) -> None:
        error: TaskError = task_error_from(caught(failing), "failing")
        for depth in range(3):
            arrived = pickle.loads(pickle.dumps(error)).as_instanceof_cause()

            def nested(arrived: TaskError = arrived) -> None:
                raise arrived

            error = task_error_from(caught(nested), f"task_{depth}")
        with pytest.raises(ValueError, match="bad value"):
            raise error.as_instanceof_cause()
        assert error.cause.args == ("bad value",)
        places = [error.traceback_str.index(f"through task_{depth}()") for depth in range(3)]
        assert places == sorted(places) and "in nested" in error.traceback_str

    def test_exception_raised_from_a_task_error(self) -> None:
        first = task_error_from(caught(failing), "failing").as_instanceof_cause()

        def user() -> None:
            try:
                raise first
            except ValueError as exc:
                raise LookupError("no") from exc

        error = task_error_from(caught(user), "user")
        assert isinstance(error.cause, LookupError)
        assert "in failing" in error.traceback_str and "LookupError: no" in error.traceback_str

    def test_never_fails_itself(self) -> None:
        class Nasty(Exception):
            def __str__(self) -> str:
                raise ZeroDivisionError

            __repr__ = __str__

        def nasty() -> None:
            raise Nasty

        error = task_error_from(caught(nasty), "nasty")
        assert "Nasty" in error.traceback_str and "Nasty" in str(error)

    def test_without_a_traceback(self) -> None:
        error = task_error_from(ValueError("never raised"), "f")
        assert error.traceback_str.rstrip() == "ValueError: never raised"

    def test_formatting_failure_is_survived(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any) -> str:
            raise OSError("no source")

        monkeypatch.setattr(tasks, "_format_traceback", broken)
        error = task_error_from(ValueError("x"), "f")
        assert "OSError" in error.traceback_str and isinstance(error.cause, ValueError)
