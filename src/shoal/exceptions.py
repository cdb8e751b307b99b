"""Every error Shoal raises, under one base: `ShoalError`.

Ray's names (`RayError`, `RayTaskError`, `RayActorError`, `RaySystemError`) are aliases, so that the `except`
clauses of a Ray program hold. Errors travel between processes: all survive pickling with all attributes.

How a task's exception reaches its caller (worker above, caller below; the copying is at the end of the file):

    except BaseException as exc:  task_error_from(exc, "f")  ->  TaskError(cause=exc, traceback_str=...)
                                  pickle, through the arena, unpickle
    get(ref):                     raise task_error.as_instanceof_cause()   # a TaskError and a type(exc)

The first paragraph of a class's docstring is also what `str()` says when it is raised without a text.
"""

from __future__ import annotations

import copyreg
import functools
import os
import pickle
import traceback
import types
from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

# fmt: off
__all__ = [
    "ActorAlreadyExistsError", "ActorDiedError", "ActorError", "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved", "ActorUnavailableError", "ActorUnschedulableError", "AsyncioActorExit",
    "ClaimTimeoutError", "DeadlockError", "ForkedError", "GetTimeoutError", "InternalError", "LimitError", "LockHolderDied",
    "NotInitializedError", "NotMutableError", "NotOwnerError", "ObjectFreedError", "ObjectLostError",
    "ObjectRefStreamEndOfStreamError", "ObjectStoreFullError", "OutOfDiskError", "OutOfMemoryError",
    "OwnerDiedError", "PendingCallsLimitExceeded", "PicklingError", "RayActorError", "RayError",
    "RaySystemError", "RayTaskError", "RuntimeEnvSetupError", "SchedulingWarning", "SessionEndedError",
    "SessionError", "ShoalError", "StaleOwnerError", "TaskCancelledError", "TaskError", "TaskPlacementGroupRemoved",
    "TaskUnschedulableError", "UnpicklableCause", "UnserializableException", "UserCodeException",
    "VersionConflictError", "WorkerCrashedError", "WritableViewsError", "task_error_from",
]
# fmt: on

_PACKAGE_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
_REPR_LIMIT = 1_000  # characters of a cause's repr that are worth sending home


class ShoalError(Exception):
    """Something went wrong in Shoal; the base of every error it raises.

    >>> issubclass(GetTimeoutError, ShoalError) and RayError is ShoalError
    True
    >>> print(NotInitializedError())
    There is no Shoal session: call shoal.init() first.
    """

    def __str__(self) -> str:
        if self.args:
            return super().__str__()
        doc = next((cls.__doc__ for cls in type(self).__mro__ if cls.__doc__), "")
        return " ".join(doc.split("\n\n")[0].split())

    def __reduce__(self) -> tuple[Any, ...]:
        # Not through __init__: its parameters are not `args`, which is what BaseException's recipe assumes.
        return (_restore, (type(self), *_snapshot(self)))


RayError = ShoalError


class SchedulingWarning(UserWarning):
    """Work waits for something that may never come: for instance more CPUs than the session has."""


# -- tasks --------------------------------------------------------------------------------------------------


