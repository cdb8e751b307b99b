"""The driver's side of a session: makes the arena, starts the supervisor, ends both."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import sys
import time
from typing import Any

from shoal import _core
from shoal._options import RESOURCE_UNIT, validate_init_resources
from shoal.engine.local import hooks
from shoal.engine.local.engine import LocalEngine
from shoal.engine.local.output import OutputPrinter, make_pipe
from shoal.exceptions import SessionError

ARENA_SHARE = 0.6  # of the memory that this machine or container has
SMALLEST_ARENA = 4 << 20
# Numbers of the descriptors in the supervisor
MEMFD, EVENTFD, OUTPUT, DRIVER = 60, 61, 62, 63

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


class Session:
    """What the driver keeps of its session."""

    def __init__(self, settings: dict[str, Any]) -> None:
        units = validate_init_resources(
            settings.get("num_cpus"), settings.get("num_gpus"), settings.get("resources"), None
        )
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
        log = settings.get("log_to_driver")
        self.owner = os.getpid()
        config = {
            "namespace": settings.get("namespace") or "default",
            "cpus": units["CPU"] / RESOURCE_UNIT,
            "driver": self.owner,
            "log_to_driver": True if log is None else bool(log),
            "gpus": units["GPU"] > 0,
            # The devices that "GPU 0", "GPU 1", ... stand for; empty: their numbers.
            "gpu_names": [x.strip() for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x.strip()],
        }
        hooks.install(None)
        memfd, eventfd = _core.create_arena(int(arena), usable_cpus())
        _core.attach(memfd, eventfd, 0, _core.DRIVER)
        self.supervisor = 0
        try:
            _core.label("driver")
            # The core knows CPU as resource 0 and GPU as resource 1.
            for name in ("CPU", "GPU", *sorted(set(units) - {"CPU", "GPU"})):
                _core.set_resource(name, units[name])
            _core.set_config(_core.put(config, False))
            read_end, write_end = make_pipe()
            try:
                self.supervisor = self._spawn(memfd, eventfd, write_end)
            finally:
                os.close(write_end)
            self._pidfd = os.pidfd_open(self.supervisor)
            _core.watch_supervisor(os.dup(self._pidfd))
        except BaseException:
            _core.detach()
            raise
        self.printer = OutputPrinter(read_end)
        config["on_shutdown"] = self.end
        self.engine = LocalEngine(config)
        self.engine.process_facts = {"mode": "driver"}
        # At the exit of the interpreter, before its threads are waited for: a thread may be waiting in get().
        atexit.register(self.end)

    def _spawn(self, memfd: int, eventfd: int, output: int) -> int:
        boot = {"path": [os.path.abspath(p) if p == "" else p for p in sys.path], "driver": self.owner}
        environment = {**os.environ}
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment.setdefault(name, "1")  # a process per core already: threads in each would only get in the way
        command = [sys.executable or "python3", "-c", _BOOT, json.dumps(boot)]
        # posix_spawn, not fork: the driver may be large and have threads. Its own session, so that Ctrl-C reaches
        # the driver alone, which decides what it means. The numbers are out of the way of what the driver has open.
        driver = os.pidfd_open(self.owner)
        high = [fcntl_dup(fd) for fd in (memfd, eventfd, output, driver)]
        try:
            actions = [(os.POSIX_SPAWN_DUP2, fd, to) for fd, to in zip(high, (MEMFD, EVENTFD, OUTPUT, DRIVER), strict=True)]
            actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
            return os.posix_spawn(
                command[0], command, environment, file_actions=actions, setsid=True,
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE], setsigmask=[],
            )  # fmt: skip
        finally:
            for fd in high:
                os.close(fd)
            os.close(driver)

    def end(self) -> None:
        """End the session: afterwards none of its processes is left."""
        atexit.unregister(self.end)
        if os.getpid() != self.owner:  # a fork of the driver: it has no session, and leaves the parent's alone
            return
        if not self.supervisor:
            return
        pid, self.supervisor = self.supervisor, 0
        from shoal import _futures
        from shoal import engine as engines

        if engines.current_or_none() is self.engine:
            engines.use(None)
        _futures.close_all()
        _core.stop()
        if not _wait_for_exit(pid, self._pidfd, 5.0):
            os.kill(pid, signal.SIGKILL)
            _wait_for_exit(pid, self._pidfd, 5.0)
        os.close(self._pidfd)
        self.printer.close()
        _core.detach()


def fcntl_dup(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100)


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


def start_session(settings: dict[str, Any]) -> LocalEngine:
    """Start a session with this process as its driver."""
    if _core.forked():
        _core.detach()  # this process was forked from a participant; it starts afresh
    elif _core.attached():
        raise SessionError("this process already takes part in a session")
    return Session(settings).engine
