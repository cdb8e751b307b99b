"""Keeps the memory of all processes below the limit: shrinks the arena, or ends the call that uses most, before the kernel does.

The supervisor looks while calls run, a few times a second, at the memory of the machine and of the control groups that it is
in (versions 1 and 2). An idle session is not looked at: the first call after two idle seconds rings the supervisor.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from shoal import _core, exceptions
from shoal.engine.local.memory import size_text

THRESHOLD = 0.95
VARIABLE = "SHOAL_MEMORY_USAGE_THRESHOLD"
SLOW_S, FAST_S = 0.5, 0.1  # between two looks: far from the threshold, and near it
NEAR = 0.1
PAUSE_S = 1.0  # for the memory of the one that was ended to come back
IDLE_S = 0.4
LEAST_SPILLED, MOST_SPILLED = 64 << 20, 512 << 20  # at a time: deaths are not repaired meanwhile
_TASK, _ACTOR_CALL = 0, 2  # TaskKind in core/abi.h
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(Protocol):
    pid: int
    pidfd: int
    slot: int


def threshold_of(setting: Any) -> float:
    """init()'s memory_usage_threshold, or that of the environment, checked."""
    value = os.environ.get(VARIABLE, THRESHOLD) if setting is None else setting
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"memory_usage_threshold must be a number from 0 (off) to 1, not {value!r}") from None
    if not 0 <= number <= 1:
        raise ValueError(f"memory_usage_threshold must be a number from 0 (off) to 1, not {value!r}")
    return number


# -- readings -----------------------------------------------------------------------------------------------


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _fields(path: str) -> dict[str, int]:
    try:
        with open(path) as file:
            return {name.rstrip(":"): int(value) for name, value, *_ in map(str.split, file) if value.isdigit()}
    except (OSError, ValueError):
        return {}


def own_groups() -> list[tuple[str, str]]:
    """The directories of the control groups that this process is in and that count memory: (directory, version)."""
    found = []
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    for _, controllers, path in lines:
        if controllers and "memory" not in controllers.split(","):
            continue
        root, version = ("/sys/fs/cgroup/memory", "1") if controllers else ("/sys/fs/cgroup", "2")
        parts = path.strip("/").split("/")
        found += [("/".join([root, *parts[:n]]).rstrip("/"), version) for n in range(len(parts), -1, -1)]
    return found


def group_usage(directory: str, version: str) -> tuple[int, int] | None:
    """Bytes that a control group has in use, without what the kernel can take back at once, and its limit."""
    if version == "2":
        used, limit = _number(f"{directory}/memory.current"), _number(f"{directory}/memory.max")
        names = ("inactive_file", "active_file")
    else:
        used, limit = _number(f"{directory}/memory.usage_in_bytes"), _number(f"{directory}/memory.limit_in_bytes")
        names = ("total_inactive_file", "total_active_file")
    if used is None or limit is None or limit >= 1 << 60:  # no limit
        return None
    stat = _fields(f"{directory}/memory.stat")
    return max(0, used - sum(stat.get(name, 0) for name in names)), limit


def machine_usage() -> tuple[int, int] | None:
    memory = _fields("/proc/meminfo")
    if not memory.get("MemTotal"):
        return None
    return (memory["MemTotal"] - memory.get("MemAvailable", memory["MemTotal"])) << 10, memory["MemTotal"] << 10


class Readings:
    """The tightest of the limits that hold for this process: (bytes in use, limit, whose limit it is)."""

    def __init__(self) -> None:
        self.groups = [group for group in own_groups() if group_usage(*group)]

    def __call__(self) -> tuple[int, int, str]:
        found = [(*usage, "the control group") for group in self.groups if (usage := group_usage(*group))]
        if machine := machine_usage():
            found.append((*machine, "the machine"))
        return max(found, key=lambda reading: reading[0] / reading[1], default=(0, 1, "the machine"))


