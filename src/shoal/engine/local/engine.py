"""The Engine over the arena, used by the driver and by the workers alike."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shoal import _core, exceptions, serialization
from shoal._options import RESOURCE_UNIT, resource_demand, scheduling_strategy_of
from shoal.actor import ActorClass, ActorHandle, MethodSpec, handle_class, method_table
from shoal.engine.base import Engine
from shoal.engine.local.exports import Exports
from shoal.generator import ObjectRefGenerator
from shoal.remote_function import RemoteFunction

TASK, CREATE_ACTOR, ACTOR_CALL = 0, 1, 2  # TaskKind in core/abi.h
STREAMING, DYNAMIC, CANCELLED, RETRY_EXCEPTIONS = 1, 2, 4, 8  # TaskFlags
ACTOR_NAMES, LOCK_NAMES, VERSIONED_NAMES = 1, 2, 5  # NameSpace
CMD_CANCEL, CMD_KILL = 2, 4  # CommandBits
ACTOR_STATES = ("PENDING", "ALIVE", "RESTARTING", "DEAD")
DEFAULT_RETRIES = 3

_EXTRAS_OF_TASK = ("retry_exceptions", "max_calls", "runtime_env")


class LocalEngine(Engine):
    """A session, from one of its processes.

    What a function or class needs for submission (its export, its shape, its flags) is worked out once per session
    and kept with it as `_prepared`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.session: int = _core.session_id()
        self.exports = Exports()
        self.namespace: str = config["namespace"]
        self._handle_classes: dict[int, type[ActorHandle]] = {}
        # For context(): what is true of this process, and of the call that it runs.
        self.process_facts: dict[str, Any] = {}
        self.running: Callable[[], dict[str, Any]] = dict

    # -- tasks ----------------------------------------------------------------------------------------------

    def submit(self, function: RemoteFunction[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        prepared = function._prepared
        if prepared is None or prepared[0] is not self:
            prepared = self._prepare_function(function)
        try:
            result = _core.submit(prepared[1], args, kwargs)
        except exceptions.PicklingError as error:
            raise self._unpicklable(error, function.__name__, args, kwargs) from error.__cause__
        return ObjectRefGenerator(result) if prepared[2] else result

    def _prepare_function(self, function: RemoteFunction[Any, Any]) -> Any:
        options = function._options
        name = options.get("name") or getattr(function, "__name__", repr(function))
        extras = {k: options[k] for k in _EXTRAS_OF_TASK if options.get(k)}
        handle = self.exports.add(name, function._function, extras)
        shape = self._shape(options, 1.0, f"task {name}()")
        nreturns, flags = _returns(options.get("num_returns"), function._is_generator)
        retries = options.get("max_retries")
        if options.get("retry_exceptions"):
            flags |= RETRY_EXCEPTIONS
        call = (TASK, handle, shape, 0, 0, nreturns, DEFAULT_RETRIES if retries is None else retries, flags)
        function._prepared = prepared = (self, call, bool(flags & STREAMING))
        return prepared

    def _shape(self, options: Mapping[str, Any], default_cpus: float, who: str) -> int:
        demand = resource_demand(options, default_cpus=default_cpus)
        scheduling_strategy_of(options)
        shape, feasible = _core.shape(sorted(demand.items()))
        if not feasible:
            have = {name: _amount(name, total) for name, (total, _) in _core.resources().items()}
            need = {name: _amount(name, amount) for name, amount in demand.items()}
            warnings.warn(
                f"{who} demands {need}, but the session has only {have}: it will wait until the end of the session. "
                "Lower its demand, or give init() more.",
                exceptions.SchedulingWarning,
                stacklevel=5,
            )
        return int(shape)

    @staticmethod
    def _unpicklable(
        error: exceptions.PicklingError, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Exception:
        """The same error, saying which argument it was."""
        for key, value in [*enumerate(args), *kwargs.items()]:
            where = f"argument {key}" if isinstance(key, int) else f"argument {key!r}"
            try:
                serialization.serialize(value, where)
            except exceptions.PicklingError as named:
                return exceptions.PicklingError(f"in the call of {name}(): {named}", path=named.path, type_name=named.type_name)
        return error

    # -- actors ---------------------------------------------------------------------------------------------

    def create_actor(self, cls: ActorClass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle:
        options = cls._options
        name, namespace = options.get("name"), options.get("namespace") or self.namespace
        if name and options.get("get_if_exists"):
            try:
                return self.get_actor(name, namespace)
            except ValueError:
                pass
        class_key = self._prepare_class(cls)
        if not _core.free_slots():
            raise exceptions.LimitError(
                "MAX_PROCESSES", _core.MAX_PROCESSES, "every actor is a process; end some, or let one actor do more"
            )
        shape = self._shape(options, 0.0, f"actor {cls.__name__}")
        restarts = options.get("max_restarts") or 0
        detached = options.get("lifetime") == "detached"
        ref = _core.create_actor(shape, class_key, cls.__name__, restarts, options.get("max_pending_calls") or -1, detached)
        retries = options.get("max_task_retries") or 0
        handle = self.make_handle(ref, cls.__name__, class_key, retries)
        if name and not _core.name_set(ACTOR_NAMES, f"{namespace}/{name}", ref):
            other = None
            if options.get("get_if_exists"):
                other = self.get_actor(name, namespace)
            _core.actor_close(ref._handle, 2)
            self._bury(ref._handle, "its name was taken")
            if other is not None:
                return other
            raise exceptions.ActorAlreadyExistsError(
                f"the name {name!r} is taken by another actor in namespace {namespace!r}; choose another, "
                "use get_actor(), or pass get_if_exists=True"
            )
        settings = {
            "max_concurrency": options.get("max_concurrency"),
            "concurrency_groups": options.get("concurrency_groups") or {},
            "name": name or "",
            "namespace": namespace,
            "class_name": cls.__name__,
            "runtime_env": options.get("runtime_env") or {},
            "max_task_retries": retries,
        }
        call = (CREATE_ACTOR, class_key, shape, ref._handle, 0, 0, restarts, 0)
        try:
            _core.submit(call, (settings, *args), kwargs)
        except BaseException as error:
            _core.actor_close(ref._handle, 2)
            self._bury(ref._handle, f"it was never started: {error}")
            if name:
                _core.name_remove(ACTOR_NAMES, f"{namespace}/{name}", ref._handle)
            if isinstance(error, exceptions.PicklingError):
                raise self._unpicklable(error, cls.__name__, args, kwargs) from error.__cause__
            raise
        return handle

    @staticmethod
    def _bury(handle: int, why: str) -> None:
        """An actor that never lived: it is dead from the start."""
        _core.actor_dead(handle, _core.put_error(exceptions.ActorDiedError(why)))
        _core.actor_drop_life(handle)

    def _prepare_class(self, cls: ActorClass) -> int:
        prepared = cls._prepared
        if prepared is None or prepared[0] is not self:
            handle = self.exports.add(cls.__name__, cls._class, {})
            self._handle_classes.setdefault(handle, handle_class(cls.__name__, method_table(cls._class)))
            cls._prepared = prepared = (self, handle)
        return int(prepared[1])

    def make_handle(self, ref: Any, class_name: str, class_key: int, max_task_retries: int) -> ActorHandle:
        kind = self._handle_classes.get(class_key)
        if kind is None:
            kind = handle_class(class_name, method_table(self.exports.load(class_key).target))
            self._handle_classes[class_key] = kind
        return kind(ref, class_name, class_key, max_task_retries)

    def call_actor(
        self, handle: ActorHandle, method: MethodSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        wanted = method.num_returns
        nreturns, flags = (wanted, 0) if type(wanted) is int else _returns(wanted, method.is_generator)
        retries = handle._max_task_retries
        if method.options:
            if "max_task_retries" in method.options:
                retries = method.options["max_task_retries"] or 0
            if method.options.get("retry_exceptions"):
                flags |= RETRY_EXCEPTIONS
        actor = handle._ref
        if not actor._live:
            _core.is_done(actor)  # raises what is the matter
        call = (ACTOR_CALL, 0, 0, actor._handle, method.index, nreturns, retries, flags)
        try:
            result = _core.submit(call, args, kwargs)
        except exceptions.PicklingError as error:
            raise self._unpicklable(error, method.name, args, kwargs) from error.__cause__
        if result is NotImplemented:  # the actor is dead: the call fails like those that were waiting
            failed = _core.actor_death(actor._handle)
            result = failed if nreturns == 1 else [failed] * int(nreturns) if nreturns else None
        return ObjectRefGenerator(result) if flags & STREAMING else result

    def kill(self, handle: ActorHandle, no_restart: bool) -> None:
        actor = handle._ref._handle
        _core.is_done(handle._ref)  # is it of this session?
        info = _core.actor_info(actor)
        if no_restart:
            _core.actor_close(actor, 2)
        if info["state"] == 1:
            _core.ask(info["slot"], CMD_KILL)

    def get_actor(self, name: str, namespace: str | None) -> ActorHandle:
        where = namespace or self.namespace
        ref = _core.name_get(ACTOR_NAMES, f"{where}/{name}")
        if ref is None:
            known = [a["name"] for a in self.list_actors(True) if a["namespace"] == where]
            raise exceptions.ActorHandleNotFoundError(
                f"there is no actor named {name!r} in namespace {where!r} (named actors there: {', '.join(known) or 'none'}); "
                "it may have ended with its last handle: lifetime='detached' keeps it"
            )
        info = _core.actor_info(ref._handle)
        return self.make_handle(ref, info["name"], info["class"], 0)

    def list_actors(self, all_namespaces: bool) -> list[dict[str, str]]:
        found = []
        for key, _ in _core.name_list(ACTOR_NAMES):
            namespace, _, name = key.partition("/")
            if all_namespaces or namespace == self.namespace:
                found.append({"name": name, "namespace": namespace})
        return found

    # -- objects --------------------------------------------------------------------------------------------

    def put(self, value: Any, mutable: bool) -> Any:
        return _core.put(value, mutable)

    def get(self, ref: Any, timeout: float | None) -> Any:
        value = _core.get(ref, timeout)
        if value is _core.TIMED_OUT:
            raise exceptions.GetTimeoutError(f"{ref!r} was not ready within {timeout} seconds")
        return value

    def get_many(self, refs: Sequence[Any], timeout: float | None) -> list[Any]:
        values = _core.get_many(refs, timeout)
        if values is _core.TIMED_OUT:
            missing = len(refs) - len(_core.first_done(list(refs)))
            raise exceptions.GetTimeoutError(f"{missing} of {len(refs)} objects were not ready within {timeout} seconds")
        return list(values) if not isinstance(values, list) else values

    def get_private(self, ref: Any, timeout: float | None) -> Any:
        if not _core.wait([ref], 1, timeout)[0]:
            raise exceptions.GetTimeoutError(f"{ref!r} was not ready within {timeout} seconds")
        return _core._load_private(ref)

    def new_array(self, meta: bytes, nbytes: int, zero: bool) -> Any:
        return _core._new_array(meta, nbytes, zero)

    def freeze(self, ref: Any) -> Sequence[int]:
        return _core._freeze(ref) or ()

    def versioned(self, value: Any, name: str | None) -> Any:
        if name is None:
            return _core._new_versioned(value)
        ref = _core.name_get(VERSIONED_NAMES, name)
        if ref is None:
            ref = _core._new_versioned(value)
            if not _core.name_set(VERSIONED_NAMES, name, ref):
                ref = _core.name_get(VERSIONED_NAMES, name)
        return ref

    def wait(self, refs: list[Any], num_returns: int, timeout: float | None) -> tuple[list[Any], list[Any]]:
        result: tuple[list[Any], list[Any]] = _core.wait(refs, num_returns, timeout)
        return result

    def cancel(self, ref: Any, force: bool, recursive: bool) -> None:
        task = _core.cancel_queued(ref)
        if task is not None:
            _core.fail(task, exceptions.TaskCancelledError(f"{_core.task_id(task):x}"), True)
            return
        running = _core.producer(ref)
        if running is None:
            return
        if running[2] == ACTOR_CALL and force:
            raise ValueError("cancel(force=True) would kill the actor: use shoal.kill(handle) for that, or cancel without force")
        _core.cancel_running(ref, force)

    # -- locks ----------------------------------------------------------------------------------------------

    def lock(self, target: Any, reentrant: bool) -> Any:
        if target is None:
            return _core._lock(_core._new_lock(), None, reentrant)
        if isinstance(target, str):
            ref = _core.name_get(LOCK_NAMES, target)
            if ref is None:
                ref = _core._new_lock()
                if not _core.name_set(LOCK_NAMES, target, ref):
                    ref = _core.name_get(LOCK_NAMES, target)
            return _core._lock(ref, target, reentrant)
        if isinstance(target, _core.ObjectRef):
            return _core._lock(target, None, reentrant)
        raise TypeError(
            f"lock() takes an ObjectRef of a mutable object, a name, or nothing, not {target!r} ({type(target).__name__}); "
            "to lock an array that get() returned, use the ref it came from"
        )

    # -- facts ----------------------------------------------------------------------------------------------

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        all_of, free = {}, {}
        for name, (total, available) in _core.resources().items():
            if total:
                all_of[name] = _amount(name, total)
                free[name] = max(0.0, _amount(name, available))
        memory = _core.statistics()
        all_of["object_store_memory"] = float(memory["limit_bytes"])
        free["object_store_memory"] = float(memory["limit_bytes"] - memory["used_bytes"])
        return all_of, free

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "NodeID": f"{self.session:056x}",
                "Alive": True,
                "NodeManagerAddress": "127.0.0.1",
                "NodeManagerHostname": os.uname().nodename,
                "Resources": self.resources()[0],
                "Labels": {},
            }
        ]

    def context(self) -> dict[str, Any]:
        return {
            "session_name": f"session_{self.session:016x}",
            "node_id": f"{self.session:056x}",
            "job_id": "01000000",
            "namespace": self.namespace,
            "worker_id": f"{self.session:016x}{_core.slot():08x}",
            "pid": os.getpid(),
            **self.process_facts,
            **self.running(),
        }

    def shutdown(self) -> None:
        self.config.get("on_shutdown", lambda: None)()


def _returns(num_returns: int | str | None, is_generator: bool) -> tuple[int, int]:
    """How many return objects, and the flags for generators."""
    if num_returns is None:
        num_returns = "streaming" if is_generator else 1
    if num_returns == "streaming":
        return 1, STREAMING
    if num_returns == "dynamic":
        return 1, DYNAMIC
    return int(num_returns), 0


def _amount(name: str, units: int) -> float:
    return float(units) if name == "memory" else units / RESOURCE_UNIT
