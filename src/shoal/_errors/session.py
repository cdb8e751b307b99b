"""The session, its limits and its locks; bugs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shoal._errors.base import ShoalError, in_brackets, safe_repr


class SessionError(ShoalError):
    """There is no session to work with; see the subclasses for why."""


class NotInitializedError(SessionError):
    """There is no Shoal session: call shoal.init() first."""


class SessionEndedError(SessionError):
    """The session this ref or handle belongs to is over, or its supervisor died; neither outlives it."""


class ForkedError(SessionError):
    """This process was forked from one that is in a Shoal session and cannot use it: send the work as a
    task, or start the process afresh and join with shoal.init(address=...)."""


class SessionNotFoundError(SessionError, ConnectionError):
    """There is no session of that name, or nobody listens at that path; `known` has the names of this user's sessions."""

    known: tuple[str, ...] = ()


class SessionExistsError(SessionError, ValueError):
    """A session of this user has that name already: join it, end it, or choose another name."""


class SessionRefusedError(SessionError, PermissionError):
    """The session does not let this process join: it is another user's, or asks for a token that was not given."""


class SessionVersionError(SessionError):
    """The session was made by another version of Shoal or Python: `ours` and `theirs` say which.

    >>> str(SessionVersionError({"shoal": "0.2.0"}, {"shoal": "0.1.0"})).split(":")[0]
    'The session cannot be joined by this process'
    """

    def __init__(self, ours: Mapping[str, object], theirs: Mapping[str, object]) -> None:
        self.ours = dict(ours)
        self.theirs = dict(theirs)
        different = [k for k in {**self.ours, **self.theirs} if self.ours.get(k) != self.theirs.get(k)]
        said = ", ".join(f"{k} {self.theirs.get(k, 'unknown')} there and {self.ours.get(k, 'unknown')} here" for k in different)
        super().__init__(f"The session cannot be joined by this process: {said}. Both must run the same versions.")


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
        who = holder + in_brackets(task_name and f"running {task_name}()", pid is not None and f"pid {pid}")
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
        self.client_exc = client_exc if isinstance(client_exc, str) else safe_repr(client_exc)
        self.traceback_str = traceback_str
        place = f"\n{traceback_str}" if traceback_str else ""
        super().__init__(f"A bug in Shoal, not in your program; please report it: {self.client_exc}{place}")


RaySystemError = InternalError