def private_memory(pid: int) -> int:
    """Bytes that only this process uses: without the arena, and without files that it has mapped."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * _PAGE


# -- the monitor --------------------------------------------------------------------------------------------


class MemoryMonitor:
    """`say(process, text)` prints for the driver; `readings` can be replaced by a test."""

    def __init__(self, threshold: float, say: Callable[[Process, str], None]) -> None:
        self.threshold = threshold
        self.say = say
        self.readings: Callable[[], tuple[int, int, str]] = Readings()
        self.ended: dict[int, str] = {}  # pid -> why; until it is buried
        self.next_look = self.quiet_until = 0.0
        self.idle_since: float | None = None

    def look(self, processes: Iterable[Process]) -> float | None:
        """Look, if it is time to; returns the seconds until the next look, or None: when a call runs again."""
        if not self.threshold:
            return None
        now = time.monotonic()
        if _core.busy():
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = now
        elif now - self.idle_since >= 2 * IDLE_S:  # once more since it was said that nobody looks, for who had begun just then
            return None
        elif now - self.idle_since >= IDLE_S:
            _core.unwatch_memory()
            return IDLE_S
        if now < self.next_look:
            return self.next_look - now
        used, limit, whose = self.readings()
        too_much = int(used - self.threshold * limit)
        if too_much >= 0 and now >= self.quiet_until and not self.ended and not self._shrink_arena(too_much):
            self._end_one(processes, used, limit, whose)
            self.quiet_until = now + PAUSE_S
        pause = FAST_S if used >= (self.threshold - NEAR) * limit else SLOW_S
        self.next_look = now + pause
        return pause

    @staticmethod
    def _shrink_arena(wanted: int) -> bool:
        """Give back what is free in the arena, then what nobody looks at; whether that is as much as is wanted."""
        given = _core.trim(0)
        if given < wanted <= MOST_SPILLED and _core._spill(max(wanted - given, LEAST_SPILLED)):
            given += _core.trim(0)
        return given >= wanted

    def _end_one(self, processes: Iterable[Process], used: int, limit: int, whose: str) -> None:
        candidates = []
        for process in processes:
            call = _core.running_call(process.slot)
            if call is None:
                continue
            kind, retries, _ = call
            _, _, _, actor, label = _core.slot_info(process.slot)
            # First what can be run again, then other tasks; actors, whose state would be lost, last.
            rank = (0 if retries else 1) if kind == _TASK else 2
            held = _core.actor_hold(actor) if rank == 2 and actor else None
            if held is not None and not _core.actor_info(actor)["restarts"]:
                rank = 3
            candidates.append((rank, -private_memory(process.pid), label or "a call", process, retries))
        if not candidates:
            return
        candidates.sort(key=lambda candidate: candidate[:2])
        rank, negative, label, victim, retries = candidates[0]
        name = f"{label}()" if rank < 2 else f"the actor {label}"
        others = sorted(((-c[1], f"{c[2]} (pid {c[3].pid})") for c in candidates[1:]), reverse=True)[:2]
        after = ", ".join(f"{who}: {size_text(size)}" for size, who in others) or "no other call ran"
        why = (
            f"memory was low: {size_text(used)} of {whose}'s {size_text(limit)} were in use, more than "
            f"a share of {self.threshold:g} (memory_usage_threshold). "
            f"{name} used the most of its own, {size_text(-negative)}; next: {after}"
        )
        self.ended[victim.pid] = why
        try:
            signal.pidfd_send_signal(victim.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return
        again = "it will run again" if retries and rank != 3 else "it will not run again"
        self.say(victim, f"shoal: ended {name} (pid {victim.pid}), {again}: {why}\n")

    def verdict(self, pid: int) -> exceptions.OutOfMemoryError | None:
        """If that process was ended here: what the callers of what it ran are to be told."""
        why = self.ended.get(pid)
        if why is None:
            return None
        return exceptions.OutOfMemoryError(
            f"the call was ended since {why}. Let fewer run at a time (num_cpus, memory), make it use less, or allow more "
            "attempts with max_retries"
        )

    def buried(self, pid: int) -> None:
        self.ended.pop(pid, None)