class TaskError(ShoalError):
    """A task or an actor method raised; `cause` is what it raised, `traceback_str` where.

    `shoal.get` raises it in a form that is also an instance of the cause's type, so that
    `except ValueError` in the driver catches a ValueError raised in a task.

    Args:
        function_name: the task's or method's name.
        traceback_str: the remote traceback as text, ending with the exception line.
        cause: the exception itself; for a TaskError, that one's cause is taken.
        proctitle, pid, ip: the process it happened in, as far as known.
        actor_repr, actor_id: the actor it happened in, if any (the id in hex, or as bytes).

    Raises:
        TypeError: `cause` is not an exception.

    >>> error = TaskError("parse", "Traceback ...", KeyError("width"), pid=7).as_instanceof_cause()
    >>> isinstance(error, KeyError), isinstance(error, TaskError), error.args
    (True, True, ('width',))
    """

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | bytes | None = None,
    ) -> None:
        if not isinstance(cause, BaseException):
            raise TypeError(f"the cause of a TaskError must be an exception, not {cause!r}")
        self._cause = cause.cause if isinstance(cause, TaskError) else cause
        super().__init__(f"{function_name}() raised {type(self._cause).__qualname__}")
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.proctitle = proctitle
        self.pid = pid
        self.ip = ip
        self.actor_repr = actor_repr
        self.actor_id = _hex_id(actor_id)

    @property
    def cause(self) -> BaseException:
        """The exception that the remote function raised; never itself a TaskError."""
        return self._cause

    def __str__(self) -> str:
        process = f"pid={self.pid}" if self.pid is not None else None
        place = ", ".join(part for part in (self.proctitle, process, self.ip, self.actor_repr) if part)
        head = f"{self.args[0]} ({place})" if place else f"{self.args[0]}"
        return f"{head}\n\n{self.traceback_str.rstrip()}" if self.traceback_str else head

    def __reduce__(self) -> tuple[Any, ...]:
        own = _snapshot(self)
        cause = own[2].pop("_cause")
        # An exception whose __init__ takes other parameters than its `args` pickles but does not unpickle: a
        # common mistake that should not cost the caller the type. So its parts travel, unless it has a recipe
        # of its own.
        if _pickles_the_usual_way(cause):
            return (_restore_task_error, (type(self), own, type(cause), _snapshot(cause)))
        return (_restore_task_error, (type(self), own, cause, None))

    def as_instanceof_cause(self) -> TaskError:
        """What `get` raises: the same as `make_dual_exception_instance`."""
        return self.make_dual_exception_instance()

    def make_dual_exception_instance(self) -> TaskError:
        """An exception that is both a TaskError and a `type(cause)`, with the cause's `args` and attributes.

        Where the cause has an attribute that TaskError has too (say `pid`), the cause's is seen; `cause` is
        always the cause. Returns this error itself when the cause's class cannot be subclassed or refuses,
        and when the cause is not an `Exception`: a SystemExit or KeyboardInterrupt that ended a task must not
        end its caller.

        >>> class HttpError(Exception):
        ...     code = 404
        >>> TaskError("fetch", "", HttpError()).make_dual_exception_instance().code
        404
        """
        cause = self._cause
        if not isinstance(cause, Exception):
            return self
        try:
            args, members, state = _snapshot(cause)
            state = {**self.__dict__, **state, "_task_error": self}
            dual_class = _dual_class(cast("Hashable", type(cause)))  # mypy takes a type[...] for unhashable
            dual = _restore(dual_class, args, members, state)
        except Exception:  # whatever a user's metaclass or __init_subclass__ raises: the plain error will do
            return self
        return cast(TaskError, dual)

    def without_cause(self) -> TaskError:
        """The same error with a stand-in for a cause that cannot be pickled (see `UnpicklableCause`).

        >>> TaskError("f", "", OSError("socket closed")).without_cause().cause.original_repr
        "OSError('socket closed')"
        """
        stand_in = UnpicklableCause(_type_name(self._cause), _safe_repr(self._cause))
        copy = TaskError(self.function_name, self.traceback_str, stand_in)
        copy.__dict__.update({**self.__dict__, "_cause": stand_in})
        copy.args = self.args  # they name the type that was really raised
        return copy


RayTaskError = TaskError


class _DualTaskError(TaskError):
    """First base of the classes made for `make_dual_exception_instance`; `_task_error` is the plain error."""

    _task_error: TaskError
    _cause_class: type[Exception]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # `raise type(error)("more text") from error` is a common idiom: it gets an ordinary exception of the
        # cause's class. The instances of this class are made by _restore, which does not come here.
        return cls._cause_class(*args, **kwargs)

    @property
    def cause(self) -> BaseException:
        return self._task_error.cause

    def __str__(self) -> str:
        return str(self._task_error)

    def __reduce__(self) -> tuple[Any, ...]:
        # The class exists in this process only, so what travels is the plain error.
        return (TaskError.as_instanceof_cause, (self._task_error,))

    def __reduce_ex__(self, protocol: Any, /) -> tuple[Any, ...]:
        return self.__reduce__()  # pickle asks this one first, and the cause's class may have defined it

    def make_dual_exception_instance(self) -> TaskError:
        return self

    def without_cause(self) -> TaskError:
        return self._task_error.without_cause()


