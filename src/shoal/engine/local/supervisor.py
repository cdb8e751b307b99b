"""The supervisor: parent of all workers. Nothing waits for it while all goes well.

    driver --spawns--> supervisor --forks--> workers (some become actors)

It sleeps in one poll on: the arena's eventfd (somebody wants a worker, a kill, memory given back), a pidfd for the driver
and for each worker (deaths), the workers' raw output, and the socket at which guests join (door.py). It imports little and
runs one thread, so that a fork of it is a worker that is ready within milliseconds.
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import selectors
import signal
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

from shoal import _core, exceptions
from shoal.engine.local import hooks, output
from shoal.engine.local.actor_host import EXIT_NO_HANDLES, EXIT_SELF
from shoal.engine.local.cancelling import CANCELLED, CMD_CANCEL, CMD_KILL, FORCED, RECURSIVE, SAVED, TIMED_OUT, end_children
from shoal.engine.local.deaths import RAW_KEPT, Death, kernel_kills
from shoal.engine.local.engine import ACTOR_CALL, CREATE_ACTOR, RETRY_TIMEOUT, mourn
from shoal.engine.local.limits import explain
from shoal.engine.local.memory_monitor import MemoryMonitor
from shoal.engine.local.output import end_output, finish_line, send

if TYPE_CHECKING:  # imported when the workers are forked
    from shoal.engine.local.door import Door

_FREE, _STARTING, _ALIVE, _DEAD = range(4)  # SlotState in core/abi.h
_CMD_EXIT = 1
GROW_AGAIN_S = 0.002  # between two looks while there is work and nobody idle
COMING_S = 0.05  # workers that are on their way to look for a task are waited for so long (LATE_NS in core/wait.cpp)
CROWD = 4  # from so many workers per CPU on, another one is forked only every CROWD_PAUSE_S
CROWD_PAUSE_S = 0.05
SPREAD_S = 0.001  # between two looks at tasks that wait although workers sleep
IDLE_S = 2.0  # workers beyond the number of CPUs leave when they have been idle for so long
NO_WORKER_S = 5  # a session in which no worker can be started for so long is given up
GRACE_S = 0.03  # at the end workers may leave by themselves for so long
STOP_S = 0.1  # how long a process is waited for that has been told to stop; it is in the kernel then, or debugged
TIMEOUT_GRACE_S = 1.0  # a task that was interrupted because its time is over may go on for so long
TRIM_AFTER_S = 10  # memory idle for so long goes back to the system


class Child:
    """A worker process."""

    __slots__ = ("output", "pid", "pidfd", "raw", "raw_of", "slot", "started", "why")

    def __init__(self, pid: int, pidfd: int, slot: int, output: list[int]) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.slot = slot
        self.output = output
        self.raw = b""  # what native code wrote last, ...
        self.raw_of = 0  # ... in this task
        self.why: str | None = None  # how the supervisor has ended it
        self.started = time.monotonic()


class Supervisor:
    def __init__(self, boot: dict[str, Any]) -> None:
        from shoal.engine.local.session import DRIVER, EVENTFD, LISTENER, MEMFD, OUTPUT, SPILL

        hooks.install(None)
        self.memfd, self.eventfd, self.output = MEMFD, EVENTFD, OUTPUT
        self.driver = DRIVER if boot["driver"] else -1  # a detached session has none
        self.listener = LISTENER if boot["place"] else -1
        for fd in (MEMFD, EVENTFD, OUTPUT, self.driver, self.listener):
            if fd >= 0:
                os.set_inheritable(fd, False)
        _core.attach(MEMFD, EVENTFD, 1, _core.SUPERVISOR)
        self.spill = [SPILL] if boot["spill"] else []
        if self.spill:
            os.set_inheritable(SPILL, False)
            _core._use_spill_file(SPILL)
        _core.label("supervisor")
        if self.driver < 0:
            output.log_to(OUTPUT)
            # Whoever started the session was its first participant, and has left it by now.
            _core.recover(0, False)
            _core.sweep(0)
            _core.free_slot(0)
        self._config_ref = _core.config()
        self.config = _core.get(self._config_ref, None)
        self.cpus = max(1, round(self.config["cpus"])) if self.config["cpus"] else 0
        self.children: dict[int, Child] = {}  # by slot
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.eventfd, selectors.EVENT_READ, self._on_event)
        if self.driver >= 0:
            self.selector.register(self.driver, selectors.EVENT_READ, self._on_driver_gone)
            # The driver alone reads this pipe. If nobody does any more it has become another program (exec), or closed its files.
            self.selector.register(self.output, selectors.EVENT_READ, self._on_driver_gone)
        self.next_growth = 0.0
        self.spread_at: float | None = None
        self.spread_last, self.taken = 0.0, -1
        self.idle_since: float | None = None
        self.refused_since: float | None = None  # since when no worker could be forked
        self.ending = False
        self.monitor = MemoryMonitor(self.config["memory_usage_threshold"], self._say)
        self.overdue: dict[int, float] = {}  # tasks that were interrupted because their time is over: when that has to do
        self.kernel_kills = kernel_kills()
        self.terminated = False
        self.place: list[str] | None = boot["place"]
        self.door: Door | None = None
        self.started = time.monotonic()

    def raise_file_limit(self) -> None:
        """Three descriptors for each worker add up; the workers themselves get the user's limit back."""
        self.file_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.file_limit[1], self.file_limit[1]))

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._fork_workers(self.cpus)
        # Later workers get these ready-made; the first ones should not wait for them.
        import asyncio  # noqa: F401
        import concurrent.futures.thread  # noqa: F401

        self.open_door()
        if self.driver >= 0:  # from here on the loop sees its end
            fcntl.fcntl(self.output, fcntl.F_SETFL, fcntl.fcntl(self.output, fcntl.F_GETFL) & ~os.O_ASYNC)
            signal.signal(signal.SIGIO, signal.SIG_DFL)
        next_look: float | None = time.monotonic()
        while not self.ending and not self.terminated:
            due = min((t for t in (next_look, self.spread_at) if t is not None), default=None)
            events = self.selector.select(None if due is None else max(0.0, due - time.monotonic()))
            for key, _ in events:
                key.data(key)
            # Only now, after the eventfd was read and before anything is looked at: whoever rings from here on writes to
            # the eventfd again. (The other way round a ring between the two would be read away and never looked at.)
            rung = _core.supervisor_looks()
            if _core.stopping() or self.ending:
                break
            now = time.monotonic()
            if self.spread_at is not None or _core.crowd():
                self._spread(now)
            if rung or any(key.fd != self.eventfd for key, _ in events) or (next_look is not None and now >= next_look):
                wait = self.look()
                next_look = None if wait is None else now + wait
        self.end()

    def open_door(self) -> None:
        if self.place is not None:
            from shoal.engine.local.door import Door
            from shoal.engine.local.places import Place

            self.door = Door(self, self.listener, Place(*self.place))

    def shared_descriptors(self) -> list[int]:
        """What a guest is given, in the order in which join.py takes it."""
        return [self.memfd, self.eventfd, *self.spill]

    def _on_event(self, _key: Any) -> None:
        try:
            os.read(self.eventfd, 8)
        except BlockingIOError:
            pass

    def _on_driver_gone(self, key: Any) -> None:
        if key.fd == self.output and not _gone(self.driver, 0.2):  # at its end, the kernel closes its files first
            _core.end_reason("found the pipe closed by which the driver gets what workers print, and ended")
        else:
            _core.end_reason("ended with the driver, which is gone")
        self.ending = True

    def terminate(self, _signal: int, _frame: Any) -> None:
        """SIGTERM, from `shoal stop` or the system: the session ends."""
        self.terminated = True
        _core.ring_supervisor()

    def look(self) -> float | None:
        """Do what there is to do; returns the seconds until the next look without an event (None: no need)."""
        for slot, bits in _core.commands():
            child = self.children.get(slot)
            if child is None or (bits & CMD_KILL and self._kill(child)):
                continue
            if bits & CMD_CANCEL:
                _signal(child, signal.SIGINT)
        door = self.door.look() if self.door is not None else None
        monitor = self.monitor.look(self.children.values())
        waits = [self._grow(), self._shrink(), self._trim(), self._end_late(), monitor, door]
        return min((w for w in waits if w is not None), default=None)

    def _kill(self, child: Child) -> bool:
        """Kill a process if what somebody wants to have ended still runs in it: it is stopped for the time of the look."""
        _signal(child, signal.SIGSTOP)
        deadline = time.monotonic() + STOP_S
        while os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                break
            os.sched_yield()
        due = _core.kill_due(child.slot)
        if due:
            child.why = "was ended by force (shoal.kill, cancel(force=True) or timeout_s), and with it what else ran in it"
        _signal(child, signal.SIGKILL if due else signal.SIGCONT)
        return due

    def _end_late(self) -> float | None:
        """Interrupt the tasks whose timeout_s is over; those that do not react are killed a moment later."""
        late, wait = _core.late()
        now = time.monotonic()
        for handle in late:
            slot = _core.mark_running(handle, TIMED_OUT | RECURSIVE, False)
            if slot in self.children:
                _signal(self.children[slot], signal.SIGINT)
                self.overdue[handle] = now + TIMEOUT_GRACE_S
        for handle in [handle for handle, end in self.overdue.items() if end <= now]:
            del self.overdue[handle]
            slot = _core.mark_running(handle, FORCED, False)
            if slot in self.children:
                self._kill(self.children[slot])
        waits = [end - now for end in self.overdue.values()]
        return min(waits if wait is None else [*waits, wait], default=None)

    def _spread(self, now: float) -> None:
        """Do short tasks keep the cores busy, or do workers that sleep have to help? See core/wait.cpp."""
        if self.spread_at is None:
            self.taken = -1
        elif now < self.spread_at:
            return
        self.taken = _core.spread(self.taken, 1000 * (now - self.spread_last))
        self.spread_last = now
        self.spread_at = None if self.taken < 0 else now + SPREAD_S

    def _grow(self) -> float | None:
        workers, starting = 0, 0
        for child in self.children.values():
            state, role, *_ = _core.slot_info(child.slot)
            if state == _STARTING:
                starting += 1
            if role != _core.ACTOR:
                workers += 1
        could_run, idle, coming = _core.demand()
        missing = max(could_run - idle - coming, self.cpus - workers) - starting
        if missing <= 0:
            return GROW_AGAIN_S if starting else COMING_S if could_run > idle else None
        now = time.monotonic()
        if workers >= CROWD * self.cpus + 8:  # many already, all busy: tasks that demand no CPU, probably
            if now < self.next_growth:
                return self.next_growth - now
            missing = 1
            self.next_growth = now + CROWD_PAUSE_S
        if not self._fork_workers(min(missing, max(2, self.cpus))):
            return CROWD_PAUSE_S  # they wait until another process has ended
        return GROW_AGAIN_S

    def _fork_workers(self, n: int) -> bool:
        """Whether that went well. Otherwise there are too many processes or files, or there is too little memory: this is said
        once, and tried again. Without any worker nothing can go on, and the session ends after a while."""
        try:
            for _ in range(n):
                self.fork_worker()
        except (exceptions.LimitError, exceptions.ObjectStoreFullError):
            return False
        except OSError as error:
            why = str(explain(error, "start another worker process"))
            now = time.monotonic()
            if self.refused_since is None:
                self.refused_since = now
                note = "tasks wait for those there are" if self.children else "no task can run"
                send(self.output, 2, os.getpid(), "supervisor", f"shoal: {why}; {note}\n".encode())
            if not self.children and now - self.refused_since > NO_WORKER_S:
                _core.end_reason(f"gave up, as there was no worker for {NO_WORKER_S} s: it {why}"[:255])
                self.ending = True
            return False
        self.refused_since = None
        return True

    def _shrink(self) -> float | None:
        workers = [p for p in _core.processes() if p["role"] == _core.WORKER]
        idle = [p["slot"] for p in workers if not p["running"] and not p["lease"] and p["slot"] in self.children]
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
        idle.sort(key=lambda slot: self.children[slot].started)
        for slot in idle[-surplus:]:  # the youngest: the others have imported and unpickled more
            _core.command(slot, _CMD_EXIT)
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
        pipes: list[tuple[int, int]] = []
        parent = os.getpid()
        place = -1
        try:
            pipes += [os.pipe()]
            pipes += [os.pipe()]
            place = os.open(os.devnull, os.O_RDONLY)  # once the worker lives its pidfd must not be one file too many
            pid = os.fork()
        except OSError:
            for fd in (*(fd for pair in pipes for fd in pair), place):
                if fd >= 0:
                    os.close(fd)
            _core.free_slot(slot)
            raise
        os.close(place)
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
            self.selector.register(fd, selectors.EVENT_READ, lambda _key, s=stream: self._forward(child, s))

    def _be_worker(self, slot: int, parent: int, pipes: list[tuple[int, int]]) -> None:
        try:
            _core.die_with_parent()
            if os.getppid() != parent:
                os._exit(1)
            signal.signal(signal.SIGIO, signal.SIG_DFL)  # the first workers are forked while the supervisor still starts
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
            for fd in (self.driver, self.listener if self.door is None else -1):
                if fd >= 0:
                    os.close(fd)
            if self.door is not None:
                self.door.close_in_child()
            resource.setrlimit(resource.RLIMIT_NOFILE, self.file_limit)
            from shoal.engine.local import worker

            worker.main(self.config, self.output)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)

    # -- output ---------------------------------------------------------------------------------------------

    def _forward(self, child: Child, stream: int) -> None:
        fd = child.output[stream - 1]
        if fd < 0:
            return
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close_output(child, stream)
            return
        now = _core.running_id(child.slot)
        if now != child.raw_of:
            child.raw, child.raw_of = b"", now
        child.raw = (child.raw + data)[-RAW_KEPT:]
        if self.config["log_to_driver"]:
            send(self.output, stream, child.pid, _core.slot_info(child.slot)[4], data)

    def _say(self, child: Any, text: str) -> None:
        """Print for the driver, in the name of a worker."""
        send(self.output, 2, child.pid, _core.slot_info(child.slot)[4], text.encode())

    def _forward_last(self, child: Child) -> None:
        """The same once it is dead. A pipe that still is open then is held by a process that it left behind."""
        for stream in (1, 2):
            self._forward(child, stream)
            self._close_output(child, stream)
            finish_line(self.output, stream, child.pid)

    def _close_output(self, child: Child, stream: int) -> None:
        fd = child.output[stream - 1]
        child.output[stream - 1] = -1  # the next child may get the same number
        if fd >= 0:
            self.selector.unregister(fd)
            os.close(fd)

    # -- deaths ---------------------------------------------------------------------------------------------

    def bury_process(self, child: Child) -> None:
        """A worker is gone: repair the arena, then see to its calls, its actor, its references."""
        try:
            _, status = os.waitpid(child.pid, 0)
            code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            code = -signal.SIGKILL
        slot = child.slot
        _core.recover(slot, code != 0)  # first of all: somebody may be waiting for a lock, even he who is to read the output
        self.selector.unregister(child.pidfd)
        os.close(child.pidfd)
        self._forward_last(child)
        del self.children[slot]
        if self.monitor.verdict(child.pid):
            child.why = "was ended for lack of memory"
        kills = kernel_kills() if code == -signal.SIGKILL else self.kernel_kills
        death = Death(slot, child.pid, code, child.why, child.raw, child.raw_of, kills > self.kernel_kills)
        self.kernel_kills = kills
        self.bury(slot, death)

    def bury(self, slot: int, death: Death) -> None:
        """What is left to do once recover() was there: for a worker and for a guest."""
        _, _, _, actor, label = _core.slot_info(slot)
        creation = 0
        while task := _core.next_running(slot):
            info = _core.task_info(task)
            if info["kind"] == CREATE_ACTOR and task != creation:
                actor = info["actor"]
                creation = task
                if self._restart(task, info, actor):
                    continue
                self._dead_actor(actor, death)
                _core.finish_silent(task)
            else:
                self._orphan(task, info, label, death)
        if actor and not creation:
            self._dead_actor(actor, death)
        for unborn in _core.sweep(slot):
            error = exceptions.ActorDiedError(f"it was never started: the process that was about to {death.reason}")
            mourn(unborn, _core.put_error(error), error)
            _core.actor_drop_life(unborn)
        self.monitor.buried(death.pid)
        _core.free_slot(slot)

    def _orphan(self, task: int, info: _core.TaskInfo, label: str, death: Death) -> None:
        flags = info["flags"]
        if flags & SAVED:  # its effect is in the actor's state: it is over, with the result that it has left
            _core.finish_saved(task)
            return
        if info["done"]:
            _core.finish_silent(task)
            return
        if flags & (CANCELLED | TIMED_OUT):
            self._orphan_cancelled(task, info, label, death)
            return
        error: Exception
        if info["kind"] == ACTOR_CALL:
            held = _core.actor_hold(info["actor"])
            actor = _core.actor_info(info["actor"]) if held else None
            if actor and actor["restarts"] != 0 and actor["closing"] != 2 and not info["streamed"] and _core.retry(task):
                _core.requeue(task)
                return
            who, why = (actor["name"], _actor_reason(actor, death)) if actor else ("", None)
            error = death.actor_died(info["actor"], who, " during this call", why)
        else:
            if not info["streamed"] and _core.retry(task):
                _core.requeue(task)
                return
            error = self.monitor.verdict(death.pid) or death.crashed(label or "the task", info["id"], info["attempt"])
        _core.fail(task, error, True)

    def _orphan_cancelled(self, task: int, info: _core.TaskInfo, label: str, death: Death) -> None:
        flags = info["flags"]
        if flags & CANCELLED:
            _core.fail(task, exceptions.TaskCancelledError(f"{info['id']:x}"), True)
        elif flags & RETRY_TIMEOUT and not info["streamed"] and _core.retry(task):
            _core.clear_marks(task)
            _core.requeue(task)
        else:
            seconds = info["timeout_ms"] / 1000
            forced = bool(flags & FORCED)
            _core.fail(task, exceptions.TaskTimeoutError(label or "the task", seconds, death.pid, info["attempt"], forced), True)
        if flags & RECURSIVE:
            end_children(info["id"], bool(flags & CANCELLED and flags & FORCED))

    def _restart(self, task: int, info: _core.TaskInfo, actor: int) -> bool:
        """Queue an actor's creation again, if it may restart. Its mailbox stays as it is."""
        held = _core.actor_hold(actor)
        if held is None:  # killed before it had started, by the one who is dead now
            return False
        state = _core.actor_info(actor)
        wanted = state["closing"] == 0 or (state["closing"] == 1 and state["waiting"])  # calls of handles that are gone
        if not wanted or state["restarts"] == 0:
            return False
        if not _core.actor_restarting(actor):
            return False
        _core.retry(task)
        _core.requeue(task)
        return True

    def _dead_actor(self, actor: int, death: Death) -> None:
        # Others may drop the last handle meanwhile, and of an actor that never started nothing else is left.
        held = _core.actor_hold(actor)
        if held is None:  # it failed to start, and its process was on its way out
            return
        info = _core.actor_info(actor)
        error = death.actor_died(actor, info["name"], reason=_actor_reason(info, death))
        mourn(actor, _core.put_error(error), error)
        _core.actor_drop_life(actor)

    # -- the end --------------------------------------------------------------------------------------------

    def end(self) -> None:
        """No process of the session outlives its supervisor."""
        deadline = time.monotonic() + GRACE_S
        if self.door is not None:
            self.door.close()
        if not self.ending:
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
            self._forward_last(child)
        _core.session_over()  # guests live on, and are to know
        end_output(self.output)
        os._exit(0)


