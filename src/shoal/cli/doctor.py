"""`shoal doctor`: does Shoal work here, and what of this machine, container and user limits it?"""

from __future__ import annotations

import argparse
import errno
import json
import mmap
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

OK, WARNING, PROBLEM = "ok", "warning", "problem"
SELF_TEST_S = 60  # a session that takes longer does not work
_PER_WORKER, _FOR_A_SESSION = 3, 16  # open files of the supervisor
_ENOUGH_ARENA = 256 << 20
_POPULATE_WRITE = 23  # of madvise, since Linux 5.14


class Finding(NamedTuple):
    """One line: `status` is "ok", "warning" or "problem"; `text` says what was found and, if it is not ok, what to do."""

    status: str
    subject: str
    text: str


def diagnose(self_test: bool = True) -> list[Finding]:
    """Look at everything that Shoal needs of its surroundings.

    Args:
        self_test: also start a session, in a process of its own, and use it; takes about a second.

    Returns the findings in the order in which they are best read. Changes nothing, except that what sessions that were killed
    have left in the directory for sessions is removed. Raises nothing: a check that fails is a finding.

    >>> from shoal.cli.doctor import diagnose
    >>> {finding.status for finding in diagnose(self_test=False)} <= {"ok", "warning", "problem"}
    True
    """
    findings: list[Finding] = []
    for check in (*CHECKS, _self_test) if self_test else CHECKS:
        try:
            findings += check()
        except Exception as error:
            subject = check.__name__.strip("_").replace("_", " ")
            findings.append(Finding(PROBLEM, subject, f"could not be checked: {type(error).__name__}: {error}"))
    return findings


def _python() -> Iterator[Finding]:
    name = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.implementation.name != "cpython":
        yield Finding(PROBLEM, "python", f"{name}: Shoal needs CPython")
    elif not getattr(sys, "_is_gil_enabled", lambda: True)():
        yield Finding(PROBLEM, "python", f"{name} without the global interpreter lock: start it with PYTHON_GIL=1")
    elif not sys.executable:
        yield Finding(WARNING, "python", f"{name}, embedded: set sys.executable to a Python interpreter, which workers will run")
    else:
        yield Finding(OK, "python", f"{name}, {sys.executable}")


def _packages() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    have = []
    for name, needed in (("shoal", False), ("numpy", True), ("cloudpickle", True), ("torch", False), ("pyarrow", False),
                         ("polars", False), ("pandas", False)):  # fmt: skip
        try:
            have.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            if needed:
                yield Finding(PROBLEM, "packages", f"{name} is not installed: pip install {name}")
    yield Finding(OK, "packages", ", ".join(have) or "none of the known ones are installed as distributions")


def _kernel() -> Iterator[Finding]:
    release = f"Linux {os.uname().release} on {os.uname().machine}"
    refused = []
    for name, call in _CALLS.items():
        try:
            os.close(call())
        except OSError as error:
            refused.append(f"{name}() ({errno.errorcode.get(error.errno or 0, error)})")
    if refused:
        yield Finding(
            PROBLEM, "kernel",
            f"{release} refuses {', '.join(refused)}: too old (5.3 is needed), or a filter of the container forbids it; run the "
            "container with a newer runtime or another seccomp profile",
        )  # fmt: skip
    else:
        yield Finding(OK, "kernel", f"{release}: {', '.join(_CALLS)} work")
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        try:
            memory.madvise(_POPULATE_WRITE)
        except OSError as error:
            yield Finding(
                WARNING, "kernel",
                f"MADV_POPULATE_WRITE is not there ({errno.errorcode.get(error.errno or 0, error)}; Linux 5.14 has it): large new "
                "arrays are stored more slowly. Nothing need be done",
            )  # fmt: skip


_CALLS: dict[str, Callable[[], int]] = {
    "memfd_create": lambda: os.memfd_create("shoal-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING),
    "pidfd_open": lambda: os.pidfd_open(os.getpid()),
    "eventfd": lambda: os.eventfd(0, os.EFD_CLOEXEC) if hasattr(os, "eventfd") else os.dup(0),
}


def _memory() -> Iterator[Finding]:
    from shoal.engine.local.limits import arena_size, memory_limit
    from shoal.exceptions import SessionError

    machine, limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), memory_limit()
    of = f"the container's {_bytes(limit)} (the machine has {_bytes(machine)})" if limit < machine else f"{_bytes(machine)}"
    try:
        arena = arena_size(None)
    except SessionError as error:
        yield Finding(PROBLEM, "memory", str(error))
        return
    text = f"objects get up to {_bytes(arena)} of {of}, unless init(object_store_memory=...) says otherwise"
    free = _available()
    if arena < _ENOUGH_ARENA:
        yield Finding(WARNING, "memory", f"{text}; that is little: give the container more memory, or expect spilling")
    elif free is not None and free < arena:
        yield Finding(
            WARNING, "memory",
            f"{text}; but only {_bytes(free)} are free now: end other programs, or pass a smaller object_store_memory",
        )  # fmt: skip
    else:
        yield Finding(OK, "memory", text)
    if _read("/proc/sys/vm/overcommit_memory") == "2":
        yield Finding(
            WARNING, "memory",
            "vm.overcommit_memory is 2: each worker counts with 200 MB towards the limit, used or not; start fewer workers "
            "(num_cpus=), or set it to 0",
        )  # fmt: skip


