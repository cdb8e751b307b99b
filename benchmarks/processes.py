"""Trees of processes, as /proc shows them: who belongs to a session, what it takes, and its end."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable

_PR_SET_CHILD_SUBREAPER = 36
_CPUCLOCK_SCHED = 2


def adopt_orphans() -> None:
    """Daemons that a peer starts stay below this process in the tree, so that they are counted and ended with
    it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def tree(root: int, with_root: bool = True) -> list[int]:
    """The process and all its descendants, zombies left out."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        fields = _stat(int(name))
        if fields and fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += parents.get(pid, [])
    return found if with_root else found[1:]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, which may contain anything."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def memory(pids: Iterable[int]) -> dict[str, float]:
    """Resident memory in MB, summed: `rss` counts a shared page in every process, `pss` once."""
    total = {"Rss:": 0, "Pss:": 0}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                for line in file:
                    key = line.partition(" ")[0]
                    if key in total:
                        total[key] += int(line.split()[1])
        except OSError:
            continue  # it is gone, or it is not ours to look at
    return {"rss": total["Rss:"] / 1000 * 1.024, "pss": total["Pss:"] / 1000 * 1.024}


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that all threads of the processes have used, to the nanosecond; the dead do not count."""
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)  # CLOCK_CPU of a process, see clock_getcpuclockid
        except OSError:
            continue
    return total


def end(root: int) -> None:
    """Kill a process and all its descendants, and wait for those that are children of this process."""
    for _ in range(5):  # again: between the look and the kill more may have been born
        pids = tree(root)
        if pids == [root] and _stat(root) is None:
            break
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)
    reap()


def end_orphans() -> None:
    """Kill all that is left below this process."""
    deadline = time.monotonic() + 10
    while (pids := tree(os.getpid(), with_root=False)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap()
        time.sleep(0.01)
    reap()


def reap() -> None:
    """Bury children that have ended. Only for processes that do not wait for children by themselves."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
