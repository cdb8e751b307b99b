"""What becomes of a task: it raised, was cancelled, or its process died."""

from __future__ import annotations

import functools
import os
import traceback
import types
from collections.abc import Hashable
from typing import Any, cast

from shoal._errors.base import (
    Parts,
    ProcessDeath,
    ShoalError,
    hex_id,
    in_brackets,
    pickles_the_usual_way,
    restore,
    safe_repr,
    snapshot,
    type_name,
)

_PACKAGE_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


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
        attempt: how often it had been run before, because of `max_retries`.

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
        attempt: int = 0,
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
        self.actor_id = hex_id(actor_id)
        self.attempt = attempt

    @property
    def cause(self) -> BaseException:
        """The exception that the remote function raised; never itself a TaskError."""
        return self._cause

    def __str__(self) -> str:
        process = f"pid={self.pid}" if self.pid is not None else None
        attempt = f"attempt {self.attempt}" if self.attempt else None
        place = ", ".join(part for part in (self.proctitle, process, self.ip, self.actor_repr, attempt) if part)
        head = f"{self.args[0]} ({place})" if place else f"{self.args[0]}"
        return f"{head}\n\n{self.traceback_str.rstrip()}" if self.traceback_str else head

    def __reduce__(self) -> tuple[Any, ...]:
        own = snapshot(self)
        cause = own[2].pop("_cause")
        # An exception whose __init__ takes other parameters than its `args` pickles but does not unpickle: a
        # common mistake that should not cost the caller the type. So its parts travel, unless it has a recipe
        # of its own.
        if pickles_the_usual_way(cause):
            return (_restore_task_error, (type(self), own, type(cause), snapshot(cause)))
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
            args, members, state = snapshot(cause)
            state = {**self.__dict__, **state, "_task_error": self}
            dual_class = _dual_class(cast("Hashable", type(cause)))  # mypy takes a type[...] for unhashable
            dual = restore(dual_class, args, members, state)
        except Exception:  # whatever a user's metaclass or __init_subclass__ raises: the plain error will do
            return self
        return cast(TaskError, dual)

    def without_cause(self) -> TaskError:
        """The same error with a stand-in for a cause that cannot be pickled (see `UnpicklableCause`).

        >>> TaskError("f", "", OSError("socket closed")).without_cause().cause.original_repr
        "OSError('socket closed')"
        """
        stand_in = UnpicklableCause(type_name(self._cause), safe_repr(self._cause))
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
        # cause's class. The instances of this class are made by restore, which does not come here.
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
    attempt: int = 0,
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
        text = f"{type_name(exc)} (its traceback could not be formatted: {type_name(failure)})"
    return TaskError(function_name, text, exc, pid=os.getpid(), actor_repr=actor_repr, actor_id=actor_id, attempt=attempt)


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
        self.task_id = hex_id(task_id)
        name = f"The task {self.task_id}" if self.task_id else "The task"
        super().__init__(error_message or f"{name} was cancelled.")


class TaskTimeoutError(ShoalError, TimeoutError):
    """The task had not finished within its `timeout_s` and was ended.

    `task_name`, `timeout` (seconds), `pid` and `attempt` (from 0) say which run of which task; `forced` means that it did
    not react to being interrupted, and its process was killed.

    >>> print(TaskTimeoutError("fetch", 2.5, 7))
    fetch() (pid 7) was ended: it had not finished within its timeout_s=2.5
    """

    def __init__(
        self, task_name: str = "the task", timeout: float = 0.0, pid: int | None = None, attempt: int = 0, forced: bool = False
    ) -> None:
        process = in_brackets(pid is not None and f"pid {pid}", bool(attempt) and f"attempt {attempt}")
        how = "; it did not react to an interrupt, so its process was killed" if forced else ""
        super().__init__(f"{task_name}(){process} was ended: it had not finished within its timeout_s={timeout:g}{how}")
        self.task_name = task_name
        self.timeout = timeout
        self.pid = pid
        self.attempt = attempt
        self.forced = forced


class WorkerCrashedError(ShoalError, ProcessDeath):
    """The process that ran the task ended before the task did: killed, crashed, or it called os._exit.

    `task_name`, `pid` and `attempt` (from 0) say which run of which task. `exit_code`, `signal_name`, `last_output` and
    `python_stack` are what is known of the process; the text has them too.
    """

    task_name: str | None = None
    pid: int | None = None
    attempt: int = 0


class TaskUnschedulableError(ShoalError):
    """The task can never run in this session: for instance it asks for more than the session has."""


class TaskPlacementGroupRemoved(ShoalError):
    """The placement group the task was to run in was removed."""


class ObjectRefStreamEndOfStreamError(ShoalError):
    """The generator task has no more objects; iterating over its ObjectRefGenerator just ends instead."""


class UserCodeException(ShoalError):
    """Code of the user that the runtime called (a serializer, a hook) raised."""


def _restore_task_error(cls: type[TaskError], own: Parts, cause: Any, parts: Parts | None) -> TaskError:
    own[2]["_cause"] = cause if parts is None else restore(cause, *parts)
    return cast(TaskError, restore(cls, *own))
