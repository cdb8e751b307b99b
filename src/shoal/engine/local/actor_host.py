"""An actor's process: creates the instance, then serves its mailbox until it is told to leave.

Three ways to serve, chosen by the class: one call after the other (the usual), `max_concurrency` calls in threads, or,
for a class with `async def` methods, on an event loop. All take calls from the mailbox in the order it gives them.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from shoal import _core, exceptions
from shoal.actor import CALL_INDEX, METHOD_BITS, READY_INDEX, SAVE, TERMINATE_INDEX, ActorExit, MethodSpec, method_table
from shoal.engine.local.engine import DYNAMIC, RETRY_EXCEPTIONS, STREAMING, mourn
from shoal.engine.local.environment import Applied
from shoal.engine.local.worker import CALL
from shoal.exceptions import ActorDiedError, TaskError

if TYPE_CHECKING:
    from shoal.engine.local.worker import Worker

ASYNC_CONCURRENCY = 1000  # calls of an async actor that run at a time, as in Ray

# exit codes by which the supervisor knows why an actor's process left
EXIT_NO_HANDLES, EXIT_SELF, EXIT_INIT_FAILED = 0, 70, 71


def host(worker: Worker, creation: list[Any]) -> NoReturn:
    """Create the actor that `creation` describes and serve it; the process ends with it."""
    task, class_key, args, kwargs = creation
    creation.clear()  # the arguments shall live no longer than the instance wants
    info = _core.task_info(task)
    handle = info["actor"]
    name = "actor"
    _core.actor_starts(handle)
    try:
        if _core.actor_info(handle)["closing"] == 2:  # killed before it was born
            raise ActorExit
        if args is None:
            raise kwargs
        settings, *rest = args
        name = settings["class_name"]
        worker.name_now(name)
        Applied(settings["runtime_env"]).begin()
        cls = worker.engine.exports.load(class_key).target
        ref = _core.share(handle)
        me = worker.engine.make_handle(ref, name, class_key, settings["max_task_retries"])
        worker.engine.process_facts = {
            "mode": "worker",
            "actor_id": me._actor_id,
            "actor_name": settings["name"],
            "actor_handle": me,
            "task_id": f"{info['id']:048x}",
            "restarts": info["attempt"],
            "namespace": settings["namespace"],
            "runtime_env": settings["runtime_env"] or worker.engine.config["runtime_env"],
        }
        saved = _core.actor_saved(handle)
        if is_async(cls):
            from shoal.engine.local import actor_loop

            instance = actor_loop.construct(cls, rest, kwargs or {}, saved)
        else:
            instance = cls(*rest, **(kwargs or {}))
            if saved is not None:
                instance.__shoal_restore__(_core.get(saved, None))
        saved = None
    except BaseException as error:
        worker.leave_fork(error)
        _creation_failed(task, handle, name, error)
        worker.leave()  # nobody knows what the constructor has left behind in this process
    del args, kwargs, rest
    keep = info["retries"] != 0  # the record stays with this process: it is what a restart runs again
    _core.actor_alive(handle, task, keep)
    if not keep:
        _core.finish_silent(task)
    worker.name_now(settings["name"] or name)
    server = Host(worker, handle, name, instance, cls, settings, keep)
    server.serve()
    server.exit()


def is_async(cls: type) -> bool:
    """Whether the actor's calls run on an event loop: a method of its class is `async def`."""
    return any(inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) for _, f in inspect.getmembers(cls, callable))


def _creation_failed(task: int, handle: int, name: str, error: BaseException) -> None:
    from shoal.engine.local.worker import as_stored

    if isinstance(error, ActorExit):
        death: BaseException = ActorDiedError("it was killed before it had started", class_name=name)
    else:
        stored = as_stored(error, f"{name}.__init__", actor_id=f"{handle:032x}")
        death = ActorDiedError(stored if isinstance(stored, TaskError) else str(stored), actor_id=f"{handle:032x}", class_name=name)
    try:
        ref = _core.put_error(death)
    except Exception:  # its cause does not pickle
        plain = (
            death.cause.without_cause() if isinstance(death, ActorDiedError) and isinstance(death.cause, TaskError) else str(death)
        )
        death = ActorDiedError(plain, class_name=name)
        ref = _core.put_error(death)
    mourn(handle, ref, death)
    _core.finish_silent(task)
    _core.actor_drop_life(handle)


