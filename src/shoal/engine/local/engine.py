"""The Engine over the arena, used by the driver and by the workers alike."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shoal import _core, exceptions, serialization
from shoal._options import RESOURCE_UNIT, resource_demand, scheduling_strategy_of
from shoal.actor import METHOD_BITS, ActorClass, ActorHandle, MethodSpec, handle_class, method_table
from shoal.engine.base import Engine
from shoal.engine.local import memory
from shoal.engine.local.cancelling import CMD_KILL, end_children, end_task
from shoal.engine.local.exports import Exports
from shoal.generator import ObjectRefGenerator
from shoal.remote_function import RemoteFunction

TASK, CREATE_ACTOR, ACTOR_CALL = 0, 1, 2  # TaskKind in core/abi.h
STREAMING, DYNAMIC, RETRY_EXCEPTIONS, ALONE, TIMED, RETRY_TIMEOUT = 1, 2, 8, 16, 32, 64  # TaskFlags
ACTOR_NAMES, LOCK_NAMES, OBJECT_NAMES, SYNC_NAMES = 1, 2, 4, 5  # NameSpace
ACTOR_STATES = ("PENDING", "ALIVE", "RESTARTING", "DEAD")
DEFAULT_RETRIES = 3
RESERVED_PROCESSES = 64  # of the limit: for driver, supervisor, workers, guests

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
        self._kinds: dict[tuple[type[BaseException], ...], int] = {}
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
            raise self._unpicklable(error, _name_of(function), args, kwargs) from error.__cause__
        return prepared[2](result) if prepared[2] else result

    def _prepare_function(self, function: RemoteFunction[Any, Any]) -> Any:
        options = function._options
        name = options.get("name") or _name_of(function)
        extras = {k: options[k] for k in _EXTRAS_OF_TASK if options.get(k)}
        handle = self.exports.add(name, function._function, extras)
        shape = self._shape(options, 1.0, f"task {name}()")
        nreturns, flags = _returns(options.get("num_returns"), function._is_generator)
        retries = options.get("max_retries")
        if options.get("retry_exceptions"):
            flags |= RETRY_EXCEPTIONS
        if options.get("max_calls") or options.get("runtime_env"):
            flags |= ALONE
        wrap: Callable[[Any], Any] | None = _generator if flags & STREAMING else None
        if options.get("timeout_s"):
            flags |= TIMED | ALONE
            kinds = options.get("retry_exceptions")
            if kinds is True or (kinds and issubclass(exceptions.TaskTimeoutError, kinds)):
                flags |= RETRY_TIMEOUT
            shape |= max(1, round(options["timeout_s"] * 1000)) << 32
            if nreturns == 0:  # it is by a return that the supervisor knows which task it is
                nreturns, wrap = 1, _nothing
        call = (TASK, handle, shape, 0, 0, nreturns, DEFAULT_RETRIES if retries is None else retries, flags)
        function._prepared = prepared = (self, call, wrap)
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
    def _unpicklable(error: exceptions.PicklingError, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exception:
        """The same error, saying which argument it was."""
        for key, value in [*enumerate(args), *kwargs.items()]:
            where = f"argument {key}" if isinstance(key, int) else f"argument {key!r}"
            try:
                _core.collect_refs(lambda value=value, where=where: serialization.serialize(value, where))
            except exceptions.PicklingError as named:
                return exceptions.PicklingError(f"in the call of {name}(): {named}", path=named.path, type_name=named.type_name)
        return error

    # -- actors ---------------------------------------------------------------------------------------------

    def create_actor(self, cls: ActorClass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle:
        options = cls._options
        name, namespace = options.get("name"), options.get("namespace") or self.namespace
        if name and options.get("get_if_exists"):
            found = self._find_actor(name, namespace)
            if found is not None:
                return found
        class_key = self._prepare_class(cls)
        if _core.actors() >= _core.MAX_PROCESSES - RESERVED_PROCESSES:
            raise exceptions.LimitError(
                "MAX_PROCESSES",
                _core.MAX_PROCESSES - RESERVED_PROCESSES,
                "every actor is a process; end some, or let one actor do more",
            )
        shape = self._shape(options, 0.0, f"actor {cls.__name__}")
        restarts = options.get("max_restarts") or 0
        detached = options.get("lifetime") == "detached"
        retries = options.get("max_task_retries") or 0
        ref = _core.create_actor(
            shape, class_key, cls.__name__, restarts, options.get("max_pending_calls") or -1, retries, detached
        )
        handle = self.make_handle(ref, cls.__name__, class_key, retries)
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
            other = self._claim_name(name, namespace, ref, options.get("get_if_exists")) if name else None
            if other is None:
                _core.submit(call, (settings, *args), kwargs)
                return handle
        except BaseException as error:
            self._never_started(ref._handle, f"it was never started: {error}")
            if isinstance(error, exceptions.PicklingError):
                raise self._unpicklable(error, cls.__name__, args, kwargs) from error.__cause__
            raise
        self._never_started(ref._handle, "its name was taken")
        return other

    def _claim_name(self, name: str, namespace: str, ref: Any, get_if_exists: bool | None) -> ActorHandle | None:
        """Give the actor its name; returns the actor that has it, if there is one and that is allowed."""
        while not _core.name_set(ACTOR_NAMES, _name_key(namespace, name), ref):
            if not get_if_exists:
                raise exceptions.ActorAlreadyExistsError(
                    f"the name {name!r} is taken by another actor in namespace {namespace!r}; choose another, "
                    "use get_actor(), or pass get_if_exists=True"
                )
            other = self._find_actor(name, namespace)
            if other is not None:
                return other
        return None

    @staticmethod
    def _never_started(actor: int, why: str) -> None:
        """An actor that nobody will make: it is dead from the start."""
        _core.actor_close(actor, 2)
        _core.actor_dead(actor, _core.put_error(exceptions.ActorDiedError(why)))
        free_names(actor)
        _core.actor_drop_life(actor)

    def _prepare_class(self, cls: ActorClass) -> int:
        prepared = cls._prepared
        if prepared is None or prepared[0] is not self:
            groups = cls._options.get("concurrency_groups")
            handle = self.exports.add(cls.__name__, cls._class, {"concurrency_groups": groups} if groups else {})
            self._handle_classes.setdefault(handle, handle_class(cls.__name__, method_table(cls._class)))
            cls._prepared = prepared = (self, handle)
        return int(prepared[1])

    def make_handle(self, ref: Any, class_name: str, class_key: int, max_task_retries: int) -> ActorHandle:
        kind = self._handle_classes.get(class_key)
        if kind is None:
            kind = handle_class(class_name, method_table(self.exports.load(class_key).target))
            self._handle_classes[class_key] = kind
        return kind(ref, class_name, class_key, max_task_retries)

    def call_actor(self, handle: ActorHandle, method: MethodSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        wanted = method.num_returns
        nreturns, flags = (wanted, 0) if type(wanted) is int else _returns(wanted, method.is_generator)
        index, function, retries = method.index, 0, handle._max_task_retries
        if method.options:
            if "max_task_retries" in method.options:
                retries = method.options["max_task_retries"] or 0
            kinds = method.options.get("retry_exceptions")
            if kinds:
                flags |= RETRY_EXCEPTIONS
            if isinstance(kinds, tuple):
                function = self._exception_kinds(kinds)
            if method.options.get("concurrency_group"):
                index |= self._group_number(handle, method.options["concurrency_group"]) << METHOD_BITS
        actor = handle._ref
        if not actor._live:
            _core.is_done(actor)  # raises what is the matter
        call = (ACTOR_CALL, function, 0, actor._handle, index, nreturns, retries, flags)
        try:
            result = _core.submit(call, args, kwargs)
        except exceptions.PicklingError as error:
            raise self._unpicklable(error, method.name, args, kwargs) from error.__cause__
        if result is NotImplemented:  # the actor is dead: the call fails like those that were waiting
            failed = _core.actor_death(actor._handle)
            result = failed if nreturns == 1 else [failed] * int(nreturns) if nreturns else None
        return ObjectRefGenerator(*result) if flags & STREAMING else result

    def _exception_kinds(self, kinds: tuple[type[BaseException], ...]) -> int:
        """The exceptions upon which a call is repeated travel as an export, in the place of a task's function."""
        handle = self._kinds.get(kinds)
        if handle is None:
            handle = self._kinds[kinds] = self.exports.add("retry_exceptions", kinds, {})
        return handle

    def _group_number(self, handle: ActorHandle, group: str) -> int:
        """Which of the class's concurrency groups, sorted by name, from 1 on."""
        groups = sorted(self.exports.load(handle._class_key).extras.get("concurrency_groups") or ())
        if group not in groups:
            raise ValueError(
                f"actor class {handle._class_name} has no concurrency group {group!r}; it has: {', '.join(groups) or 'none'}"
            )
        return groups.index(group) + 1

    def kill(self, handle: ActorHandle, no_restart: bool) -> None:
        actor = handle._ref._handle
        _core.is_done(handle._ref)  # is it of this session?
        if no_restart:
            _core.actor_close(actor, 2)
            free_names(actor)
        else:
            _core.actor_kill(actor)
        info = _core.actor_info(actor)
        if info["hosted"]:
            _core.ask(info["slot"], CMD_KILL)
        elif no_restart and ACTOR_STATES[info["state"]] in ("PENDING", "RESTARTING"):  # it waits for resources or arguments
            death = exceptions.ActorDiedError("it was killed with shoal.kill() before it had started", class_name=info["name"])
            mourn(actor, _core.put_error(death), death)
            task = _core.cancel_creation(actor)
            if task:  # else whoever will take it finds that there is nothing to create
                # The record last: while it is ours, our death is the actor's too.
                _core.actor_drop_life(actor)
                _core.finish_silent(task)

    def get_actor(self, name: str, namespace: str | None) -> ActorHandle:
        where = namespace or self.namespace
        handle = self._find_actor(name, where)
        if handle is None:
            known = [a["name"] for a in self.list_actors(True) if a["namespace"] == where]
            raise exceptions.ActorHandleNotFoundError(
                f"there is no actor named {name!r} in namespace {where!r} (named actors there: {', '.join(known) or 'none'}); "
                "it may have ended with its last handle: lifetime='detached' keeps it"
            )
        return handle

    def _find_actor(self, name: str, namespace: str) -> ActorHandle | None:
        ref = _core.name_get(ACTOR_NAMES, _name_key(namespace, name))
        if ref is None:
            return None
        info = _core.actor_info(ref._handle)
        return self.make_handle(ref, info["name"], info["class"], info["task_retries"])

    def list_actors(self, all_namespaces: bool) -> list[dict[str, str]]:
        found = []
        for key, _ in _core.name_list(ACTOR_NAMES):
            namespace, _, name = key.partition("\0")
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

    wait = staticmethod(_core.wait)  # programs call it in long loops: no frame of Python's between

    def cancel(self, waitable: Any, force: bool, recursive: bool) -> None:
        ref = waitable._generator_ref if isinstance(waitable, ObjectRefGenerator) else waitable
        producer = _core.producer(ref)
        if producer is None:
            return
        if producer[2] == ACTOR_CALL and force:
            raise ValueError("cancel(force=True) would kill the actor: use shoal.kill(handle) for that, or cancel without force")
        last = _core.last_task_id()  # what it submits once it is interrupted, to clean up, is not to be ended
        end_task(ref._handle, force, recursive)
        if recursive and producer[4]:
            end_children(producer[1], force, last)

    # -- locks ----------------------------------------------------------------------------------------------

    def lock(self, target: Any, reentrant: bool, shared: bool = False, on_death: int = 0, rollback: bool = False) -> Any:
        if rollback and not isinstance(target, _core.ObjectRef):
            raise ValueError("rollback=True needs the reference of a mutable object: only its own lock knows what to restore")
        if target is None:
            return _core._lock(_core._new_lock(), None, reentrant, shared, on_death)
        if isinstance(target, str):
            ref = self._named(LOCK_NAMES, target, _core._new_lock)
            return _core._lock(ref, target, reentrant, shared, on_death)
        if isinstance(target, _core.ObjectRef):
            return _core._lock(target, None, reentrant, shared, on_death, rollback)
        raise TypeError(
            f"lock() takes an ObjectRef of a mutable object, a name, or nothing, not {target!r} ({type(target).__name__}); "
            "to lock an array that get() returned, use the ref it came from"
        )

    def sync_object(self, kind: str, name: str | None, settings: tuple[int, int, int, int]) -> Any:
        if name is None:
            return _core._new_sync(*settings)
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        return self._named(SYNC_NAMES, f"{kind}/{name}", lambda: _core._new_sync(*settings))

    def named_object(self, name: str, make: Callable[[], Any]) -> Any:
        return self._named(OBJECT_NAMES, name, make)

    @staticmethod
    def _named(space: int, name: str, make: Callable[[], Any]) -> Any:
        ref = _core.name_get(space, name)
        while ref is None:
            ref = make()
            if not _core.name_set(space, name, ref):  # somebody was quicker: theirs counts
                ref = _core.name_get(space, name)
        return ref

    # -- facts ----------------------------------------------------------------------------------------------

    def memory_summary(self, limit: int, stats_only: bool) -> str:
        return memory.memory_summary(self.config["spill"], limit, stats_only)

    def memory_info(self, limit: int) -> dict[str, Any]:
        return memory.memory_info(self.config["spill"], limit)

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
            "session_name": self.config["name"],
            "address": self.config["address"],
            "node_id": f"{self.session:056x}",
            "job_id": "01000000",
            "namespace": self.namespace,
            "runtime_env": self.config["runtime_env"],
            "worker_id": f"{self.session:016x}{_core.slot():08x}",
            "pid": os.getpid(),
            "spill_directory": self.config["spill"],
            **self.process_facts,
            **self.running(),
        }

    def shutdown(self) -> None:
        self.config.get("on_shutdown", lambda: None)()


