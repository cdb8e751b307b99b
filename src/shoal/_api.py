"""The functions of the package `shoal`: a thin layer of checks over the present engine."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, overload

from shoal import engine as _engine
from shoal._core import ObjectRef
from shoal._options import validate_actor_options, validate_runtime_env, validate_task_options
from shoal.actor import ActorClass, ActorHandle
from shoal.engine import current
from shoal.engine.base import Engine
from shoal.exceptions import GetTimeoutError
from shoal.generator import ObjectRefGenerator
from shoal.ownership import put_owned
from shoal.remote_function import RemoteFunction

T = TypeVar("T")

_IGNORED = {  # settings of Ray that mean nothing here; given, they are accepted
    "include_dashboard", "dashboard_host", "dashboard_port", "job_config", "configure_logging", "logging_level",
    "logging_format", "logging_config", "labels", "_memory", "_temp_dir", "_metrics_export_port",
    "_system_config", "_tracing_startup_hook", "enable_resource_isolation", "cgroup_path", "system_reserved_cpu",
    "system_reserved_memory", "proxy_server_url",
}  # fmt: skip


class Context(dict[str, Any]):
    """What `init` returns: facts about the session, and a context manager that ends it."""

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        shutdown()

    def disconnect(self) -> None:
        shutdown()

    @property
    def address_info(self) -> dict[str, Any]:
        return dict(self)

    @property
    def dashboard_url(self) -> str:
        return ""


def init(
    address: str | None = None,
    *,
    session_name: str | None = None,
    token: str | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    object_store_memory: int | None = None,
    spill_directory: str | os.PathLike[str] | None = None,
    memory_timeout: float | None = None,
    memory_usage_threshold: float | None = None,
    namespace: str | None = None,
    ignore_reinit_error: bool = False,
    log_to_driver: bool | None = None,
    local_mode: bool = False,
    runtime_env: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Context:
    """Start a session on this machine, or join one. Optional: the first use starts one with the default settings.

    Args:
        address: the session to join as a guest: its name, the path of its socket, or "auto" for the only one that this user
            has. "local" starts a new session. None means what the environment variable SHOAL_ADDRESS says, else "local".
        session_name: what others join the new session by (default: a short one is made up; see the dict that is returned).
        token: what whoever joins the new session has to show; or, with an address, what that session asks for.
        num_cpus: tasks that run at a time (default: the cores this process may use).
        num_gpus: GPUs to schedule (default: those in CUDA_VISIBLE_DEVICES, else 0).
        resources: further resources by name, for instance {"license": 2}.
        object_store_memory: limit of the arena in bytes (default: 60 % of the machine's or the container's memory).
            Memory is only taken as it is used.
        spill_directory: where values that nobody looks at go when the arena is full, in one file without a name. Default:
            the environment's SHOAL_SPILL_DIRECTORY, else the directory for temporary files, or /var/tmp if that lies in
            memory. "": no spilling.
        memory_timeout: seconds that a put, or a task's result, waits for others to free memory when nothing can be spilled
            any more, before it raises ObjectStoreFullError (default: SHOAL_MEMORY_TIMEOUT, else 60). It raises at once if
            nobody else could free any.
        memory_usage_threshold: share of the machine's or the container's memory, from which on the running task that uses
            most is ended, and run again if it may be, before the kernel ends something else (default:
            SHOAL_MEMORY_USAGE_THRESHOLD, else 0.95; 0: never).
        namespace: in which names of actors are looked up.
        ignore_reinit_error: return the present session instead of an error when there is one.
        log_to_driver: whether what workers print appears here (default: yes).
        local_mode: refused; debug with `num_cpus=1` instead.
        runtime_env: for all tasks and actors: "env_vars", a dict of environment variables; "working_dir", a folder to work and
            import in, used where it is; "py_modules", a list of packages or modules to make importable. Other keys are
            ignored with a warning.
        **kwargs: other settings of `ray.init` are accepted and do nothing; anything else is a TypeError.

    Of the settings, a guest gives `namespace` and `token` only: the others are those of the session (ValueError).

    Returns a dict of facts that is also a context manager ending the session (a guest leaves it): among them "session_name",
    and "address", the socket's path. Costs about a tenth of a second, in the background for the most part; some milliseconds
    for a guest. Raises RuntimeError if this process is in a session already, ValueError for a negative resource,
    SessionExistsError if the name is taken, and for a guest SessionNotFoundError, SessionRefusedError (another user's, or the
    token) and SessionVersionError.

    >>> import shoal
    >>> context = shoal.init(num_cpus=2)
    >>> shoal.is_initialized()
    True
    >>> shoal.shutdown()
    """
    unknown = sorted(set(kwargs) - _IGNORED)
    if unknown:
        raise TypeError(f"init() got an unexpected argument {unknown[0]!r}; its settings are: {', '.join(_settings())}")
    if local_mode:
        raise ValueError("local_mode is not supported: use init(num_cpus=1), or call f._function(...) to debug in this process")
    if is_initialized():
        if ignore_reinit_error:
            return Context(current().context())
        raise RuntimeError(
            "shoal.init() was called twice: there is a session already. Call shutdown() first, or pass ignore_reinit_error=True"
        )
    settings = {
        "session_name": session_name,
        "token": token,
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": resources,
        "object_store_memory": object_store_memory,
        "spill_directory": spill_directory,
        "memory_timeout": memory_timeout,
        "memory_usage_threshold": memory_usage_threshold,
        "namespace": namespace,
        "log_to_driver": log_to_driver,
        "runtime_env": validate_runtime_env(runtime_env),
    }
    return Context(_engine.start(address, settings).context())


def _settings() -> list[str]:
    names = [p.name for p in inspect.signature(init).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return ["address", *names, *sorted(_IGNORED)]


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """End the session: all its processes are gone when this returns. Without a session it does nothing.

    A guest only leaves: its references are given back, the locks that it holds are freed as if it had died, and the session
    goes on. References of the session are dead afterwards (SessionEndedError); arrays that were got stay readable. A guest's
    become copies of its own, which costs time and memory for those that are still in use.
    """
    _engine.stop()


def is_initialized() -> bool:
    """Whether this process takes part in a session."""
    return _engine.current_or_none() is not None


def put(
    value: Any,
    *,
    mutable: bool = False,
    owner: ActorHandle | Literal["me"] | None = None,
    _owner: Any = None,
    _tensor_transport: Any = None,
) -> ObjectRef:
    """Store a value in shared memory.

    Args:
        value: anything picklable.
        mutable: whether the arrays inside `value` (ndarrays of any dtype without Python objects, CPU tensors,
            bytearrays, in any nesting of containers) can be changed in place by everyone through what `get` returns.
        owner: who alone may write to a mutable object: an actor's handle, or "me", the calling actor or process (a task's
            ownership ends with it). The arrays that everybody else gets are read-only, and so is their memory. See
            `shoal.commit`, `owned`, `transfer` and `claim`. Such an object takes its size twice, and two copies.

    Returns an ObjectRef; the value lives while any reference to it, or any view of its arrays, does.
    Costs one copy of the large buffers. Raises PicklingError, NotMutableError (nothing in it can be shared in place),
    ObjectStoreFullError (larger than what is left of the arena), TypeError for an ObjectRef, ActorDiedError for a dead owner.

    >>> import numpy as np, shoal
    >>> ref = shoal.put(np.arange(3), mutable=True)
    >>> shoal.get(ref)[0] = 7
    >>> shoal.get(ref)
    array([7, 1, 2])
    """
    if isinstance(value, ObjectRef):
        raise TypeError(
            "put() of an ObjectRef: it refers to an object already; to store the reference itself put a list with it: put([ref])"
        )
    if owner is not None:
        if not mutable:
            raise ValueError("an owner is for mutable objects, as nobody can change others: put(value, mutable=True, owner=...)")
        return put_owned(value, owner)
    ref: ObjectRef = current().put(value, mutable)
    return ref


@overload
def get(object_refs: ObjectRef, *, timeout: float | None = None, private: bool = False) -> Any: ...
@overload
def get(object_refs: Sequence[ObjectRef], *, timeout: float | None = None, private: bool = False) -> list[Any]: ...
def get(object_refs: Any, *, timeout: float | None = None, private: bool = False, _use_object_store: bool = False) -> Any:
    """The value of a reference, or the values of a list of them; waits until they are made.

    Args:
        object_refs: an ObjectRef or a list of them.
        timeout: seconds to wait at most; None waits without limit, 0 only looks.
        private: return arrays that may be written, for code that insists on it ("buffer source array is read-only"):
            copy-on-write views, which cost memory and time only for the pages that are written. Nobody else sees what
            is written. Not for mutable objects (ValueError). Each costs some microseconds and one mapping.

    Arrays come back as views of the shared memory, without a copy: read-only for immutable objects, writable for
    mutable ones. A view keeps its object alive.

    Raises what the task raised (as its own type, with the remote traceback), GetTimeoutError, WorkerCrashedError,
    ActorDiedError, TypeError for what is not a reference, SessionEndedError.

    >>> import numpy as np, shoal
    >>> ref = shoal.put(np.zeros(3))
    >>> mine = shoal.get(ref, private=True)
    >>> mine += 1
    >>> mine, shoal.get(ref)
    (array([1., 1., 1.]), array([0., 0., 0.]))
    """
    engine = current()
    if private:
        return _get_private(engine, object_refs, timeout)
    if isinstance(object_refs, ObjectRef):
        return engine.get(object_refs, timeout)
    if isinstance(object_refs, (list, tuple)):
        return engine.get_many(object_refs, timeout)
    refs = getattr(object_refs, "_completed_refs", None)
    if refs is not None:
        return engine.get_many(refs(), timeout)
    if isinstance(object_refs, ActorHandle):
        raise TypeError("get() of an actor handle: call one of its methods and get the reference that returns")
    raise TypeError(f"get() takes an ObjectRef or a list of ObjectRefs, not {object_refs!r} ({type(object_refs).__name__})")


def _get_private(engine: Engine, object_refs: Any, timeout: float | None) -> Any:
    if isinstance(object_refs, ObjectRef):
        return engine.get_private(object_refs, timeout)
    if not isinstance(object_refs, (list, tuple)):
        raise TypeError(f"get() takes an ObjectRef or a list of ObjectRefs, not {object_refs!r} ({type(object_refs).__name__})")
    if timeout is None:
        return [engine.get_private(ref, None) for ref in object_refs]
    end = time.monotonic() + timeout
    return [engine.get_private(ref, max(0.0, end - time.monotonic())) for ref in object_refs]


def wait(
    ray_waitables: list[Any], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[Any], list[Any]]:
    """Wait until `num_returns` of the references are done (or failed).

    Args:
        ray_waitables: a list of distinct ObjectRefs, or generators of them: one is ready when its next item, or its end, is.
        num_returns: how many, 1 to the length of the list.
        timeout: seconds to wait at most; None waits without limit.
        fetch_local: accepted for Ray programs; everything is local.

    Returns (ready, not_ready), both in the order given; ready has at most `num_returns` elements.
    Raises TypeError or ValueError for a bad argument, never what the tasks raised.
    """
    refs = ray_waitables
    if type(refs) is not list:
        if isinstance(refs, ObjectRef):
            raise TypeError("wait() takes a list of ObjectRefs, not a single one: wait([ref])")
        refs = list(refs)
    if not refs:
        return [], []
    try:
        return current().wait(refs, num_returns, timeout)
    except TypeError:
        if not isinstance(num_returns, int) or not any(isinstance(ref, ObjectRefGenerator) for ref in refs):
            raise
    return _wait_with_generators(refs, num_returns, timeout)


def _wait_with_generators(waitables: list[Any], num_returns: int, timeout: float | None) -> tuple[list[Any], list[Any]]:
    if len(set(waitables)) != len(waitables):
        raise ValueError("wait() was given the same generator twice")
    refs = [w.completed() if isinstance(w, ObjectRefGenerator) else w for w in waitables]
    different = list(dict.fromkeys(refs))  # the last item of a generator that failed is its end, too
    done = set(current().wait(different, min(num_returns, len(different)), timeout)[0])
    ready = [w for w, ref in zip(waitables, refs, strict=True) if ref in done][:num_returns]
    return ready, [w for w in waitables if w not in set(ready)]


@overload
def remote(function: Callable[..., Any], /) -> Any: ...
@overload
def remote(**options: Any) -> Callable[[Any], Any]: ...
def remote(*args: Any, **options: Any) -> Any:
    """Make a function a task or a class an actor: `@remote` or `@remote(num_cpus=2, ...)`.

    Options of a task that decide about its end: `max_retries` (runs after a death of its process, 3 by default),
    `retry_exceptions` (True or a list of classes: further runs after those too), `timeout_s` (seconds that one run may
    take; then it is interrupted, after a second more its process is killed, and `get` raises TaskTimeoutError; another run
    follows only if `retry_exceptions` covers that).

    Raises TypeError for anything else, ValueError for an unknown or impossible option.

    >>> import time, shoal
    >>> @shoal.remote(timeout_s=0.1)
    ... def slow():
    ...     time.sleep(100)
    >>> try:
    ...     shoal.get(slow.remote())
    ... except TimeoutError as error:
    ...     print(type(error).__name__, error.timeout)
    TaskTimeoutError 0.1
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _make_remote(args[0], {})
    if args or not options:
        raise TypeError("@remote goes before a function or class, alone or with keyword options: @remote or @remote(num_cpus=2)")
    return lambda target: _make_remote(target, options)


