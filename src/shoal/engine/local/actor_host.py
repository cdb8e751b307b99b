"""An actor's process: creates the instance, then serves its mailbox until it is told to leave.

Three ways to serve, chosen by the class: one call after the other (the usual), `max_concurrency` calls in threads, or,
for a class with `async def` methods, on an event loop. All take calls from the mailbox in the order it gives them.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal import _core, exceptions
from shoal.actor import CALL_INDEX, READY_INDEX, TERMINATE_INDEX, ActorExit, MethodSpec, method_table
from shoal.engine.local.engine import DYNAMIC, RETRY_EXCEPTIONS, STREAMING
from shoal.exceptions import ActorDiedError, TaskError

if TYPE_CHECKING:
    from shoal.engine.local.worker import Worker

ASYNC_CONCURRENCY = 1000  # calls of an async actor that run at a time, as in Ray

# exit codes by which the supervisor knows why an actor's process left
EXIT_NO_HANDLES, EXIT_SELF, EXIT_INIT_FAILED = 0, 70, 71


def host(worker: Worker, task: int, class_key: int, args: Any, kwargs: Any) -> None:
    """Create the actor that `task` describes and serve it. Returns only if its creation failed."""
    from shoal.engine.local.worker import fail

    info = _core.task_info(task)
    handle = info["actor"]
    name = "actor"
    try:
        if _core.actor_info(handle)["closing"] == 2:  # killed before it was born
            raise ActorExit
        if args is None:
            raise kwargs
        settings, *rest = args
        name = settings["class_name"]
        worker.name_now(name)
        worker.set_environment(settings["runtime_env"])
        cls = worker.engine.exports.load(class_key).target
        ref = _core.share(handle)
        me = worker.engine.make_handle(ref, name, class_key, settings["max_task_retries"])
        worker.engine.process_facts = {
            "mode": "worker",
            "actor_id": me._actor_id,
            "actor_name": settings["name"],
            "actor_handle": me,
            "task_id": f"{info['id']:048x}",
            "attempt": info["attempt"],
            "namespace": settings["namespace"],
        }
        instance = cls(*rest, **(kwargs or {}))
    except BaseException as error:
        worker.engine.process_facts = {"mode": "worker"}
        _creation_failed(worker, task, handle, name, error)
        return
    del args, kwargs, rest
    keep = info["retries"] != 0  # the record stays with this process: it is what a restart runs again
    _core.actor_alive(handle, task, keep)
    if not keep:
        _core.finish_silent(task)
    worker.name_now(settings["name"] or name)
    server = Host(worker, handle, name, instance, cls, settings)
    code = server.serve()
    for stream in worker.streams:
        stream.flush()
    os._exit(code)
    fail(task, name, RuntimeError())  # unreachable


def _creation_failed(worker: Worker, task: int, handle: int, name: str, error: BaseException) -> None:
    from shoal.engine.local.worker import as_stored

    if isinstance(error, ActorExit):
        death: BaseException = ActorDiedError("it was killed before it had started", class_name=name)
    else:
        stored = as_stored(error, f"{name}.__init__", actor_id=f"{handle:032x}")
        death = ActorDiedError(stored if isinstance(stored, TaskError) else str(stored), actor_id=f"{handle:032x}", class_name=name)
    try:
        ref = _core.put_error(death)
    except Exception:  # its cause does not pickle
        plain = death.cause.without_cause() if isinstance(death, ActorDiedError) and isinstance(death.cause, TaskError) else str(death)
        death = ActorDiedError(plain, class_name=name)
        ref = _core.put_error(death)
    bury(handle, ref, death)
    _core.finish_silent(task)


def bury(handle: int, death_ref: Any, death: BaseException) -> None:
    """The actor is dead for good: its calls fail, its name is free, its process's reference to it is dropped."""
    from shoal.engine.local.engine import ACTOR_NAMES

    if _core.actor_info(handle)["state"] == 3:
        return
    _core.actor_dead(handle, death_ref)
    for key, named in _core.name_list(ACTOR_NAMES):
        if named == handle:
            _core.name_remove(ACTOR_NAMES, key, handle)
    while task := _core.take_dead_mail(handle):
        _core.fail(task, death, True)
    _core.actor_drop_life(handle)


