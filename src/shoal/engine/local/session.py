"""The driver's side of a session: makes the arena, starts the supervisor, ends both."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from shoal import _core, _futures
from shoal import engine as engines
from shoal._options import RESOURCE_UNIT, validate_init_resources
from shoal.engine.local import hooks, places, wire
from shoal.engine.local.engine import LocalEngine
from shoal.engine.local.environment import folders_to_import_from
from shoal.engine.local.limits import ARENA_SHARE, SMALLEST_ARENA, arena_size, explain, memory_limit, usable_cpus
from shoal.engine.local.membership import Membership
from shoal.engine.local.memory import open_spill_file, timeout_of
from shoal.engine.local.memory_monitor import threshold_of
from shoal.engine.local.output import OutputPrinter, make_pipe
from shoal.exceptions import SessionError

if TYPE_CHECKING:
    from shoal.engine.local.join import GuestSession

# Numbers of the descriptors in the supervisor: the lowest, so that a low `ulimit -n` will do
PATIENCE_S = 5.0  # for the supervisor to end by itself
LISTENER, MEMFD, EVENTFD, OUTPUT, DRIVER, SPILL = 3, 4, 5, 6, 7, 8

# What the supervisor runs first. Its imports take a fifth of a second, on a busy machine several: until its loop watches the
# driver, the kernel interrupts it (SIGIO) when nobody reads the output pipe any more. (PR_SET_PDEATHSIG would end it with the
# thread that called init().) The listening socket stays open meanwhile, so the session's directory is still its own.
_BOOT = f"""\
import sys
sys.path[:] = [folder for folder in sys.path if folder]  # not what happens to lie in the present one
import fcntl, json, os, select, signal
boot = json.loads(sys.argv.pop())
def end_without_driver(*_):
    pipe = select.poll()
    pipe.register({OUTPUT}, 0)
    if pipe.poll(0):
        try:
            home, name = boot['place']
            os.unlink(os.path.join(home, name, 'socket'))
            os.rmdir(os.path.join(home, name))
            os.rmdir(home)
        finally:
            os._exit(1)