def _make_remote(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, (RemoteFunction, ActorClass)):
        raise TypeError(f"{target!r} is remote already")
    if inspect.isclass(target):
        return ActorClass(target, validate_actor_options(options, in_options=False))
    if inspect.iscoroutinefunction(target):
        raise ValueError(
            f"{target!r} is an async function: a task runs outside of any event loop. Make it a method of an actor, or wrap it: "
            "def task(*args): return asyncio.run(coroutine(*args))"
        )
    if not inspect.isfunction(target) and not inspect.isbuiltin(target) and not callable(target):
        raise TypeError(f"@remote takes a function or a class, not {target!r}")
    return RemoteFunction(target, validate_task_options(options, in_options=False))


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor at once, with SIGKILL; its waiting and later calls get ActorDiedError.

    no_restart=False lets it start again if its max_restarts allow; calls made after it run in the new process only.
    Raises TypeError for what is no actor handle.
    """
    if not isinstance(actor, ActorHandle):
        raise TypeError(f"kill() takes an actor handle, not {actor!r}; for tasks use cancel(ref)")
    current().kill(actor, no_restart)


def cancel(ray_waitable: ObjectRef | ObjectRefGenerator, *, force: bool = False, recursive: bool = True) -> None:
    """Cancel the task that makes `ray_waitable`: `get` raises TaskCancelledError then.

    Args:
        ray_waitable: a reference that the task makes, or its generator.
        force: kill the process of a running task. One that runs inside another one takes that with it. Not for actor calls.
        recursive: cancel what the task has submitted so far too, and what that has in its turn: tasks (with `force` if that
            was asked for) and actor calls. What is finished, or has no return, is left alone.

    A task that has not started is dropped; a running one gets a KeyboardInterrupt; a call of an `async def` method gets
    CancelledError. A finished one is left alone. Cancelling a task that has submitted others costs a pass over all objects.
    Raises TypeError for what is no reference, ValueError for force on an actor call.

    >>> import time, shoal
    >>> @shoal.remote
    ... def child():
    ...     time.sleep(100)
    >>> @shoal.remote
    ... def parent():
    ...     return shoal.get(child.remote())
    >>> ref = parent.remote()
    >>> shoal.cancel(ref)
    >>> shoal.get(ref)
    Traceback (most recent call last):
    shoal.exceptions.TaskCancelledError: The task ... was cancelled.
    """
    if not isinstance(ray_waitable, (ObjectRef, ObjectRefGenerator)):
        raise TypeError(f"cancel() takes an ObjectRef, not {ray_waitable!r}; to end an actor use kill(handle)")
    current().cancel(ray_waitable, force, recursive)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The handle of a named actor. Raises ValueError if there is none of that name in the namespace."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"an actor's name is a non-empty string, not {name!r}")
    return current().get_actor(name, namespace)


def cluster_resources() -> dict[str, float]:
    """All resources of the session, by name."""
    return current().resources()[0]


def available_resources() -> dict[str, float]:
    """The resources that are free at this moment, by name."""
    return {name: amount for name, amount in current().resources()[1].items() if amount > 0}


def memory_summary(*, limit: int = 10, stats_only: bool = False) -> str:
    """What the arena holds and for whom, as a text: its size, what is in use, free and spilled, what each process refers to
    and looks at (has views of), and the largest objects with what keeps them.

    Args:
        limit: how many of the largest objects.
        stats_only: leave them out.

    Costs a look at each object of the session: about a millisecond for ten thousand. `memory_info` gives it as data.

    >>> import shoal
    >>> print(shoal.memory_summary(stats_only=True).split()[0])
    arena
    """
    return current().memory_summary(limit, stats_only)


def memory_info(*, limit: int = 10) -> dict[str, Any]:
    """What `memory_summary` says, as data: numbers of bytes and objects; "processes", a list of dicts with what each holds; and
    "largest", a list of dicts, one for each of the `limit` largest objects, with who views it and who refers to it.

    >>> import numpy as np, shoal
    >>> ref = shoal.put(np.zeros(1_000_000))
    >>> largest = shoal.memory_info()["largest"][0]
    >>> largest["bytes"] > 8_000_000, largest["referenced_by"], largest["viewed_by"]
    (True, ['driver'], [])
    """
    return current().memory_info(limit)


def nodes() -> list[dict[str, Any]]:
    """The machines of the session: one."""
    return current().nodes()


def get_gpu_ids() -> list[int]:
    """The GPUs that the present task or actor may use, as its CUDA_VISIBLE_DEVICES says."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [int(x) for x in visible.split(",") if x.strip().isdigit()]


def get_timeout_error(timeout: float | None, what: str) -> GetTimeoutError:
    return GetTimeoutError(f"{what} was not ready within {timeout} seconds")
