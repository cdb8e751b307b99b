"""A worker: takes tasks, runs them, seals what they return. Forked from the supervisor, ready at once.

    next_task() -> run() -> call the function -> finish() | fail() | requeue()

A task that creates an actor turns the worker into that actor's process for good (actor_host.py).
"""

from __future__ import annotations

import contextvars
import faulthandler
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from shoal import _core, exceptions
from shoal import engine as engines
from shoal._options import RESOURCE_UNIT
from shoal.engine.local import hooks
from shoal.engine.local.cancelling import CANCELLED, RECURSIVE, TIMED_OUT, end_children
from shoal.engine.local.engine import (
    CREATE_ACTOR,
    DYNAMIC,
    RETRY_EXCEPTIONS,
    RETRY_TIMEOUT,
    STREAMING,
    LocalEngine,
)
from shoal.engine.local.environment import Applied
from shoal.engine.local.exports import Export
from shoal.engine.local.output import TaskStream
from shoal.exceptions import TaskError, task_error_from
from shoal.generator import DynamicObjectRefGenerator

CALL: contextvars.ContextVar[int | None] = contextvars.ContextVar("call", default=None)
"""The call that a thread or coroutine of an actor runs; where there is only one thread `Worker.current` says it."""
_FRAMES = 1000  # Python's own recursion limit