class Host:
    def __init__(
        self, worker: Worker, handle: int, class_name: str, instance: Any, cls: type, settings: dict[str, Any]
    ) -> None:
        self.worker = worker
        self.engine = worker.engine
        self.handle = handle
        self.class_name = class_name
        self.instance = instance
        self.settings = settings
        self.specs: dict[int, MethodSpec] = {spec.index: spec for spec in method_table(cls).values()}
        self.is_async = any(
            inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) for _, f in inspect.getmembers(cls, callable)
        )
        self.methods: dict[int, Callable[..., Any]] = {
            CALL_INDEX: lambda function, *args, **kwargs: function(instance, *args, **kwargs),
            READY_INDEX: lambda: True,
            TERMINATE_INDEX: self._terminate,
        }
        for spec in self.specs.values():
            if spec.index < CALL_INDEX:
                self.methods[spec.index] = getattr(instance, spec.name)
        self.exit_code: int | None = None

    def _terminate(self) -> None:
        raise ActorExit

    def serve(self) -> int:
        concurrency = self.settings["max_concurrency"]
        groups = self.settings["concurrency_groups"]
        if self.is_async:
            self._serve_async(concurrency or ASYNC_CONCURRENCY, groups)
        elif groups or (concurrency or 1) > 1:
            self._serve_threads(concurrency or 1, groups)
        else:
            self._serve_one()
        return EXIT_NO_HANDLES if self.exit_code is None else self.exit_code

    # -- one after the other -------------------------------------------------------------------------------

    def _serve_one(self) -> None:
        next_mail, handle = _core.next_mail, self.handle
        finish, methods = _core.finish, self.methods
        worker, streams = self.worker, self.worker.streams
        while self.exit_code is None:
            call = next_mail(handle, True)
            if call is None:
                return
            task, _, _, method, args, kwargs, nreturns, flags = call
            worker.current = task
            try:
                if args is None:
                    raise kwargs
                function = methods[method]
                value = function(*args) if kwargs is None else function(*args, **kwargs)
                if nreturns == 1 and not flags & (STREAMING | DYNAMIC):
                    finish(task, value)
                else:
                    self.seal(task, method, value, nreturns, flags)
            except BaseException as error:
                self.failed(task, method, error, flags)
            worker.current = None
            call = args = kwargs = value = None  # nothing of a call may outlive it here
            for stream in streams:
                if stream._parts:
                    stream.flush()

    def seal(self, task: int, method: int, value: Any, nreturns: int, flags: int) -> None:
        from shoal.engine.local.worker import seal

        seal(self.engine, task, self.specs[method].name, value, nreturns, flags)

    def failed(self, task: int, method: int, error: BaseException, flags: int) -> None:
        from shoal.engine.local.worker import fail

        spec = self.specs.get(method)
        name = f"{self.class_name}.{spec.name if spec else method}"
        if isinstance(error, (ActorExit, SystemExit)):
            self.exit_code = EXIT_SELF
            _core.actor_close(self.handle, 2)
            death = ActorDiedError("it ended itself (exit_actor or sys.exit)", class_name=self.class_name, pid=os.getpid())
            _core.fail(task, death, True)
            return
        if isinstance(error, exceptions.SessionError) and (_core.dead() or _core.stopping()):
            self.worker.leave()
        if _core.task_cancelled(task):
            _core.fail(task, exceptions.TaskCancelledError(f"{_core.task_id(task):x}"), True)
            return
        if flags & RETRY_EXCEPTIONS and spec and isinstance(error, Exception):
            wanted = spec.options.get("retry_exceptions", True)
            if (wanted is True or (wanted and isinstance(error, wanted))) and _core.retry(task):
                _core.requeue(task)
                return
        fail(task, name, error, actor_id=f"{self.handle:032x}", actor_repr=self._repr())

    def _repr(self) -> str:
        try:
            return repr(self.instance) if type(self.instance).__repr__ is not object.__repr__ else self.class_name
        except Exception:  # the user's __repr__ may fail; that must not hide the error it was to describe
            return self.class_name

    # -- in threads ----------------------------------------------------------------------------------------

    def _serve_threads(self, concurrency: int, groups: dict[str, int]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        limits = {"": concurrency, **groups}
        pools = {g: ThreadPoolExecutor(n, thread_name_prefix=f"shoal-{g or 'actor'}") for g, n in limits.items()}
        # With a single group no more calls are taken than can run: the rest waits in the mailbox, visibly.
        room = threading.Semaphore(concurrency) if not groups else None
        while self.exit_code is None:
            if room:
                room.acquire()
            call = _core.next_mail(self.handle, True)
            if call is None:
                break
            spec = self.specs.get(call[3])
            group = (spec.options.get("concurrency_group") if spec else None) or ""
            pools[group if group in pools else ""].submit(self._run_in_thread, call, room)
            call = None
        for pool in pools.values():
            pool.shutdown(wait=self.exit_code is None)

    def _run_in_thread(self, call: Any, room: threading.Semaphore | None) -> None:
        task, _, _, method, args, kwargs, nreturns, flags = call
        try:
            if args is None:
                raise kwargs
            self.seal(task, method, self.methods[method](*args, **(kwargs or {})), nreturns, flags)
        except BaseException as error:
            self.failed(task, method, error, flags)
            if self.exit_code is not None:
                self.worker.streams[0].flush()
                os._exit(self.exit_code)
        finally:
            del call, args, kwargs
            if room:
                room.release()

    # -- on an event loop ----------------------------------------------------------------------------------

    def _serve_async(self, concurrency: int, groups: dict[str, int]) -> None:
        import asyncio

        from shoal.engine.local.actor_loop import AsyncServer

        asyncio.run(AsyncServer(self, concurrency, groups).run())