if boot['driver']:
    signal.signal(signal.SIGIO, end_without_driver)
    fcntl.fcntl({OUTPUT}, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl({OUTPUT}, fcntl.F_SETFL, fcntl.fcntl({OUTPUT}, fcntl.F_GETFL) | os.O_ASYNC)
    end_without_driver()
sys.path[:] = boot['path']
from shoal.engine.local.supervisor import main
main(boot)
"""


def _visible_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return len([x for x in visible.split(",") if x.strip() and x.strip() != "-1"])


class Plan:
    """What a new session is to have, from the settings of init() or `shoal start`. Raises TypeError, ValueError."""

    def __init__(self, settings: dict[str, Any]) -> None:
        units = validate_init_resources(settings.get("num_cpus"), settings.get("num_gpus"), settings.get("resources"), None)
        arena = settings.get("object_store_memory")
        if arena is not None and (isinstance(arena, bool) or not isinstance(arena, (int, float))):
            raise TypeError(f"object_store_memory must be a number of bytes, not {arena!r}")
        if arena is not None and arena < SMALLEST_ARENA:
            raise ValueError(f"object_store_memory must be at least {SMALLEST_ARENA} bytes (4 MB), not {arena}")
        self.arena = arena_size(None if arena is None else int(arena))
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
            "runtime_env": settings.get("runtime_env") or {},
            # The devices that "GPU 0", "GPU 1", ... stand for; empty: their numbers.
            "gpu_names": [x.strip() for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x.strip()],
            # Here and not among the supervisor's arguments, which everybody may read: who maps the arena has been let in.
            "token": None if token is None else check_token(token),
        }
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


class Session(Membership):
    """What the driver keeps of its session. With it the session ends: afterwards none of its processes is left."""

    def __init__(self) -> None:
        super().__init__()
        self.place: places.Place | None = None
        self.supervisor = 0
        self._pidfd = -1
        self.doing = "start a session"  # for an error of the system: what it was that it refused
        self.printer: OutputPrinter | None = None

    def start(self, settings: dict[str, Any]) -> LocalEngine:
        try:
            return super().start(settings)
        except BaseException as error:
            explained = explain(error, self.doing)
            if explained is not None:
                raise explained from error
            raise

    def _enter(self, settings: dict[str, Any]) -> LocalEngine:
        plan = Plan(settings)
        hooks.install(None)
        open_standard_descriptors()
        self.place, listener = plan.take_place()
        passed = [listener]  # to the supervisor: we need them no longer
        try:
            self.doing = "make the shared memory of a session"
            memfd, eventfd, spillfd = plan.make_arena()
            self.doing = "make the pipe and the thread for the output of workers"
            read_end, write_end = make_pipe()
            passed.append(write_end)
            self.printer = OutputPrinter(read_end)
            self.doing = "start the supervisor process"
            driver = _pidfd(self.owner)
            passed.append(driver)
            files = {MEMFD: memfd, EVENTFD: eventfd, OUTPUT: write_end, DRIVER: driver, LISTENER: listener, SPILL: spillfd}
            self.supervisor = spawn_supervisor(files, self.place, plan.config["runtime_env"])
        finally:
            for fd in passed:
                if fd >= 0:
                    os.close(fd)
        self.doing = "watch the supervisor process"
        self._pidfd = _pidfd(self.supervisor)
        _core.watch_supervisor(os.dup(self._pidfd))
        return self._use(plan.config, "driver")

    def forked(self) -> None:
        super().forked()
        if self.printer is not None:
            self.printer.close_pipe()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd, self.supervisor, self.printer = -1, 0, None

    def _at_exit(self) -> None:
        super()._at_exit()
        self.end()

    def _leave(self) -> None:
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
        if self._pidfd < 0:  # it could not be watched: the session has not begun
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        gone = False
        try:
            gone = _wait_for_exit(pid, self._pidfd, PATIENCE_S)
        finally:
            if not gone:
                os.kill(pid, signal.SIGKILL)
                _wait_for_exit(pid, self._pidfd, PATIENCE_S)
            pidfd, self._pidfd = self._pidfd, -1
            with contextlib.suppress(OSError):  # the program has closed it
                os.close(pidfd)


def spawn_supervisor(files: dict[int, int], place: places.Place | None, runtime_env: dict[str, Any]) -> int:
    """Start the supervisor; `files` maps the numbers of its descriptors to ours (-1: none). Returns its pid."""
    path: list[Any] = sys.path
    boot = {
        "path": [*folders_to_import_from(runtime_env), *(_absolute(p) for p in path if isinstance(p, str))],
        "folder": runtime_env.get("working_dir"),
        "driver": DRIVER in files,
        "spill": files[SPILL] >= 0,
        "place": place and [os.path.dirname(place.folder), place.name],
    }
    variables = runtime_env.get("env_vars") or {}
    environment = {**os.environ, **{name: str(text) for name, text in variables.items()}}
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, "1")  # a process per core already: threads in each would only get in the way
    command = [_interpreter(), *_interpreter_flags(), "-c", _BOOT, json.dumps(boot)]
    ours: dict[int, int] = {}
    try:
        for to, fd in files.items():
            if fd >= 0:
                ours[to] = _out_of_the_way(fd)
        actions: list[Any] = [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable_descriptors()]
        actions += [(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in ours.items()]
        actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
        if DRIVER not in files:
            actions += [(os.POSIX_SPAWN_DUP2, OUTPUT, 1), (os.POSIX_SPAWN_DUP2, OUTPUT, 2)]
        # posix_spawn, not fork: the driver may be large and have threads. A process group of its own, so that Ctrl-C reaches
        # the driver alone, which decides what it means; but not a session (setsid), except for one without a driver: the
        # kernel shares the cores out among sessions first (autogroup), and the workers together would get no more than one
        # other program. No signal stays ignored: with SIGCHLD the supervisor would not learn how its workers died. SIGHUP
        # waits until it has been dealt with (see Supervisor's main).
        group: dict[str, Any] = {"setpgroup": 0} if DRIVER in files else {"setsid": True}
        return os.posix_spawn(
            command[0], command, environment, file_actions=actions, setsigmask=[signal.SIGHUP],
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}, **group,
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


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        error.filename = "pidfd_open"
        raise


def _interpreter() -> str:
    """The path of a Python like this one. `sys.executable` is empty where Python is embedded in another program."""
    if sys.executable:
        return sys.executable
    import shutil

    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = shutil.which(f"{sys.exec_prefix}/bin/{version}") or shutil.which(version)
    if not found:
        raise SessionError(
            f"sys.executable is empty and there is no {version} in {sys.exec_prefix}/bin or in PATH: set sys.executable to the "
            "path of a Python interpreter before shoal.init(); the session's processes run it"
        )
    return found


def _interpreter_flags() -> list[str]:
    """The options of this interpreter that change what code means, for the session's processes."""
    flags = sys.flags
    found = ["-I"] if flags.isolated else ["-E"] * flags.ignore_environment + ["-s"] * flags.no_user_site
    found += ["-S"] * flags.no_site + ["-B"] * flags.dont_write_bytecode + ["-O"] * flags.optimize
    found += ["-X", "dev"] * flags.dev_mode + ["-X", "utf8"] * (flags.utf8_mode == 1)
    return found + [f"-W{option}" for option in sys.warnoptions if not flags.dev_mode or option != "default"]


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


def _after_fork_in_child() -> None:
    """The session is the parent's. Its pipe must not stay open here: see Supervisor._on_driver_gone."""
    if _session is not None:
        _session.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
