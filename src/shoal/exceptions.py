"""Every error Shoal raises, under one base: `ShoalError`.

Ray's names (`RayError`, `RayTaskError`, `RayActorError`, `RaySystemError`) are aliases, so that the `except`
clauses of a Ray program hold. Errors travel between processes: all survive pickling with all attributes.

How a task's exception reaches its caller (worker above, caller below; the copying is in shoal/_errors/base.py):

    except BaseException as exc:  task_error_from(exc, "f")  ->  TaskError(cause=exc, traceback_str=...)
                                  pickle, through the arena, unpickle
    get(ref):                     raise task_error.as_instanceof_cause()   # a TaskError and a type(exc)

The classes are in shoal/_errors, by topic. The first paragraph of a class's docstring is also
what `str()` says when it is raised without a text.
"""

from __future__ import annotations

from typing import Any

from shoal._errors.actors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorError,
    ActorHandleNotFoundError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    ActorUnschedulableError,
    AsyncioActorExit,
    PendingCallsLimitExceeded,
    RayActorError,
)
from shoal._errors.base import (
    RayError,
    SchedulingWarning,
    ShoalError,
)
from shoal._errors.objects import (
    ClaimTimeoutError,
    GetTimeoutError,
    NotMutableError,
    NotOwnerError,
    ObjectFreedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    OwnerDiedError,
    PicklingError,
    StaleOwnerError,
    UnserializableException,
    VersionConflictError,
    WritableViewsError,
)
from shoal._errors.session import (
    DeadlockError,
    ForkedError,
    InternalError,
    LimitError,
    LockHolderDied,
    NotInitializedError,
    RaySystemError,
    RuntimeEnvSetupError,
    SessionEndedError,
    SessionError,
    SessionExistsError,
    SessionNotFoundError,
    SessionRefusedError,
    SessionVersionError,
)
from shoal._errors.tasks import (
    ObjectRefStreamEndOfStreamError,
    RayTaskError,
    TaskCancelledError,
    TaskError,
    TaskPlacementGroupRemoved,
    TaskTimeoutError,
    TaskUnschedulableError,
    UnpicklableCause,
    UserCodeException,
    WorkerCrashedError,
    task_error_from,
)

# fmt: off
__all__ = [
    "ActorAlreadyExistsError", "ActorDiedError", "ActorError", "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved", "ActorUnavailableError", "ActorUnschedulableError", "AsyncioActorExit",
    "ClaimTimeoutError", "DeadlockError", "ForkedError", "GetTimeoutError", "InternalError", "LimitError", "LockHolderDied",
    "NotInitializedError", "NotMutableError", "NotOwnerError", "ObjectFreedError", "ObjectLostError",
    "ObjectRefStreamEndOfStreamError", "ObjectStoreFullError", "OutOfDiskError", "OutOfMemoryError",
    "OwnerDiedError", "PendingCallsLimitExceeded", "PicklingError", "RayActorError", "RayError",
    "RaySystemError", "RayTaskError", "RuntimeEnvSetupError", "SchedulingWarning", "SessionEndedError",
    "SessionError", "SessionExistsError", "SessionNotFoundError", "SessionRefusedError", "SessionVersionError", "ShoalError",
    "StaleOwnerError", "TaskCancelledError", "TaskError", "TaskPlacementGroupRemoved",
    "TaskTimeoutError", "TaskUnschedulableError", "UnpicklableCause", "UnserializableException", "UserCodeException",
    "VersionConflictError", "WorkerCrashedError", "WritableViewsError", "task_error_from",
]
# fmt: on

_public: Any
for _public in [globals()[name] for name in __all__]:  # tracebacks, pickles and help() give this as their home
    _public.__module__ = __name__