def _shared_memory() -> Iterator[Finding]:
    try:
        facts = os.statvfs("/dev/shm")
    except OSError:
        yield Finding(OK, "/dev/shm", "is not there, and not needed: objects lie in a memfd")
    else:
        size = _bytes(facts.f_blocks * facts.f_frsize)
        yield Finding(OK, "/dev/shm", f"has {size}, and is not needed: objects lie in a memfd, which its size does not limit")


def _processors() -> Iterator[Finding]:
    from shoal.engine.local.limits import cpu_quota, usable_cpus

    cores, quota, all_of = len(os.sched_getaffinity(0)), cpu_quota(), os.cpu_count() or 1
    text = f"init() starts {usable_cpus()} workers: this process may use {cores} of {all_of} cores"
    if quota is None:
        yield Finding(OK, "cpus", f"{text}, without a quota of the container")
    elif quota < 1:
        yield Finding(
            WARNING, "cpus", f"{text}, but the container only {quota:.2g} CPUs' time: it will be held up; raise its quota"
        )
    else:
        yield Finding(OK, "cpus", f"{text}, and the container {quota:.3g} CPUs' time")


def _limits() -> Iterator[Finding]:
    from shoal.engine.local.limits import cgroup_values, usable_cpus

    workers = usable_cpus()
    needed = _FOR_A_SESSION + _PER_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * needed:
        status = PROBLEM if hard < needed else WARNING
        yield Finding(
            status, "ulimit -n",
            f"at most {hard} open files: {workers} workers need {needed}, each actor {_PER_WORKER} more; raise the hard limit "
            "(ulimit -Hn)",
        )  # fmt: skip
    elif soft != resource.RLIM_INFINITY and soft < _FOR_A_SESSION:
        yield Finding(PROBLEM, "ulimit -n", f"{soft} open files are too few for a driver: raise it, `ulimit -n 1024`")
    else:
        yield Finding(OK, "ulimit -n", f"{_limit(soft)} open files, {_limit(hard)} for the supervisor")
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    mine = _processes_of_user()
    pids = [int(text) for text in (*cgroup_values("pids.max"), *cgroup_values("pids.max", "pids")) if text.isdigit()]
    if os.geteuid() != 0 and soft != resource.RLIM_INFINITY and soft < mine + 2 * workers + 16:
        yield Finding(
            WARNING, "ulimit -u",
            f"at most {soft} processes and threads of this user, who has {mine}: {workers} workers and their threads may be too "
            "many; raise it, or start fewer (num_cpus=)",
        )  # fmt: skip
    elif pids and min(pids) < 4 * workers + 16:
        yield Finding(
            WARNING, "pids.max", f"the container allows {min(pids)} processes and threads: raise it, or start fewer workers"
        )
    else:
        yield Finding(OK, "ulimit -u", f"{_limit(soft)} processes and threads of this user, who has {mine}")
    for name, kind, what in (("ulimit -v", resource.RLIMIT_AS, "of addresses"), ("ulimit -f", resource.RLIMIT_FSIZE, "per file"),
                             ("ulimit -d", resource.RLIMIT_DATA, "of data")):  # fmt: skip
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield Finding(
                WARNING, name,
                f"{_bytes(soft)} {what}: a session reserves more addresses than it uses memory, so this limits it; lift it with "
                f"`{name} unlimited`",
            )  # fmt: skip


def _directories() -> Iterator[Finding]:
    from shoal.engine.local import places
    from shoal.engine.local.memory import open_spill_file

    home = places.homes()[0]
    outer = os.path.dirname(home)
    if os.path.lexists(home):
        why = places.unsafe(home) or ("" if os.access(home, os.W_OK | os.X_OK) else f"{home} cannot be written to")
    else:
        why = "" if os.access(outer, os.W_OK | os.X_OK) else f"{outer} cannot be written to"
    if why:
        yield Finding(
            WARNING, "sessions",
            f"{why}: other processes cannot join a session here (init(address=...), shoal start). Set XDG_RUNTIME_DIR or TMPDIR to "
            "a directory of your own",
        )  # fmt: skip
    else:
        yield Finding(OK, "sessions", f"can be joined; their sockets are in {home}")
    fd, where = open_spill_file(None)
    if fd < 0:
        yield Finding(WARNING, "spilling", f"{where}: when memory is full, put() fails instead")
        return
    os.close(fd)
    facts = os.statvfs(where)
    free = facts.f_bavail * facts.f_frsize
    if free < _ENOUGH_ARENA:
        yield Finding(WARNING, "spilling", f"{where} has only {_bytes(free)} free: make room, or name another (spill_directory=)")
    else:
        yield Finding(OK, "spilling", f"to {where}, which has {_bytes(free)} free")