@functools.lru_cache(maxsize=256)  # bounded: it keeps the classes alive, and a notebook makes ever new ones
def _dual_class(cause_class: type[Exception]) -> type[BaseException]:
    members = {"__module__": __name__, "__doc__": TaskError.__doc__, "_cause_class": cause_class}
    name = f"TaskError({cause_class.__qualname__})"
    # new_class, not type(): the cause's class may have a metaclass.
    made = types.new_class(name, (_DualTaskError, cause_class), exec_body=lambda body: body.update(members))
    return cast("type[BaseException]", made)


class UnpicklableCause(ShoalError, RuntimeError):
    """Stands for an exception that could not be pickled on its way from a task to its caller.

    `type_name` is the original's class with its module, `original_repr` its repr, shortened.
    """

    def __init__(self, type_name: str, original_repr: str) -> None:
        super().__init__(f"{original_repr} (a {type_name} that cannot be pickled; this stands for it)")
        self.type_name = type_name
        self.original_repr = original_repr


def task_error_from(
    exc: BaseException,
    function_name: str,
    *,
    actor_repr: str | None = None,
    actor_id: str | bytes | None = None,
) -> TaskError:
    """The TaskError for `exc`; to be called in the `except` block of the process that ran the function.

    The runtime's own frames above the function are left out of the traceback. If `exc` is itself a TaskError
    (it came out of a `get` in the function, or an argument of the function had failed), the new one keeps the
    original cause and says which way the error came. Never raises because of how `exc` behaves. The cause may
    not be picklable: see `TaskError.without_cause`.

    >>> try:
    ...     1 / 0
    ... except ZeroDivisionError as exc:
    ...     task_error_from(exc, "work").cause
    ZeroDivisionError('division by zero')
    """
    try:
        text = _format_traceback(exc, function_name)
    except Exception as failure:  # a __str__ or a source file that fails must not hide the task's error
        text = f"{_type_name(exc)} (its traceback could not be formatted: {_type_name(failure)})"
    return TaskError(function_name, text, exc, pid=os.getpid(), actor_repr=actor_repr, actor_id=actor_id)


def _format_traceback(exc: BaseException, function_name: str) -> str:
    formatted = traceback.TracebackException.from_exception(exc)
    in_runtime = [frame.filename.startswith(_PACKAGE_FOLDER) for frame in formatted.stack]
    runtime = (in_runtime + [False]).index(False)  # how many of the outermost frames are Shoal's own
    if isinstance(exc, TaskError):
        before, own = exc.traceback_str.rstrip(), formatted.stack[runtime:]
        if not own:
            return f"{before}\n\n{function_name}() did not run: it was given this error.\n"
        frames = "".join(traceback.StackSummary.from_list(own).format())
        return f"{before}\n\nThe error went on through {function_name}():\n\n{frames}"
    if runtime < len(formatted.stack):  # where all frames are the runtime's, they are all there is to see
        del formatted.stack[:runtime]
    return "".join(formatted.format())


class TaskCancelledError(ShoalError):
    """The task was cancelled with `shoal.cancel` before it had a result."""

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        self.task_id = _hex_id(task_id)
        name = f"The task {self.task_id}" if self.task_id else "The task"
        super().__init__(error_message or f"{name} was cancelled.")


class WorkerCrashedError(ShoalError):
    """The process that ran the task ended before the task did: killed, crashed, or it called os._exit."""


