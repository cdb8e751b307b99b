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
from typing import TYPE_CHECKING, Any

from shoal import _core, _futures
from shoal import engine as engines
from shoal._options import RESOURCE_UNIT, validate_init_resources
from shoal.engine.local import hooks, places, wire
from shoal.engine.local.engine import LocalEngine
from shoal.engine.local.memory import open_spill_file, timeout_of
from shoal.engine.local.memory_monitor import threshold_of
from shoal.engine.local.output import OutputPrinter, make_pipe
from shoal.exceptions import SessionError

if TYPE_CHECKING:
    from shoal.engine.local.join import GuestSession

ARENA_SHARE = 0.6  # of the memory that this machine or container has
SMALLEST_ARENA = 4 << 20
# Numbers of the descriptors in the supervisor
LISTENER, MEMFD, EVENTFD, OUTPUT, DRIVER, SPILL = 59, 60, 61, 62, 63, 64

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


class CtrlCLater:
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


class Plan:
    """What a new session is to have, from the settings of init() or `shoal start`. Raises TypeError, ValueError."""

    def __init__(self, settings: dict[str, Any]) -> None:
        units = validate_init_resources(settings.get("num_cpus"), settings.get("num_gpus"), settings.get("resources"), None)
        arena = settings.get("object_store_memory")
        if arena is None:
            arena = int(memory_limit() * ARENA_SHARE)
        if isinstance(arena, bool) or not isinstance(arena, (int, float)):
            raise TypeError(f"object_store_memory must be a number of bytes, not {arena!r}")
        if arena < SMALLEST_ARENA:
            raise ValueError(f"object_store_memory must be at least {SMALLEST_ARENA} bytes (4 MB), not {arena}")
        self.arena = int(arena)
        units.setdefault("CPU", usable_cpus() * RESOURCE_UNIT)
        units.setdefault("GPU", _visible_gpus() * RESOURCE_UNIT)
        units.setdefault("memory", int(memory_limit() * (1 - ARENA_SHARE)))
        self.memory_timeout = timeout_of(settings.get("memory_timeout"))
        self.units = units
        name = settings.get("session_name")
        self.name = None if name is None else places.check_name(name)
        token = settings.get("token")
        log = settings.get("log_to_driver")
        self.config: dict[str, Any] = {
            "namespace": settings.get("namespace") or "default",
            "cpus": units["CPU"] / RESOURCE_UNIT,
            "log_to_driver": True if log is None else bool(log),
            "memory_usage_threshold": threshold_of(settings.get("memory_usage_threshold")),
            "gpus": units["GPU"] > 0,
            # The devices that "GPU 0", "GPU 1", ... stand for; empty: their numbers.
            "gpu_names": [x.strip() for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x.strip()],
            # Here and not among the supervisor's arguments, which everybody may read: who maps the arena has been let in.
            "token": None if token is None else check_token(token),
        }
        self.variables: dict[str, Any] = (settings.get("runtime_env") or {}).get("env_vars") or {}
        self.spill_directory = settings.get("spill_directory")

    def take_place(self, needed: bool = False) -> tuple[places.Place | None, int]:
        """Where guests will find the session, and its socket. A session that asked for no name does without, if it must."""
        try:
            place, listener = places.make(self.name)
        except (OSError, places.Unsafe) as error:
            if needed or self.name is not None:
                raise SessionError(f"the session could not be joined: {error}") from error
            self.config["name"], self.config["address"] = places.default_name(), None
            return None, -1
        self.config["name"], self.config["address"] = place.name, place.socket
        return place, listener

    def make_arena(self) -> tuple[int, int, int]:
        """Make the arena and join it as its driver; returns the descriptors of arena, eventfd and spill file (-1: none)."""
        spillfd, self.config["spill"] = open_spill_file(self.spill_directory)
        try:
            memfd, eventfd = _core.create_arena(self.arena, usable_cpus())
            _core.attach(memfd, eventfd, 0, _core.DRIVER)
        except BaseException:
            if spillfd >= 0:
                os.close(spillfd)
            raise
        _core._use_spill_file(spillfd)
        _core.set_memory_wait(self.memory_timeout)
        _core.label("driver")
        # The core knows CPU as resource 0 and GPU as resource 1.
        for name in ("CPU", "GPU", *sorted(set(self.units) - {"CPU", "GPU"})):
            _core.set_resource(name, self.units[name])
        _core.set_config(_core.put(self.config, False))
        return memfd, eventfd, spillfd