class Host:
    def __init__(
        self, worker: Worker, handle: int, class_name: str, instance: Any, cls: type, settings: dict[str, Any], restarts: bool
    ) -> None:
        self.worker = worker
        self.engine = worker.engine
        self.handle = handle
        self.class_name = class_name
        self.instance = instance
        self.settings = settings
        self.specs: dict[int, MethodSpec] = {spec.index: spec for spec in method_table(cls).values()}
        self.is_async = is_async(cls)
        self.groups = sorted(settings["concurrency_groups"])
        self.methods: dict[int, Callable[..., Any]] = {
            CALL_INDEX: lambda function, *args, **kwargs: function(instance, *args, **kwargs),
            READY_INDEX: lambda: True,
            TERMINATE_INDEX: self._terminate,
        }
        for spec in self.specs.values():
            if spec.index < CALL_INDEX:
                self.methods[spec.index] = getattr(instance, spec.name)
        self.exit_code: int | None = None
        # Without the hook, or if there will be no restart, nothing is different from here on.
        self.save: Callable[[], Any] | None = getattr(instance, SAVE, None) if restarts else None
        self.saving = threading.Lock()  # in threads: an older state must not come after a newer one
        self.finish: Callable[[int, Any], bool | None] = _core.finish if self.save is None else self._finish_saving
        worker.name_of = self._name_of

    def _name_of(self, task: int) -> str:
        """What `get_runtime_context().get_task_name()` says of a call."""
        spec = self.specs.get(self.method_and_group(_core.task_info(task)["method"])[0])
        return f"{self.class_name}.{spec.name if spec else '__init__'}"

    def _terminate(self) -> None:
        raise ActorExit

    def method_and_group(self, number: int) -> tuple[int, str]:
        """What a call's number says: the method's index, and its concurrency group."""
        group = number >> METHOD_BITS
        return number & (1 << METHOD_BITS) - 1, self.groups[group - 1] if group else ""

    def exit(self) -> NoReturn:
        """End this process; the supervisor sees to the calls that are left, and gives back what the actor holds."""
        for stream in self.worker.streams:
            stream.flush()
        os._exit(EXIT_NO_HANDLES if self.exit_code is None else self.exit_code)

    def serve(self) -> None:
        concurrency = self.settings["max_concurrency"]
        groups = self.settings["concurrency_groups"]
        if self.is_async:
            self._serve_async(concurrency or ASYNC_CONCURRENCY, groups)
        elif groups or (concurrency or 1) > 1:
            self._serve_threads(concurrency or 1, groups)
        else:
            self._serve_one()

    # -- one after the other -------------------------------------------------------------------------------

    def _serve_one(self) -> None:
        next_mail, handle = _core.next_mail, self.handle
        finish, methods = self.finish, self.methods
        worker, streams = self.worker, self.worker.streams
        while self.exit_code is None:
            call = next_mail(handle, True)
            if call is None:
                return
            task, _, _, method, args, kwargs, nreturns, flags = call
            worker.current = task
            try:
                if worker.interrupt_missed:
                    worker.look_for_interrupt(task)
                if args is None:
                    raise kwargs
                function = methods[method]
                value = function(*args) if kwargs is None else function(*args, **kwargs)
                if nreturns == 1 and not flags & (STREAMING | DYNAMIC):
                    finish(task, value)
                else:
                    self.seal(task, method, value, nreturns, flags)
            except BaseException as error:
                worker.current = None  # before anything is called, where an interrupt could come: it would end the actor
                self.failed(task, method, error, flags)
            worker.current = None
            call = args = kwargs = value = None  # nothing of a call may outlive it here
            for stream in streams:
                if stream._parts:
                    stream.flush()

    def seal(self, task: int, method: int, value: Any, nreturns: int, flags: int) -> None:
        from shoal.engine.local.worker import seal

        spec = self.specs.get(method)
        seal(self.engine, task, spec.name if spec else "call", value, nreturns, flags, self.finish)

    # -- the state that a restart begins with ---------------------------------------------------------------

    def _finish_saving(self, task: int, value: Any) -> None:
        """What the call returned, and the state after it: others see both or neither."""
        assert self.save is not None
        with self.saving:
            state = self.save()
            if state is NotImplemented:  # it has not changed
                _core.finish(task, value)
            else:
                try:
                    _core.actor_save(self.handle, state, task, value, False)
                except exceptions.PicklingError as error:
                    what = f"what {self.class_name}.{SAVE}() or this method returned: {error}"
                    raise exceptions.PicklingError(what, path=error.path, type_name=error.type_name) from error.__cause__

    def _save_quietly(self) -> None:
        assert self.save is not None
        try:
            with self.saving:
                state = self.save()
                if state is not NotImplemented:
                    _core.actor_save(self.handle, state, 0, None, False)
        except Exception:  # the state before this call stays the one to begin with
            pass

    def _fail_saving(self, task: int, name: str, error: BaseException, **actor: Any) -> None:
        """The same of a call that failed. If its state cannot be had either, its own error is what matters."""
        from shoal.engine.local.worker import as_stored, fail

        if self.save is not None:
            try:
                with self.saving:
                    state = self.save()
                    if state is not NotImplemented:
                        stored = as_stored(error, name, attempt=_core.task_attempt(task), **actor)
                        _core.actor_save(self.handle, state, task, stored, True)
                        return
            except Exception:  # the error may not pickle; or the state, or taking it raises
                self._save_quietly()
        fail(task, name, error, **actor)

    def failed(self, task: int, method: int, error: BaseException, flags: int) -> None:
        if not self.worker.caught(task, error):
            return
        spec = self.specs.get(method)
        name = f"{self.class_name}.{spec.name if spec else method}"
        if isinstance(error, (ActorExit, SystemExit)):
            self.exit_code = EXIT_SELF
            _core.actor_close(self.handle, 2)
            death = ActorDiedError("it ended itself (exit_actor or sys.exit)", class_name=self.class_name, pid=os.getpid())
            _core.fail(task, death, True)
            return
        marks = _core.task_cancelled(task)
        if marks:
            if self.save is not None:
                self._save_quietly()
            self.worker.end_cancelled(task, marks, name)
            return
        if flags & RETRY_EXCEPTIONS and isinstance(error, Exception):
            info = _core.task_info(task)
            kinds = info["function"]  # see LocalEngine.call_actor
            if info["streamed"]:  # it would yield the same items again
                pass
            elif (not kinds or isinstance(error, self.engine.exports.load(kinds).target)) and _core.retry(task):
                _core.requeue(task)
                return
        self._fail_saving(task, name, error, actor_id=f"{self.handle:032x}", actor_repr=self._repr())

    def _repr(self) -> str:
        own: Any = type(self.instance).__repr__
        try:
            return repr(self.instance) if own is not object.__repr__ else self.class_name
        except Exception:  # the user's __repr__ may fail; that must not hide the error it was to describe
            return self.class_name

    # -- in threads ----------------------------------------------------------------------------------------

    def _serve_threads(self, concurrency: int, groups: dict[str, int]) -> None:
        from concurrent.futures import Future, ThreadPoolExecutor, wait

        limits = {"": concurrency, **groups}
        pools = {g: ThreadPoolExecutor(n, thread_name_prefix=f"shoal-{g or 'actor'}") for g, n in limits.items()}
        # With a single group no more calls are taken than can run: the rest waits in the mailbox, visibly.
        room = threading.Semaphore(sys.maxsize if groups else concurrency)
        running: set[Future[None]] = set()
        while True:
            room.acquire()
            call = _core.next_mail(self.handle, True)
            if call is not None:
                method, group = self.method_and_group(call[3])
                future = pools[group].submit(self._run_in_thread, call, method, room)
                running.add(future)
                future.add_done_callback(running.discard)
                call = None
                continue
            room.release()
            if not running:
                break
            wait(list(running), return_when="FIRST_COMPLETED")  # one may return a handle, and the actor goes on

    def _run_in_thread(self, call: Any, method: int, room: threading.Semaphore) -> None:
        task, _, _, _, args, kwargs, nreturns, flags = call
        _core.running(task)
        CALL.set(task)
        try:
            if args is None:
                raise kwargs
            self.seal(task, method, self.methods[method](*args, **(kwargs or {})), nreturns, flags)
        except BaseException as error:
            self.failed(task, method, error, flags)
            if self.exit_code is not None:
                self.exit()
        finally:
            del call, args, kwargs
            _core.running(0)
            CALL.set(None)
            room.release()

    # -- on an event loop ----------------------------------------------------------------------------------

    def _serve_async(self, concurrency: int, groups: dict[str, int]) -> None:
        from shoal.engine.local import actor_loop

        actor_loop.serve(self, concurrency, groups)
