"""The driver's side of a session: makes the arena, starts the supervisor, ends both."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import resource
import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from shoal import _core, _futures
from shoal import engine as engines
from shoal._options import RESOURCE_UNIT, validate_init_resources
from shoal.engine.local import hooks
from shoal.engine.local.engine import LocalEngine
from shoal.engine.local.memory import open_spill_file, timeout_of
from shoal.engine.local.memory_monitor import threshold_of
from shoal.engine.local.output import OutputPrinter, make_pipe
from shoal.exceptions import SessionError

ARENA_SHARE = 0.6  # of the memory that this machine or container has
SMALLEST_ARENA = 4 << 20
# Numbers of the descriptors in the supervisor
MEMFD, EVENTFD, OUTPUT, DRIVER, SPILL = NUMBERS = 60, 61, 62, 63, 64

_BOOT = (
    "import sys, json; boot = json.loads(sys.argv.pop()); sys.path[:] = boot['path']; "
    "from shoal.engine.local.supervisor import main; main(boot)"
)


def memory_limit() -> int:
    """Bytes of memory that this machine has or this container may use."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes", *_own_cgroup()):
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _own_cgroup() -> list[str]:
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    found = []
    for _, controllers, path in lines:
        if controllers == "":
            found.append(f"/sys/fs/cgroup{path}/memory.max")
        elif "memory" in controllers.split(","):
            found.append(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")
    return found


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) or 1


def _visible_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return len([x for x in visible.split(",") if x.strip() and x.strip() != "-1"])


class _CtrlCLater:
    """Within it a Ctrl-C waits for the end of the block: half a session started or ended would be worse. A second one does not."""

    def __init__(self) -> None:
        self._before: Any = None
        self._came = False

    def __enter__(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._note)
            self._before = before

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            self._before(number, frame)
        self._came = True

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if self._came:
                self._before(signal.SIGINT, sys._getframe())