class Worker:
    """This process as a worker. One call runs at a time, except those that a waiting call runs inside itself."""

    def __init__(self, config: dict[str, Any], output: int) -> None:
        self.engine = LocalEngine(config)
        pipe = output if config["log_to_driver"] else None
        self.streams = (TaskStream(pipe, 1), TaskStream(pipe, 2))
        self.has_gpus = config["gpus"]
        self._gpus = -1
        self.engine.running = self.describe
        self.current: int | None = None  # the task that runs in the main thread
        self.creation: list[Any] = []  # of the actor that this process becomes: task, class, arguments
        self.on_cancel: Callable[[], object] | None = None  # of an async actor: one of its calls may have been cancelled
        self.interrupted_at = 0  # the last task that anybody had submitted when a cancellation came
        self.interrupt_missed = False  # an interrupt came for a call that had been taken but not begun, or was over
        self.leaving = False  # the process ends as soon as no task is left in it
        self._named = ""
        self.name_of: Callable[[int], str] = lambda task: self._named

    def run_forever(self) -> None:
        next_task = _core.next_task
        while True:
            call = next_task()
            if call is None:
                return
            self.run(call)
            call = None  # its arguments must not live until the next task comes
            if self.creation:  # not from within run(), whose frame would hold the arguments for the actor's whole life
                from shoal.engine.local import actor_host

                actor_host.host(self, self.creation)
            if self.leaving:
                return

    def name_now(self, name: str) -> None:
        """What the process is seen to do: in messages about its death, and before each line it prints."""
        if name != self._named:
            self._named = name
            _core.label(name)
            for stream in self.streams:
                stream.flush()
                stream.name_now = name

    def describe(self) -> dict[str, Any]:
        """For get_runtime_context(): the call that runs now, in this thread or coroutine."""
        task = CALL.get() or self.current
        task_id = _core.live_task(task) if task else 0
        if not task or not task_id:
            return {}
        demand = {name: amount if name == "memory" else amount / RESOURCE_UNIT for name, amount in _core.my_demand()}
        return {
            "task_id": f"{task_id:048x}",
            "task_name": self.name_of(task),
            "attempt": _core.task_attempt(task),
            "cancelled": bool(_core.task_cancelled(task)),
            "resources": demand,
        }

    def show_gpus(self) -> None:
        """CUDA_VISIBLE_DEVICES names the GPUs that were granted to this process."""
        gpus = _core.my_gpus()
        if gpus != self._gpus:
            self._gpus = gpus
            names = self.engine.config["gpu_names"]
            mine = [i for i in range(64) if gpus >> i & 1]
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[i] if i < len(names) else str(i) for i in mine)

    def run(self, call: Any) -> None:
        task, kind, function, _method, args, kwargs, nreturns, flags = call
        exports = self.engine.exports
        if self.has_gpus:
            self.show_gpus()
        if kind == CREATE_ACTOR:
            self.creation = [task, function, args, kwargs]
            return
        before = self.current, self._named
        name = "task"
        try:
            try:
                self.current = task
                if self.interrupt_missed:
                    self.look_for_interrupt(task)
                export = exports.loaded.get(function) or exports.load(function, self.name_now)
                name = export.name
                if name != self._named:
                    self.name_now(name)
                if args is None:
                    raise kwargs  # an argument that could not be had
                if flags == 0 and nreturns == 1 and not export.extras:
                    value = export.target(*args) if kwargs is None else export.target(*args, **kwargs)
                    if _core.finish(task, value):
                        self.watch_interrupts()
                    value = None
                else:
                    self._run_special(task, export, args, kwargs or {}, nreturns, flags)
            except BaseException as error:  # all of it goes to the caller; see _failed for what ends the worker
                self.current = None  # before anything is called, where an interrupt could come: it would end the worker
                self._failed(task, name, function, error, flags)
                forget_frames(error)
        finally:
            self.current = before[0]
            if before[0] is not None:
                self.name_now(before[1])
            for stream in self.streams:
                if stream._parts:
                    stream.flush()

    def run_inside(self, call: Any) -> None:
        """Run a call that the present one waits for. It finds things as in a process of its own, as far as that goes."""
        outer = self.current
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + _FRAMES)  # what the outer calls have used of their limit is not the inner one's
        asyncio: Any = sys.modules.get("asyncio")
        loop = asyncio and asyncio._get_running_loop()
        if loop is not None:
            asyncio._set_running_loop(None)
        try:
            contextvars.Context().run(self.run, call)
        finally:
            sys.setrecursionlimit(limit)
            if loop is not None:
                asyncio._set_running_loop(loop)
        if outer is not None:
            self.look_for_interrupt(outer)

    def _run_special(
        self, task: int, export: Export, args: tuple[Any, ...], kwargs: dict[str, Any], nreturns: int, flags: int
    ) -> None:
        if flags & (CANCELLED | TIMED_OUT) and _core.task_cancelled(task):  # as it was queued to be run again
            raise KeyboardInterrupt
        environment = export.extras.get("runtime_env")
        try:
            with Applied(environment) if environment else nullcontext():
                result = export.target(*args, **kwargs)
                if seal(self.engine, task, export.name, result, nreturns, flags):
                    self.watch_interrupts()
        finally:
            if environment and (environment.get("working_dir") or environment.get("py_modules")):
                self.leaving = True  # other tasks shall not find the modules that it has imported
            limit = export.extras.get("max_calls")
            export.calls += 1
            if limit and export.calls >= limit:
                self.leaving = True

    def leave_fork(self, error: BaseException) -> None:
        """The child of a fork in a task came back from it, with `error` or with a result that nobody waits for: it ends here, as
        a program does. It is no worker, whatever its copy of this stack says."""
        if not _core.forked():
            return
        code = 0
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif not isinstance(error, exceptions.ForkedError):
            traceback.print_exception(error)
            code = 1
        for stream in self.streams:
            stream.flush()
        os._exit(code & 0xFF)

    def _failed(self, task: int, name: str, function: int, error: BaseException, flags: int) -> None:
        self.watch_interrupts()
        if not self.caught(task, error):
            return
        marks = _core.task_cancelled(task)
        if marks:
            self.end_cancelled(task, marks, name)
            return
        if flags & RETRY_EXCEPTIONS and isinstance(error, Exception) and not _core.task_info(task)["streamed"]:
            wanted = self.engine.exports.load(function).extras.get("retry_exceptions")
            if (wanted is True or (wanted and isinstance(error, wanted))) and _core.retry(task):
                _core.requeue(task)
                return
        fail(task, name, error)
        if isinstance(error, SystemExit):  # sys.exit() in a task ends its worker, as in Ray
            self.leaving = True

    def caught(self, task: int, error: BaseException) -> bool:
        """A call has raised. False: it was finished already, and an interrupt came just after that."""
        self.leave_fork(error)
        if isinstance(error, exceptions.SessionError) and (_core.dead() or _core.stopping()):
            self.leave()
        return bool(_core.live_task(task))

    def end_cancelled(self, task: int, marks: int, name: str) -> None:
        """The call was interrupted: its caller is told, and what it has submitted until then ends with it, if that is wanted."""
        info = _core.task_info(task)
        late = not marks & CANCELLED
        if late and info["flags"] & RETRY_TIMEOUT and not info["streamed"] and _core.retry(task):
            _core.clear_marks(task)
            _core.requeue(task)
        elif late:
            error = exceptions.TaskTimeoutError(name, info["timeout_ms"] / 1000, os.getpid(), info["attempt"])
            _core.fail(task, error, True)
        else:
            _core.fail(task, exceptions.TaskCancelledError(f"{info['id']:x}"), True)
        if marks & RECURSIVE and (info["spawned"] or CALL.get()):
            end_children(info["id"], False, self.interrupted_at or _core.last_task_id())
        self.interrupted_at = 0

    def leave(self) -> None:
        """End this process; the supervisor gives back what it holds."""
        for stream in self.streams:
            stream.flush()
        os._exit(0)

    def watch_interrupts(self) -> None:
        """An interrupt for a call that ends may yet come, to the next one: it shall not meet a handler that the call has set."""
        signal.signal(signal.SIGINT, self.interrupted)

    def interrupted(self, _signal: int, _frame: Any) -> None:
        """SIGINT comes from the supervisor only: the running task is to be cancelled (unless it is over by now)."""
        if self.current is not None:
            self.look_for_interrupt(self.current)
        if self.on_cancel is not None:
            self.on_cancel()
        self.interrupt_missed = True

    def look_for_interrupt(self, task: int) -> None:
        """Raises KeyboardInterrupt if the call is to be interrupted, which may have been asked for when that was not possible."""
        self.interrupt_missed = False
        if _core.take_interrupt(task):
            self.interrupted_at = _core.last_task_id()
            raise KeyboardInterrupt