class TaskUnschedulableError(ShoalError):
    """The task can never run in this session: for instance it asks for more than the session has."""


class TaskPlacementGroupRemoved(ShoalError):
    """The placement group the task was to run in was removed."""


class ObjectRefStreamEndOfStreamError(ShoalError):
    """The generator task has no more objects; iterating over its ObjectRefGenerator just ends instead."""


class UserCodeException(ShoalError):
    """Code of the user that the runtime called (a serializer, a hook) raised."""


# -- actors -------------------------------------------------------------------------------------------------


class ActorError(ShoalError):
    """The actor failed before it had finished this call.

    The base of the errors that are the actor's own, not those of what its method did. `error_msg` is the
    text; `actor_init_failed` means that `__init__` raised; `preempted` (its machine was taken away) is never
    true on one machine.
    """

    def __init__(
        self,
        actor_id: str | bytes | None = None,
        error_msg: str | None = None,
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        super().__init__(*([error_msg] if error_msg else []))
        self.actor_id = _hex_id(actor_id)
        self.error_msg = str(self)
        self.actor_init_failed = actor_init_failed
        self.preempted = preempted


RayActorError = ActorError


class ActorDiedError(ActorError):
    """The actor is dead and will not come back; further calls raise this too.

    Args:
        cause: the TaskError its `__init__` failed with, or a text that says how it died.
        actor_id, class_name, name, pid: which one it was, as far as known.
        preempted: see `ActorError`.

    >>> print(ActorDiedError("it was killed with shoal.kill", class_name="Counter", pid=7))
    The actor Counter (pid 7) is dead: it was killed with shoal.kill
    """

    def __init__(
        self,
        cause: TaskError | str | None = None,
        *,
        actor_id: str | bytes | None = None,
        class_name: str | None = None,
        name: str | None = None,
        pid: int | None = None,
        preempted: bool = False,
    ) -> None:
        if isinstance(cause, TaskError):
            actor_id = cause.actor_id if actor_id is None else actor_id
            pid = cause.pid if pid is None else pid
        who = f"The actor {class_name}" if class_name else "The actor"
        who += _in_brackets(name and f"'{name}'", pid is not None and f"pid {pid}")
        init_failed = isinstance(cause, TaskError)
        why = f"its __init__ failed: {cause}" if init_failed else cause or "it ended during this call"
        super().__init__(actor_id, f"{who} is dead: {why}", init_failed, preempted)
        self.cause = cause
        self.class_name = class_name
        self.name = name
        self.pid = pid

    @staticmethod
    def from_task_error(task_error: TaskError) -> ActorDiedError:
        """The error of every call to an actor whose `__init__` raised `task_error`."""
        return ActorDiedError(task_error)


class ActorUnavailableError(ActorError):
    """The actor cannot be reached now (it is being restarted); the call may have run or not. Try again."""

    def __init__(self, error_message: str | None = None, actor_id: str | bytes | None = None) -> None:
        super().__init__(actor_id, error_message)


class ActorAlreadyExistsError(ShoalError, ValueError):
    """An actor of that name lives in that namespace: use get_actor, or get_if_exists=True."""


class ActorHandleNotFoundError(ShoalError, ValueError):
    """The actor of this handle is not in this session: the handle is of another one, or the actor is gone."""


class ActorUnschedulableError(ShoalError):
    """The actor can never start in this session: for instance it asks for more than the session has."""


class ActorPlacementGroupRemoved(ShoalError):
    """The placement group the actor was to live in was removed."""


class PendingCallsLimitExceeded(ShoalError):
    """The actor has max_pending_calls calls waiting; this one was not sent. Get some results first."""


class AsyncioActorExit(ShoalError):
    """This actor is exiting: raised by exit_actor() inside an asyncio actor; let it pass."""


# -- objects and memory -------------------------------------------------------------------------------------


class GetTimeoutError(ShoalError, TimeoutError):
    """The result was not there within the timeout; nothing was changed, so it can be waited for again.

    >>> isinstance(GetTimeoutError("not ready after 0.1 s"), TimeoutError)
    True
    """


class ObjectLostError(ShoalError):
    """The object is gone and cannot be made again.

    `object_ref_hex` is the ref's id, `owner_address` None on one machine, `call_site` the line that made the
    ref, if recorded.

    >>> print(ObjectLostError("ab12", call_site="train.py:7"))
    The object ab12 (made at train.py:7) was lost and cannot be made again.
    """

    _what = "was lost and cannot be made again."

    def __init__(self, object_ref_hex: str | bytes, owner_address: Any = None, call_site: str = "") -> None:
        self.object_ref_hex = _hex_id(object_ref_hex)
        self.owner_address = owner_address
        self.call_site = call_site
        origin = _in_brackets(call_site and f"made at {call_site}")
        super().__init__(f"The object {self.object_ref_hex}{origin} {self._what}")


class ObjectFreedError(ObjectLostError):
    """The object was freed explicitly while refs to it were still around."""

    _what = "was freed while this ref to it was still in use."


class OwnerDiedError(ObjectLostError):
    """The process that was to make or keep the object died."""

    _what = "cannot be had: the process that owned it died."


class ObjectStoreFullError(ShoalError):
    """The shared memory is full of objects in use: drop refs and views you no longer need, or give
    shoal.init a larger object_store_memory."""


class OutOfMemoryError(ShoalError):
    """The task was ended because memory ran low: give it a `memory` or a larger num_cpus, so that fewer
    run at a time."""


class OutOfDiskError(ShoalError):
    """There is no room left on the disk for what has to be written there."""


class UnserializableException(ShoalError):
    """An exception arrived that cannot be unpickled here; `original_stack_trace` is its text."""

    def __init__(self, original_stack_trace: str = "") -> None:
        super().__init__(f"An exception arrived that cannot be unpickled here:\n{original_stack_trace}")
        self.original_stack_trace = original_stack_trace


class PicklingError(ShoalError, pickle.PicklingError, TypeError):
    """Something that cannot be pickled is in an argument, a result or a put value: make it in the task or
    actor that uses it, or teach Shoal how to pickle it with shoal.util.register_serializer.

    `path` is the way to it and `type_name` what lies there, as far as known; without a message they make one.

    >>> str(PicklingError(path="args[0].lock", type_name="_thread.lock")).split(":")[0]
    'args[0].lock (a _thread.lock) cannot be pickled'
    """

    def __init__(self, message: str = "", *, path: str | None = None, type_name: str | None = None) -> None:
        if path and not message:
            what = path + _in_brackets(type_name and f"a {type_name}")
            message = f"{what} cannot be pickled: make it in the task or actor that uses it"
        super().__init__(*([message] if message else []))
        self.path = path
        self.type_name = type_name


class NotMutableError(ShoalError, TypeError):
    """This value cannot be put with mutable=True, as there is no array in it to change in place. Put an array
    (or a dict or dataclass of arrays), use a shared container or a Versioned, or keep it in an actor."""


class WritableViewsError(ShoalError, BufferError):
    """The object cannot be frozen: the processes in `pids` have arrays through which they can still write to it."""

    pids: tuple[int, ...] = ()


class NotOwnerError(ShoalError, PermissionError):
    """Only the owner of a mutable object may do this, and this process is not it; `owner` is (None: nobody)."""

    owner: Any = None


class StaleOwnerError(NotOwnerError):
    """This process owned the object, and lost it: another epoch has begun. Nothing was committed. `owner` has it now."""


class ClaimTimeoutError(ShoalError, TimeoutError):
    """The object was not handed on within the timeout that was given; `owner` still has it."""

    owner: Any = None


class VersionConflictError(ShoalError):
    """Somebody else published meanwhile: the Versioned's newest version is `found` and not `expected`."""

    expected: int = -1
    found: int = -1


# -- the session --------------------------------------------------------------------------------------------


class SessionError(ShoalError):
    """There is no session to work with; see the subclasses for why."""


class NotInitializedError(SessionError):
    """There is no Shoal session: call shoal.init() first."""


class SessionEndedError(SessionError):
    """The session this ref or handle belongs to is over, or its supervisor died; neither outlives it."""


class ForkedError(SessionError):
    """This process was forked from one that is in a Shoal session and cannot use it: send the work as a
    task, or start the process afresh and join with shoal.init(address=...)."""


class LimitError(ShoalError):
    """A fixed limit of the session was reached: `limit_name` as in MAX_OBJECTS, its `value`, and a hint.

    >>> print(LimitError("MAX_OBJECTS", 1024, "drop refs you no longer need"))
    The limit MAX_OBJECTS=1024 was reached: drop refs you no longer need
    """

    def __init__(self, limit_name: str, value: int, hint: str = "") -> None:
        self.limit_name = limit_name
        self.value = value
        self.hint = hint
        super().__init__(f"The limit {limit_name}={value} was reached{f': {hint}' if hint else '.'}")


class LockHolderDied(ShoalError):
    """The process or the task that held the lock ended without releasing it. Usually YOU NOW HOLD THE LOCK: see `held`.

    Raised by the acquisition that comes next, once. What the lock guards may be half changed: repair it or
    give it up, then release the lock.
    `holder` and `lock_name` are texts; `task_name` is what the holder ran at the time, `pid` its process id, `age` how many
    seconds ago it ended. `held`: the lock is yours; not so after `with`, in shared mode, and if it is poisoned, where the next
    one is told too. `rolled_back`: the object is as it was before the holder took the lock (`rollback=True`).

    >>> str(LockHolderDied("Worker 3", task_name="add", pid=7)).split(".")[0]
    'Worker 3 (running add(), pid 7) died holding the lock'
    """

    def __init__(
        self,
        holder: str,
        task_name: str | None = None,
        pid: int | None = None,
        lock_name: str | None = None,
        *,
        age: float | None = None,
        held: bool = True,
        rolled_back: bool = False,
        ended: bool = False,
    ) -> None:
        self.holder = holder
        self.task_name = task_name
        self.pid = pid
        self.lock_name = lock_name
        self.age = age
        self.held = held
        self.rolled_back = rolled_back
        who = holder + _in_brackets(task_name and f"running {task_name}()", pid is not None and f"pid {pid}")
        lock = f"the lock {lock_name}" if lock_name else "the lock"
        state = " The object is as it was before." if rolled_back else ""
        advice = (
            "You hold the lock now: check what it guards, then release it."
            if held
            else "You do not hold the lock: use acquire(), or recover() if it is poisoned, to look after what it guards."
        )
        super().__init__(f"{who} {'ended still' if ended else 'died'} holding {lock}.{state} {advice}")


class DeadlockError(ShoalError):
    """The wait would never have ended: those it waits for wait, in a circle, for the one that raises this.

    `cycle` has one text for each participant, the raising one first: who it is and what it waits for.

    >>> print(DeadlockError(["driver waits for lock 'a'", "task f() (pid 7) waits for lock 'b'"]))
    Deadlock: driver waits for lock 'a'; task f() (pid 7) waits for lock 'b'; and so on in a circle.
    """

    def __init__(self, cycle: Sequence[str] | str) -> None:
        self.cycle: tuple[str, ...] = (cycle,) if isinstance(cycle, str) else tuple(cycle)
        super().__init__(f"Deadlock: {'; '.join(self.cycle)}; and so on in a circle.")


class RuntimeEnvSetupError(ShoalError):
    """The runtime_env could not be set up; `error_message` says why."""

    def __init__(self, error_message: str | None = None) -> None:
        self.error_message = error_message
        super().__init__(f"The runtime_env could not be set up: {error_message or 'no reason is known'}")


class InternalError(ShoalError):
    """Something that must hold inside Shoal does not: our bug, not yours. Please report it with this text.

    `client_exc` says what happened (an exception is turned into its repr), `traceback_str` where.
    """

    def __init__(self, client_exc: BaseException | str, traceback_str: str | None = None) -> None:
        self.client_exc = client_exc if isinstance(client_exc, str) else _safe_repr(client_exc)
        self.traceback_str = traceback_str
        place = f"\n{traceback_str}" if traceback_str else ""
        super().__init__(f"A bug in Shoal, not in your program; please report it: {self.client_exc}{place}")


RaySystemError = InternalError


# -- copying exceptions -------------------------------------------------------------------------------------
#
# An exception is three things: `args`, the values of its C fields and __slots__ (as OSError.errno), and its
# __dict__. Made again from these, not by calling the class, it does not depend on what __init__ asks for.

_Parts = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]
_FIELD_TYPES = (types.MemberDescriptorType, types.GetSetDescriptorType)
_PICKLE_HOOKS = ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__getnewargs__")