def _leftovers() -> Iterator[Finding]:
    from shoal.engine.local import places

    swept: list[str] = []
    alive = [place.name for place in places.sessions(swept)]
    if swept:
        yield Finding(OK, "leftovers", f"{', '.join(swept)} had been killed; what was left in the directory is removed")
    kept = []
    for members in _mapped().values():
        if not any("shoal.engine.local.supervisor" in command for _, command in members):
            kept += [f"{pid} ({command[:40].strip()})" for pid, command in members]
    if kept:
        yield Finding(
            WARNING, "leftovers",
            f"processes keep the memory of a session that has ended, by arrays from it or as forks of it: {', '.join(kept[:8])}"
            f"{' and more' if len(kept) > 8 else ''}; end them to have it back",
        )  # fmt: skip
    else:
        running = f"; running now: {', '.join(alive)}" if alive else ""
        yield Finding(OK, "leftovers", f"no process keeps memory of an ended session{running}")


_SELF_TEST = """
import json, sys, time
times, last = {}, time.monotonic()
def done(what):
    global last
    now = time.monotonic(); times[what] = now - last; last = now
import shoal
import numpy as np
done("import")
shoal.init(address="local", num_cpus=1, log_to_driver=False)
done("init")
@shoal.remote
def double(x): return 2 * x
assert shoal.get(double.remote(21), timeout=30) == 42
done("first task")
assert shoal.get([double.remote(i) for i in range(100)], timeout=30) == [2 * i for i in range(100)]
done("100 tasks")
@shoal.remote(num_cpus=0)
class Actor:
    def add(self, x): return x + 1
actor = Actor.remote()
assert shoal.get(actor.add.remote(1), timeout=30) == 2
done("actor")
array = np.arange(1 << 20)
assert shoal.get(shoal.put(array))[-1] == array[-1]
done("8 MB array")
with shoal.lock("doctor"): pass
done("lock")
shoal.shutdown()
done("shutdown")
print(json.dumps(times))
"""


def _self_test() -> Iterator[Finding]:
    if not sys.executable:
        return
    environment = {name: value for name, value in os.environ.items() if name != "SHOAL_ADDRESS"}
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{_SELF_TEST}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=SELF_TEST_S, env=environment,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        yield Finding(PROBLEM, "self-test", f"a small session was not done after {SELF_TEST_S} s: is a process of it stopped?")
        return
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"no message; exit code {done.returncode}"]
        yield Finding(PROBLEM, "self-test", f"a small session failed: {said[-1]}")
        return
    times = json.loads(done.stdout.splitlines()[-1])
    text = ", ".join(f"{what} {seconds * 1000:.3g} ms" for what, seconds in times.items())
    slow = time.monotonic() - start > 10
    yield Finding(WARNING if slow else OK, "self-test", text + ("; that is slow: the machine is very busy" if slow else ""))


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python, _packages, _kernel, _memory, _shared_memory, _processors, _limits, _directories, _leftovers,
)  # fmt: skip


def _available() -> int | None:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _processes_of_user() -> int:
    """Processes and threads, as `ulimit -u` counts them."""
    uid, n = os.getuid(), 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid == uid:
                n += len(os.listdir(f"/proc/{pid}/task"))
        except OSError:  # it has ended
            pass
    return n


def _mapped() -> dict[str, list[tuple[int, str]]]:
    """The processes of this user that map an arena: by arena, (pid, command)."""
    found: dict[str, list[tuple[int, str]]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/maps", errors="replace") as file:
                arenas = {line.split()[4] for line in file if "/memfd:shoal (deleted)" in line}
            with open(f"/proc/{pid}/cmdline", errors="replace") as file:
                command = file.read().replace("\0", " ")
        except OSError:  # it has ended, or is another user's
            continue
        for arena in arenas:
            found.setdefault(arena, []).append((int(pid), command))
    return found


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _limit(n: int) -> str:
    return "unlimited" if n == resource.RLIM_INFINITY else f"{n}"


def _bytes(n: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} TB"


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="check whether Shoal works here, and what limits it",
        description="Check whether Shoal works here, and what of this machine, container and user limits it. "
        "The exit code is 1 if there is a problem, 0 otherwise.",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--no-self-test", action="store_true", help="start no session")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    findings = diagnose(self_test=not options.no_self_test)
    if options.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            print(f"{finding.status:<8} {finding.subject:<{width}}  {finding.text}")
        count = {status: sum(finding.status == status for finding in findings) for status in (PROBLEM, WARNING)}
        if count[PROBLEM]:
            print(f"\nShoal does not work here as it should: {count[PROBLEM]} problem{'s' * (count[PROBLEM] > 1)}, see above.")
        else:
            print(
                "\nShoal works here."
                + (f" {count[WARNING]} warning{'s' * (count[WARNING] > 1)}, see above." * bool(count[WARNING]))
            )
    return int(any(finding.status == PROBLEM for finding in findings))