def _gone(pidfd: int, timeout: float) -> bool:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout) * 1000))


def _actor_reason(info: _core.ActorInfo, death: Death) -> str | None:
    """Why an actor's process ended, if the actor knows better than the process."""
    if info["killed"] and death.code in (-signal.SIGKILL, EXIT_NO_HANDLES):  # it may see it before the signal comes
        return "was killed with shoal.kill()"
    if death.code == EXIT_SELF:
        return "ended itself (exit_actor or sys.exit)"
    if death.code == EXIT_NO_HANDLES and info["closing"]:
        return "ended because no handle to it was left"
    return None


def _signal(child: Child, number: int) -> None:
    try:
        signal.pidfd_send_signal(child.pidfd, number)
    except ProcessLookupError:
        pass


def leave_terminal() -> None:
    """The terminal is the driver's. Who reads from it in a background group, or changes its settings (getpass), is stopped with all
    of the group; without a controlling terminal there is no such signal, and no /dev/tty. Workers inherit that."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return
    import termios

    fcntl.ioctl(terminal, termios.TIOCNOTTY)  # of this process only, since it leads no session
    os.close(terminal)


def main(boot: dict[str, Any]) -> None:
    # Python 3.12 and later warn of forks in a process with threads, which a BLAS may start. They hold no lock that a worker needs,
    # and an error (-W error) would come after the fork.
    warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # When the driver dies its children's group is orphaned, and the kernel hangs it up if one of them is stopped: not before the
    # supervisor has cleaned up. (Workers get the default back, and so does what they start.)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
    leave_terminal()
    if boot["folder"]:
        os.chdir(boot["folder"])
    supervisor = Supervisor(boot)
    signal.signal(signal.SIGTERM, supervisor.terminate)
    try:
        import numpy  # noqa: F401  (once here instead of once in every worker)
    except ImportError:
        pass
    from shoal.engine.local import worker  # noqa: F401  (for the same reason)

    supervisor.raise_file_limit()
    gc.collect()
    gc.freeze()
    try:
        supervisor.run()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