def _snapshot(exc: BaseException) -> _Parts:
    members: dict[str, Any] = {}
    for owner in type(exc).__mro__:
        if owner in (BaseException, object):
            continue
        for name, field in vars(owner).items():
            if isinstance(field, _FIELD_TYPES) and not name.startswith("__"):
                try:
                    value = field.__get__(exc)
                except AttributeError:  # a slot that was never set
                    continue
                # A C field that was never set reads as None, and set to None it is not the same: OSError's
                # text would end in ": None".
                if value is not None or _is_heap_type(owner):
                    members.setdefault(name, value)
    state = dict(exc.__dict__)
    if "__notes__" in state:
        state["__notes__"] = list(state["__notes__"])  # add_note on the copy is not for the original
    return exc.args, members, state


def _restore(cls: type[BaseException], args: tuple[Any, ...], members: dict[str, Any], state: dict[str, Any]) -> BaseException:
    # The built-in class that decides the layout makes the instance; CPython refuses any other.
    base: Any = cls
    while _is_heap_type(base):
        base = base.__base__
    new = cast("Callable[..., BaseException]", base.__new__)
    try:
        exc = new(cls, *args)  # the fields of an ExceptionGroup can be set here only
    except Exception:
        exc = new(cls)
    # BaseException.__setattr__: a frozen dataclass may be an exception too.
    BaseException.__setattr__(exc, "args", args)
    for name, value in members.items():
        try:
            BaseException.__setattr__(exc, name, value)
        except (AttributeError, TypeError):  # read-only, and set from args
            continue
    exc.__dict__.update(state)
    return exc


