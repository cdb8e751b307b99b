"""The machine and the versions that a result belongs to."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.peers import PEERS


def machine() -> dict[str, Any]:
    """What figures depend on."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "kernel": platform.release(),
        "transparent_huge_pages": _choice("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load": load(),
    }


def load() -> list[float]:
    """Processes that wanted to run, on average over the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def available_memory() -> int:
    """Bytes that programs can have without swapping, and within the container's limit."""
    free = int((_field("/proc/meminfo", "MemAvailable") or "0 kB").split()[0]) * 1024
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            text = limit.read().strip()
            if text.isdigit():
                free = min(free, int(text) - int(used.read()))
    except OSError:
        pass
    return free


def versions() -> dict[str, str]:
    """Python, NumPy, and every peer that is installed."""
    found = {"python": sys.version.split()[0]}
    for name in ("numpy", "scipy", *(spec.package for spec in PEERS.values())):
        if name and name not in found:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
    return found


def _field(path: str, name: str) -> str | None:
    try:
        with open(path) as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return None


def _choice(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().partition("[")[2].partition("]")[0]
    except OSError:
        return None
