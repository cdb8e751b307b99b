"""What this machine, this container and this process's limits allow, and errors that say which of them it was."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator

from shoal import _core
from shoal.exceptions import SessionError

ARENA_SHARE = 0.6  # of the memory that this machine or container has
SMALLEST_ARENA = 4 << 20
# Addresses that stay free for everything else when `ulimit -v` decides how large an arena can be.
_SPARE_ADDRESSES = 512 << 20
_CGROUPS = "/sys/fs/cgroup"


def memory_limit() -> int:
    """Bytes of memory that this machine has or this container may use."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for text in (*cgroup_values("memory.max"), *cgroup_values("memory.limit_in_bytes", "memory")):
        if text.isdigit():
            total = min(total, int(text))
    return total


def cpu_quota() -> float | None:
    """CPUs' worth of time that the container may use, or None."""
    found = []
    for text in cgroup_values("cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            found.append(int(quota) / int(period))
    for text, period in zip(cgroup_values("cpu.cfs_quota_us", "cpu"), cgroup_values("cpu.cfs_period_us", "cpu"), strict=False):
        if text.isdigit() and period.isdigit():  # -1: no quota
            found.append(int(text) / int(period))
    return min(found, default=None)


def usable_cpus() -> int:
    """Cores that this process may run on, or whole CPUs of its container's quota if those are fewer; at least one."""
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def arena_size(asked: int | None) -> int:
    """Bytes of shared memory for objects: as many as asked for, or else what memory and addresses (`ulimit -v`) allow."""
    arena = int(memory_limit() * ARENA_SHARE) if asked is None else asked
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return arena
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    room = limit - used - _SPARE_ADDRESSES
    needed = _core.address_space(SMALLEST_ARENA if asked is None else arena)
    if room < needed:
        raise SessionError(
            f"`ulimit -v` allows {limit >> 20} MB of addresses, of which {used >> 20} MB are taken, but a session needs "
            f"{(needed + _SPARE_ADDRESSES) >> 20} MB more, which it reserves without using the memory: raise the limit, or lift it "
            "with `ulimit -v unlimited`"
            + (
                ""
                if asked is None or needed >> 20 == _core.address_space(SMALLEST_ARENA) >> 20
                else ", or lower object_store_memory"
            )
        )
    return min(arena, SMALLEST_ARENA + (room - needed) * 63 // 128) if asked is None else arena  # it is mapped twice


def cgroup_values(file: str, controller: str = "") -> list[str]:
    """What `file` says in this process's cgroup and in all above it ("" for version 2, else a controller of version 1)."""
    found = []
    for folder in _own_cgroups(controller):
        try:
            with open(f"{folder}/{file}") as opened:
                found.append(opened.read().strip())
        except OSError:
            pass
    return found


def _own_cgroups(controller: str) -> Iterator[str]:
    root = f"{_CGROUPS}/{controller}" if controller else _CGROUPS
    path = ""
    try:
        with open("/proc/self/cgroup") as file:
            for line in file:
                _, controllers, where = line.rstrip("\n").split(":", 2)
                if controller in controllers.split(","):
                    path = where.strip("/")
    except OSError:
        pass
    while path:
        yield f"{root}/{path}"
        path = path.rpartition("/")[0]
    yield root  # in a container this is its own, whatever /proc/self/cgroup says


def explain(error: BaseException, doing: str) -> SessionError | None:
    """The error that says what is to be done about a refusal of the system; None if `error` is no such thing."""
    if isinstance(error, RuntimeError) and "thread" in str(error):  # of threading
        error = OSError(errno.EAGAIN, str(error))
    if not isinstance(error, OSError) or isinstance(error, SessionError):
        return None
    return SessionError(f"cannot {doing}: {error.strerror or error}{_advice(error)}")


def _advice(error: OSError) -> str:
    call = error.filename if isinstance(error.filename, str) else ""
    if error.errno == errno.EMFILE:
        return f"; `ulimit -n` is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}: raise it, or close files"
    if error.errno == errno.ENFILE:
        return "; the whole machine has no open file left (fs.file-max)"
    if error.errno == errno.EAGAIN:
        processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        pids = [text for text in (*cgroup_values("pids.max"), *cgroup_values("pids.max", "pids")) if text.isdigit()]
        return (
            "; no process or thread can be added: `ulimit -u` is "
            f"{'unlimited' if processes == resource.RLIM_INFINITY else processes}"
            + (f", the container's pids.max is {min(map(int, pids))}" if pids else "")
            + ". Raise it, or start fewer workers (num_cpus=)"
        )
    if error.errno == errno.ENOMEM:
        return "; the system has no memory left, or `ulimit -v` or vm.overcommit_memory=2 forbids it"
    if error.errno in (errno.ENOSYS, errno.EPERM, errno.EACCES):
        release = os.uname().release
        return (
            f"; {f'{call}() is' if call else 'that is'} refused by the kernel ({release}) or by a filter of the container "
            "(seccomp). Shoal needs Linux 5.3 or newer with memfd_create, pidfd_open, eventfd and futex: `shoal doctor` checks them"
        )
    return f" ({call})" if call else ""