class Session:
    """What the driver keeps of its session."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.supervisor = 0
        self.printer: OutputPrinter | None = None
        self.engine: LocalEngine | None = None

    def start(self, settings: dict[str, Any]) -> LocalEngine:
        try:
            with _CtrlCLater():
                engine = self._start(settings)
                engines.use(engine)
            return engine
        except BaseException:
            self.end()
            raise

    def _start(self, settings: dict[str, Any]) -> LocalEngine:
        units = validate_init_resources(settings.get("num_cpus"), settings.get("num_gpus"), settings.get("resources"), None)
        arena = settings.get("object_store_memory")
        if arena is None:
            arena = int(memory_limit() * ARENA_SHARE)
        if isinstance(arena, bool) or not isinstance(arena, (int, float)):
            raise TypeError(f"object_store_memory must be a number of bytes, not {arena!r}")
        if arena < SMALLEST_ARENA:
            raise ValueError(f"object_store_memory must be at least {SMALLEST_ARENA} bytes (4 MB), not {arena}")
        units.setdefault("CPU", usable_cpus() * RESOURCE_UNIT)
        units.setdefault("GPU", _visible_gpus() * RESOURCE_UNIT)
        units.setdefault("memory", int(memory_limit() * (1 - ARENA_SHARE)))
        memory_timeout = timeout_of(settings.get("memory_timeout"))
        log = settings.get("log_to_driver")
        config = {
            "namespace": settings.get("namespace") or "default",
            "cpus": units["CPU"] / RESOURCE_UNIT,
            "driver": self.owner,
            "log_to_driver": True if log is None else bool(log),
            "memory_usage_threshold": threshold_of(settings.get("memory_usage_threshold")),
            "gpus": units["GPU"] > 0,
            # The devices that "GPU 0", "GPU 1", ... stand for; empty: their numbers.
            "gpu_names": [x.strip() for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x.strip()],
        }
        hooks.install(None)
        _open_standard_descriptors()
        spillfd, config["spill"] = open_spill_file(settings.get("spill_directory"))
        try:
            memfd, eventfd = _core.create_arena(int(arena), usable_cpus())
            _core.attach(memfd, eventfd, 0, _core.DRIVER)
        except BaseException:
            if spillfd >= 0:
                os.close(spillfd)
            raise
        _core._use_spill_file(spillfd)
        _core.set_memory_wait(memory_timeout)
        _core.label("driver")
        # The core knows CPU as resource 0 and GPU as resource 1.
        for name in ("CPU", "GPU", *sorted(set(units) - {"CPU", "GPU"})):
            _core.set_resource(name, units[name])
        _core.set_config(_core.put(config, False))
        read_end, write_end = make_pipe()
        self.printer = OutputPrinter(read_end)
        try:
            variables = (settings.get("runtime_env") or {}).get("env_vars") or {}
            self.supervisor = self._spawn((memfd, eventfd, write_end), spillfd, variables)
        finally:
            os.close(write_end)
        self._pidfd = os.pidfd_open(self.supervisor)
        _core.watch_supervisor(os.dup(self._pidfd))
        config["on_shutdown"] = self.end
        self.engine = LocalEngine(config)
        self.engine.process_facts = {"mode": "driver"}
        atexit.register(self._at_exit)
        return self.engine

    def _spawn(self, files: tuple[int, ...], spillfd: int, variables: dict[str, Any]) -> int:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if 0 <= limit <= SPILL:
            raise SessionError(f"a session needs room for {SPILL + 1} open files, but `ulimit -n` is {limit}: raise it")
        path: list[Any] = sys.path
        boot = {"path": [_absolute(p) for p in path if isinstance(p, str)], "driver": self.owner, "spill": spillfd >= 0}
        environment = {**os.environ, **{name: str(text) for name, text in variables.items()}}
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment.setdefault(name, "1")  # a process per core already: threads in each would only get in the way
        command = [sys.executable or "python3", "-c", _BOOT, json.dumps(boot)]
        driver = os.pidfd_open(self.owner)
        files = (*files, driver, spillfd) if spillfd >= 0 else (*files, driver)
        ours = [_out_of_the_way(fd) for fd in files]
        try:
            actions: list[Any] = [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable_descriptors()]
            actions += [(os.POSIX_SPAWN_DUP2, fd, to) for fd, to in zip(ours, NUMBERS, strict=False)]
            actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
            # posix_spawn, not fork: the driver may be large and have threads. Its own session, so that Ctrl-C reaches
            # the driver alone, which decides what it means.
            return os.posix_spawn(
                command[0], command, environment, file_actions=actions, setsid=True,
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE], setsigmask=[],
            )  # fmt: skip
        finally:
            for fd in {driver, *ours} - set(files) | {driver}:
                os.close(fd)

    def _at_exit(self) -> None:
        # The threads that Python waits for at its exit are done by now.
        engines.at_exit()
        self.end()

    def end(self) -> None:
        """End the session: afterwards none of its processes is left."""
        if os.getpid() != self.owner or not _core.attached():  # a fork of the driver leaves the parent's session alone
            return
        with _CtrlCLater():
            atexit.unregister(self._at_exit)
            if self.engine is not None and engines.current_or_none() is self.engine:
                engines.use(None)
            _futures.close_all()
            _core.stop()
            try:
                self._end_supervisor()
            finally:
                if self.printer is not None:
                    self.printer.close()
                _core.detach()
                _futures.close_all()  # of threads that began to wait meanwhile

    def _end_supervisor(self) -> None:
        pid, self.supervisor = self.supervisor, 0
        if not pid:
            return
        gone = False
        try:
            gone = _wait_for_exit(pid, self._pidfd, 5.0)
        finally:
            if not gone:
                os.kill(pid, signal.SIGKILL)
                _wait_for_exit(pid, self._pidfd, 5.0)
            os.close(self._pidfd)


def _open_standard_descriptors() -> None:
    """If 0, 1 or 2 is closed, none of ours may get its number: what is printed there would end up in the arena."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _inheritable_descriptors() -> list[int]:
    """What the supervisor would inherit of the driver's files, and keep open."""
    limit = os.sysconf("SC_OPEN_MAX")  # posix_spawn() refuses to close what lies above it, from before it was lowered
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if 2 < fd < limit and os.get_inheritable(fd):
                found.append(fd)
        except OSError:  # closed by now, as the one that listed them
            pass
    return found


def _out_of_the_way(fd: int) -> int:
    """The same file under a number that is none of those the supervisor will know its files by."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SPILL + 1) if MEMFD <= fd <= SPILL else fd


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except FileNotFoundError:  # the present directory was removed
        return path


def _wait_for_exit(pid: int, pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    end = time.monotonic() + seconds
    while not poll.poll(max(0.0, end - time.monotonic()) * 1000):
        if time.monotonic() >= end:
            return False
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # the program reaps all its children itself
    return True


_session: Session | None = None  # the latest of this process


def start_session(settings: dict[str, Any]) -> LocalEngine:
    """Start a session with this process as its driver."""
    global _session
    if _core.forked():
        _futures.forget_all()
        _core.detach()  # this process was forked from a participant; it starts afresh
    elif _core.attached():
        if _session is None or engines.current_or_none() is not None:
            raise SessionError("this process already takes part in a session")
        _session.end()  # its shutdown() was interrupted
    _session = Session()
    return _session.start(settings)
