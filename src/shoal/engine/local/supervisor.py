"""The supervisor: parent of all workers. Nothing waits for it while all goes well.

    driver --spawns--> supervisor --forks--> workers (some become actors)

It sleeps in one poll on: the arena's eventfd (somebody wants a worker, a kill, memory given back), a pidfd for the driver
and for each worker (deaths), and the workers' raw output. It imports little and runs one thread, so that a fork of it is
a worker that is ready within milliseconds.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import sys
import time
from typing import Any

from shoal import _core, exceptions
from shoal.engine.local import hooks
from shoal.engine.local.actor_host import EXIT_NO_HANDLES, EXIT_SELF, bury
from shoal.engine.local.engine import ACTOR_CALL, CANCELLED, CMD_CANCEL, CMD_KILL, CREATE_ACTOR
from shoal.engine.local.output import send

_FREE, _STARTING, _ALIVE, _DEAD = range(4)  # SlotState in core/abi.h
_CMD_EXIT = 1
GROW_AGAIN_S = 0.002  # between two looks while there is work and nobody idle
CROWD = 4  # from so many workers per CPU on, another one is forked only every CROWD_PAUSE_S
CROWD_PAUSE_S = 0.05
IDLE_S = 2.0  # workers beyond the number of CPUs leave when they have been idle for so long
GRACE_S = 0.03  # at the end workers may leave by themselves for so long
TRIM_AFTER_S = 10  # memory idle for so long goes back to the system


class Child:
    """A worker process."""

    __slots__ = ("output", "pid", "pidfd", "raw", "slot", "started")

    def __init__(self, pid: int, pidfd: int, slot: int, output: list[int]) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.slot = slot
        self.output = output
        self.raw: dict[int, bytes] = {}
        self.started = time.monotonic()


class Supervisor:
    def __init__(self, boot: dict[str, Any]) -> None:
        from shoal.engine.local.session import DRIVER, EVENTFD, MEMFD, OUTPUT

        hooks.install(None)
        self.eventfd, self.output, self.driver = EVENTFD, OUTPUT, DRIVER
        for fd in (MEMFD, EVENTFD, OUTPUT, DRIVER):
            os.set_inheritable(fd, False)
        _core.attach(MEMFD, EVENTFD, 1, _core.SUPERVISOR)
        _core.label("supervisor")
        self._config_ref = _core.config()
        self.config = _core.get(self._config_ref, None)
        self.cpus = max(1, round(self.config["cpus"])) if self.config["cpus"] else 0
        self.children: dict[int, Child] = {}  # by slot
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.eventfd, selectors.EVENT_READ, self._on_event)
        self.selector.register(self.driver, selectors.EVENT_READ, self._on_driver_death)
        self.next_growth = 0.0
        self.idle_since: float | None = None
        self.ending = False

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        for _ in range(self.cpus):
            self.fork_worker()
        # Later workers get these ready-made; the first ones should not wait for them.
        import asyncio  # noqa: F401
        import concurrent.futures.thread  # noqa: F401

        timeout: float | None = 0
        while not self.ending:
            events = self.selector.select(timeout)
            _core.supervisor_looks()
            for key, _ in events:
                key.data(key)
            if _core.stopping():
                break
            timeout = self.look()
        self.end()

    def _on_event(self, _key: Any) -> None:
        try:
            os.read(self.eventfd, 8)
        except BlockingIOError:
            pass

    def _on_driver_death(self, _key: Any) -> None:
        self.ending = True

    def look(self) -> float | None:
        """Do what there is to do; returns the seconds until the next look without an event (None: no need)."""
        for slot, bits in _core.commands():
            child = self.children.get(slot)
            if child is not None:
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL if bits & CMD_KILL else signal.SIGINT)
        waits = [self._grow(), self._shrink(), self._trim()]
        return min((w for w in waits if w is not None), default=None)

    def _grow(self) -> float | None:
        workers, starting = 0, 0
        for child in self.children.values():
            state, role, *_ = _core.slot_info(child.slot)
            if state == _STARTING:
                starting += 1
            if role != _core.ACTOR:
                workers += 1
        waiting, idle = _core.demand()
        now = time.monotonic()
        if workers < self.cpus:
            self.fork_worker()
            return 0
        if not waiting or idle:
            return None
        if starting:
            return GROW_AGAIN_S
        if now < self.next_growth:
            return self.next_growth - now
        try:
            self.fork_worker()
        except exceptions.LimitError:
            return CROWD_PAUSE_S
        pause = GROW_AGAIN_S if workers < CROWD * self.cpus + 8 else CROWD_PAUSE_S
        self.next_growth = now + pause
        return pause

    def _shrink(self) -> float | None:
        workers = [p for p in _core.processes() if p["role"] == _core.WORKER]
        idle = [p for p in workers if not p["running"] and not p["lease"]]
        surplus = min(len(workers) - self.cpus, len(idle))
        if surplus <= 0:
            self.idle_since = None
            return None
        now = time.monotonic()
        if self.idle_since is None:
            self.idle_since = now
        left = self.idle_since + IDLE_S - now
        if left > 0:
            return left
        for process in idle[:surplus]:
            _core.command(process["slot"], _CMD_EXIT)
        self.idle_since = None
        return None

    def _trim(self) -> float | None:
        armed, idle_bytes = _core.trim_state()
        if not armed:
            return None
        _core.trim(TRIM_AFTER_S)
        if _core.trim_state()[1] < 64 << 20:
            _core.trim_disarm()
            return None
        return TRIM_AFTER_S / 2

    # -- births ---------------------------------------------------------------------------------------------

    def fork_worker(self) -> None:
        slot = _core.claim_slot()
        pipes = [os.pipe(), os.pipe()]
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_worker(slot, parent, pipes)
        for _, write_end in pipes:
            os.close(write_end)
        pidfd = os.pidfd_open(pid)
        child = Child(pid, pidfd, slot, [p[0] for p in pipes])
        self.children[slot] = child
        self.selector.register(pidfd, selectors.EVENT_READ, lambda _key: self.bury_process(child))
        for stream, fd in enumerate(child.output, 1):
            os.set_blocking(fd, False)
            self.selector.register(fd, selectors.EVENT_READ, lambda _key, s=stream, f=fd: self._forward(child, s, f))

    def _be_worker(self, slot: int, parent: int, pipes: list[tuple[int, int]]) -> None:
        try:
            _core.die_with_parent()
            if os.getppid() != parent:
                os._exit(1)
            _core.become(slot, _core.WORKER)
            for stream, (read_end, write_end) in enumerate(pipes, 1):
                os.dup2(write_end, stream)
                os.close(write_end)
                os.close(read_end)
            self.selector.close()
            for child in self.children.values():
                for fd in (child.pidfd, *child.output):
                    try:
                        os.close(fd)
                    except OSError:
                        pass
            os.close(self.driver)
            from shoal.engine.local import worker

            worker.main(self.config, self.output)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)

    # -- output ---------------------------------------------------------------------------------------------

    def _forward(self, child: Child, stream: int, fd: int) -> None:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            try:
                if fd in child.output:
                    child.output[stream - 1] = 1 << 29
                    self.selector.unregister(fd)
                    os.close(fd)
            except (KeyError, OSError):
                pass
            return
        if self.config["log_to_driver"]:
            send(self.output, stream, child.pid, _core.slot_info(child.slot)[4], data)

    # -- deaths ---------------------------------------------------------------------------------------------

    def bury_process(self, child: Child) -> None:
        """A worker is gone: repair the arena, then see to its calls, its actor, its references."""
        try:
            _, status = os.waitpid(child.pid, 0)
            code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            code = -signal.SIGKILL
        self.selector.unregister(child.pidfd)
        os.close(child.pidfd)
        for stream, fd in enumerate(child.output, 1):
            if fd in self.selector.get_map():
                self._forward(child, stream, fd)
                if fd in self.selector.get_map():
                    self.selector.unregister(fd)
                    os.close(fd)
        del self.children[child.slot]
        slot = child.slot
        _, role, _, actor, label = _core.slot_info(slot)
        reason = _reason(code)
        _core.recover(slot)
        creation = 0
        while task := _core.next_running(slot):
            info = _core.task_info(task)
            if info["kind"] == CREATE_ACTOR and task != creation:
                actor = info["actor"]
                creation = task
                if self._restart(task, info, actor):
                    continue
                self._dead_actor(actor, child.pid, code, reason)
                _core.finish_silent(task)
            else:
                self._orphan(task, info, child.pid, label, reason)
        if actor and not creation:
            self._dead_actor(actor, child.pid, code, reason)
        _core.sweep(slot)
        _core.free_slot(slot)

    def _orphan(self, task: int, info: dict[str, Any], pid: int, label: str, reason: str) -> None:
        if not info["pending"]:
            _core.finish_silent(task)
            return
        if info["flags"] & CANCELLED:
            _core.fail(task, exceptions.TaskCancelledError(f"{info['id']:x}"), True)
            return
        if info["kind"] == ACTOR_CALL:
            actor = _core.actor_info(info["actor"])
            if actor["restarts"] != 0 and actor["closing"] != 2 and _core.retry(task):
                _core.requeue(task)
                return
            error: Exception = exceptions.ActorDiedError(
                f"its process {reason} during this call", actor_id=f"{info['actor']:032x}", class_name=actor["name"], pid=pid
            )
        else:
            if not info["streamed"] and _core.retry(task):
                _core.requeue(task)
                return
            tries = f" ({info['attempt'] + 1} attempts, no retry is left)" if info["attempt"] else ""
            error = exceptions.WorkerCrashedError(
                f"the worker (pid {pid}) that ran {label or 'the task'}() {reason}{tries}; what it printed last is above. "
                "max_retries= says how often such a task is run again"
            )
        _core.fail(task, error, True)

    def _restart(self, task: int, info: dict[str, Any], actor: int) -> bool:
        """Queue an actor's creation again, if it may restart. Its mailbox stays as it is."""
        state = _core.actor_info(actor)
        if state["closing"] or state["restarts"] == 0 or state["state"] == 3:
            return False
        _core.actor_restarting(actor)
        _core.retry(task)
        _core.requeue(task)
        return True

    def _dead_actor(self, actor: int, pid: int, code: int, reason: str) -> None:
        info = _core.actor_info(actor)
        if info["state"] == 3:
            return
        if info["closing"] == 2 and code == -signal.SIGKILL:
            reason = "was killed with shoal.kill()"
        elif code == EXIT_SELF:
            reason = "ended itself (exit_actor or sys.exit)"
        elif code == EXIT_NO_HANDLES and info["closing"]:
            reason = "ended because no handle to it was left"
        death = exceptions.ActorDiedError(
            f"its process {reason}", actor_id=f"{actor:032x}", class_name=info["name"], pid=pid
        )
        bury(actor, _core.put_error(death), death)

    # -- the end --------------------------------------------------------------------------------------------

    def end(self) -> None:
        """No process of the session outlives its supervisor."""
        deadline = time.monotonic() + GRACE_S
        _core.stop()
        children = list(self.children.values())
        if not self.ending:  # the driver lives: let workers finish what they print
            for child in children:
                while time.monotonic() < deadline:
                    if _gone(child.pidfd, deadline - time.monotonic()):
                        break
        for child in children:
            try:
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for child in children:
            try:
                os.waitpid(child.pid, 0)
            except ChildProcessError:
                pass
            for stream, fd in enumerate(child.output, 1):
                if fd in self.selector.get_map():
                    self._forward(child, stream, fd)
        os._exit(0)


def _gone(pidfd: int, timeout: float) -> bool:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout) * 1000))


def _reason(code: int) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = {"SIGKILL": " (killed from outside, or by the kernel for lack of memory)", "SIGSEGV": " (a crash in native code)"}
        return f"died of {name}{hint.get(name, '')}"
    return f"exited with code {code}"


def main(boot: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    supervisor = Supervisor(boot)
    try:
        import numpy  # noqa: F401  (once here instead of once in every worker)
    except ImportError:
        pass
    from shoal.engine.local import worker  # noqa: F401  (for the same reason)

    gc.collect()
    gc.freeze()
    try:
        supervisor.run()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