def _restore_task_error(cls: type[TaskError], own: _Parts, cause: Any, parts: _Parts | None) -> TaskError:
    own[2]["_cause"] = cause if parts is None else _restore(cause, *parts)
    return cast(TaskError, _restore(cls, *own))


def _pickles_the_usual_way(exc: BaseException) -> bool:
    """Whether nothing in the class of `exc` says how it is to be pickled."""
    cls = type(exc)
    if cls in copyreg.dispatch_table:
        return False
    owners = (next((base for base in cls.__mro__ if hook in vars(base)), object) for hook in _PICKLE_HOOKS)
    return not any(_is_heap_type(owner) for owner in owners)


def _is_heap_type(cls: type) -> bool:
    """Whether the class was made by Python code (Py_TPFLAGS_HEAPTYPE), not compiled in."""
    return bool(cls.__flags__ & (1 << 9))


# -- texts --------------------------------------------------------------------------------------------------


def _hex_id(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value.hex())  # bytes, and every kind of id


def _in_brackets(*parts: str | bool | None) -> str:
    text = ", ".join(part for part in parts if isinstance(part, str) and part)
    return f" ({text})" if text else ""


def _type_name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _safe_repr(value: object) -> str:
    try:
        text = repr(value)
    except Exception as failure:
        return f"<{_type_name(value)} whose repr raised {_type_name(failure)}>"
    return text if len(text) <= _REPR_LIMIT else text[:_REPR_LIMIT] + "..."