def _name_key(namespace: str, name: str) -> str:
    return f"{namespace}\0{name}"


def free_names(actor: int) -> None:
    """The actor's name can be used again."""
    for key, named in _core.name_list(ACTOR_NAMES):
        if named == actor:
            _core.name_remove(ACTOR_NAMES, key, actor)


def mourn(actor: int, death_ref: Any, death: BaseException) -> None:
    """The actor is dead for good: the calls that wait for it fail, as later ones will, and its name is free."""
    _core.actor_dead(actor, death_ref)
    # Also if it was dead already: whoever said so may have died before it came to the rest.
    free_names(actor)
    while task := _core.take_dead_mail(actor):
        _core.fail(task, death, True)


def _name_of(function: RemoteFunction[Any, Any]) -> str:
    """A callable need not have a name: functools.partial has none."""
    return getattr(function, "__name__", None) or type(function._function).__name__


def _returns(num_returns: int | str | None, is_generator: bool) -> tuple[int, int]:
    """How many return objects, and the flags for generators."""
    if num_returns is None:
        num_returns = "streaming" if is_generator else 1
    if num_returns == "streaming":
        return 2, STREAMING  # the first item (see generator.py), and the end
    if num_returns == "dynamic":
        return 1, DYNAMIC
    return int(num_returns), 0


def _generator(refs: Any) -> ObjectRefGenerator:
    return ObjectRefGenerator(*refs)


def _nothing(_ref: Any) -> None:
    return None


def _amount(name: str, units: int) -> float:
    return float(units) if name == "memory" else units / RESOURCE_UNIT