def seal(
    engine: LocalEngine,
    task: int,
    name: str,
    result: Any,
    nreturns: int,
    flags: int,
    finish: Callable[[int, Any], bool | None] = _core.finish,
) -> bool | None:
    """The returns of a call, from what its function returned. Returns what `finish` does."""
    if flags & STREAMING:
        for item in _items(result, name):
            _core.stream_item(task, item)
            _core.mark_streamed(task)
        return finish(task, (None, None))
    elif flags & DYNAMIC:
        items, refs = _items(result, name), []
        try:
            for item in items:
                refs.append(engine.put(item, False))
        except Exception as error:  # what was made stays, and the error is one more item
            if flags & RETRY_EXCEPTIONS:
                raise
            refs.append(_core.put_error(as_stored(error, name)))
            forget_frames(error)
        return finish(task, DynamicObjectRefGenerator(refs))
    elif nreturns == 1:
        return finish(task, result)
    elif nreturns == 0:
        return finish(task, ())
    else:
        values = _items(result, name) if not isinstance(result, (tuple, list)) else result
        values = tuple(values)
        if len(values) != nreturns:
            raise ValueError(f"{name}() should return num_returns={nreturns} values, but returned {len(values)}")
        return finish(task, values)


def _items(result: Any, name: str) -> Any:
    if hasattr(result, "__aiter__"):
        return _drain(result)
    try:
        return iter(result)
    except TypeError:
        raise TypeError(f"{name}() should return several values or be a generator, but returned {type(result).__name__}") from None


def _drain(generator: Any) -> Any:
    """The items of an async generator, for a task, which has no event loop of its own."""
    import asyncio

    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(generator.__anext__())
            except StopAsyncIteration:
                return
    finally:
        loop.close()


def forget_frames(error: BaseException | None) -> None:
    """Empty the frames that an error of the past came through: what their variables hold would live on with it.

    A frame with a variable for the error is a cycle, and an idle worker does not come to collect garbage.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def as_stored(error: BaseException, name: str, **actor: Any) -> BaseException:
    """What the caller of a failed call will get. An error that came with an argument passes on as it is."""
    if isinstance(error, TaskError) and error.__traceback__ is not None and error.__traceback__.tb_next is None:
        return error
    if (
        isinstance(error, exceptions.ShoalError)
        and not isinstance(error, TaskError)
        and (error.__traceback__ is None or error.__traceback__.tb_next is None)
    ):
        return error
    return task_error_from(error, name, **actor)


def fail(task: int, name: str, error: BaseException, **actor: Any) -> None:
    """Fail a call with `error`, in a form that can travel."""
    stored = as_stored(error, name, attempt=_core.task_attempt(task), **actor)
    try:
        _core.fail(task, stored, True)
    except Exception:  # its cause does not pickle, whatever that raises
        if not isinstance(stored, TaskError):
            stored = task_error_from(error, name, attempt=_core.task_attempt(task), **actor)
        _core.fail(task, stored.without_cause(), True)


def main(config: dict[str, Any], output: int) -> None:
    """The life of a worker process, from its fork to its exit."""
    worker = Worker(config, output)
    for stream in worker.streams:
        os.register_at_fork(after_in_child=stream.forked)
    hooks.install(worker.run_inside)
    engines.use(worker.engine)
    engines.forbid_implicit_start()
    worker.engine.process_facts = {"mode": "worker"}
    signal.signal(signal.SIGINT, worker.interrupted)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    faulthandler.enable(file=2)
    sys.stdout, sys.stderr = worker.streams
    gc.enable()
    try:
        worker.run_forever()
    except (exceptions.SessionError, KeyboardInterrupt):
        pass  # the session is over; or a cancellation came just after its task's end: leaving is the safe answer
    worker.leave()
