"""What becomes of an actor and its calls."""

from __future__ import annotations

from shoal._errors.base import ProcessDeath, ShoalError, hex_id, in_brackets
from shoal._errors.tasks import TaskError


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
        self.actor_id = hex_id(actor_id)
        self.error_msg = str(self)
        self.actor_init_failed = actor_init_failed
        self.preempted = preempted


RayActorError = ActorError


class ActorDiedError(ActorError, ProcessDeath):
    """The actor is dead and will not come back; further calls raise this too.

    Args:
        cause: the TaskError its `__init__` failed with, or a text that says how it died.
        actor_id, class_name, name, pid: which one it was, as far as known.
        preempted: see `ActorError`.

    `exit_code`, `signal_name`, `last_output` and `python_stack` are what is known of its process; the text has them too.

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
        actor_id = hex_id(actor_id)
        who += in_brackets(name and f"'{name}'", pid is not None and f"pid {pid}", actor_id and f"id {actor_id}")
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