class Session:
    """What the driver keeps of its session."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.place: places.Place | None = None
        self.supervisor = 0
        self.printer: OutputPrinter | None = None
        self.engine: LocalEngine | None = None

    def start(self, settings: dict[str, Any]) -> LocalEngine:
        try:
            with CtrlCLater():
                engine = self._start(settings)
                engines.use(engine)
            return engine
        except BaseException:
            self.end()
            raise

    def _start(self, settings: dict[str, Any]) -> LocalEngine:
        plan = Plan(settings)
        hooks.install(None)
        open_standard_descriptors()
        self.place, listener = plan.take_place()
        try:
            memfd, eventfd, spillfd = plan.make_arena()
            read_end, write_end = make_pipe()
            self.printer = OutputPrinter(read_end)
            driver = os.pidfd_open(self.owner)
            files = {MEMFD: memfd, EVENTFD: eventfd, OUTPUT: write_end, DRIVER: driver, LISTENER: listener, SPILL: spillfd}
            try:
                self.supervisor = spawn_supervisor(files, self.place, plan.variables)
            finally:
                os.close(write_end)
                os.close(driver)
        finally:
            if listener >= 0:
                os.close(listener)
        self._pidfd = os.pidfd_open(self.supervisor)
        _core.watch_supervisor(os.dup(self._pidfd))
        config = {**plan.config, "on_shutdown": self.end}
        self.engine = LocalEngine(config)
        self.engine.process_facts = {"mode": "driver"}
        atexit.register(self._at_exit)
        return self.engine

    def _at_exit(self) -> None:
        # The threads that Python waits for at its exit are done by now.
        engines.at_exit()
        self.end()

    def end(self) -> None:
        """End the session: afterwards none of its processes is left."""
        if os.getpid() != self.owner or not _core.attached():  # a fork of the driver leaves the parent's session alone
            return
        with CtrlCLater():
            atexit.unregister(self._at_exit)
            if self.engine is not None and engines.current_or_none() is self.engine:
                engines.use(None)
            _futures.close_all()
            _core.stop()
            try:
                self._end_supervisor()
            finally:
                if self.place is not None:
                    self.place.remove()  # it has done so itself, unless it was killed
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


def spawn_supervisor(files: dict[int, int], place: places.Place | None, variables: dict[str, Any]) -> int:
    """Start the supervisor; `files` maps the numbers of its descriptors to ours (-1: none). Returns its pid."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= limit <= SPILL:
        raise SessionError(f"a session needs room for {SPILL + 1} open files, but `ulimit -n` is {limit}: raise it")
    path: list[Any] = sys.path
    boot = {
        "path": [_absolute(p) for p in path if isinstance(p, str)],
        "driver": DRIVER in files,
        "spill": files[SPILL] >= 0,
        "place": place and [os.path.dirname(place.folder), place.name],
    }
    environment = {**os.environ, **{name: str(text) for name, text in variables.items()}}
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, "1")  # a process per core already: threads in each would only get in the way
    command = [sys.executable or "python3", "-c", _BOOT, json.dumps(boot)]
    ours = {to: _out_of_the_way(fd) for to, fd in files.items() if fd >= 0}
    try:
        actions: list[Any] = [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable_descriptors()]
        actions += [(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in ours.items()]
        actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
        if DRIVER not in files:
            actions += [(os.POSIX_SPAWN_DUP2, OUTPUT, 1), (os.POSIX_SPAWN_DUP2, OUTPUT, 2)]
        # posix_spawn, not fork: the driver may be large and have threads. Its own session, so that Ctrl-C reaches
        # the driver alone, which decides what it means.
        return os.posix_spawn(
            command[0], command, environment, file_actions=actions, setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE], setsigmask=[],
        )  # fmt: skip
    finally:
        for fd in set(ours.values()) - set(files.values()):
            os.close(fd)


def check_token(token: object) -> str:
    if not isinstance(token, str):
        raise TypeError(f"the token of a session is a string, not {token!r}")
    if not token or len(token.encode(errors="replace")) > wire.LONGEST_TOKEN:
        raise ValueError(f"the token of a session has 1 to {wire.LONGEST_TOKEN} bytes")
    return token


def open_standard_descriptors() -> None:
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
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SPILL + 1) if LISTENER <= fd <= SPILL else fd


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


_session: Session | GuestSession | None = None  # the latest of this process


def start_session(address: str | None, settings: dict[str, Any]) -> LocalEngine:
    """Start a session with this process as its driver, or join the one at `address`."""
    global _session
    if _core.forked():
        _futures.forget_all()
        _core.detach()  # this process was forked from a participant; it starts afresh
    elif _core.attached():
        if _session is None or engines.current_or_none() is not None:
            raise SessionError("this process already takes part in a session")
        _session.end()  # its shutdown() was interrupted
    if address is None:
        _session = Session()
    else:
        from shoal.engine.local.join import GuestSession

        _session = GuestSession(address)
    return _session.start(settings)
