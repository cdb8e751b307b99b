"""The board of core/crash.cpp: who passed which mark how often, and who is to die at which."""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections import Counter
from pathlib import Path

ROLES = ("none", "driver", "supervisor", "worker", "actor", "guest")  # Role in core/abi.h
_ROLES, _POINTS, _NAME = 8, 4096, 64
_HEAD, _POINT = 24 + _NAME, _NAME + 8 * _ROLES
_ARMED, _LEFT, _VICTIM, _TARGET = 4, 8, 16, 24
CORE = Path(__file__).resolve().parents[2] / "core"

# What a mark's place in the source looks like: the steps of a Tx, and the named ones.
_STEPS = {
    r"\.set\(": ("tx.set",),
    r"\b(tx|again)\.lock\(": ("tx.lock", "tx.locked"),
    r"\b(tx|again)\.settle\(": ("tx.settle", "tx.settled"),
    r"\b(tx|again)\.commit\(": ("tx.settle", "tx.settled"),
}


class Board:
    """A file of this process's own, named to the others by the environment."""

    def __init__(self, path: str) -> None:
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        size = _HEAD + _POINT * _POINTS
        os.ftruncate(fd, size)
        self._map = mmap.mmap(fd, size)
        os.close(fd)
        os.environ["SHOAL_CRASH_BOARD"] = path

    def passages(self) -> Counter[tuple[str, str]]:
        """(kind of process, mark): times."""
        found: Counter[tuple[str, str]] = Counter()
        n = struct.unpack_from("I", self._map, 0)[0]
        for i in range(min(n, _POINTS)):
            at = _HEAD + i * _POINT
            name = self._map[at + 8 : at + _NAME].split(b"\0")[0].decode()
            for role, times in enumerate(struct.unpack_from(f"{_ROLES}Q", self._map, at + _NAME)):
                if times and name and role < len(ROLES):
                    found[ROLES[role], name] += times
        return found

    def arm(self, role: str, mark: str, passage: int) -> None:
        """The first process of that kind that passes the mark for the `passage`-th time (all of the kind together) dies."""
        self.disarm()
        data = mark.encode()
        self._map[_TARGET : _TARGET + _NAME] = data + bytes(_NAME - len(data))
        struct.pack_into("q", self._map, _LEFT, passage)
        struct.pack_into("i", self._map, _VICTIM, 0)
        struct.pack_into("I", self._map, _ARMED, ROLES.index(role) + 1)

    def disarm(self) -> None:
        struct.pack_into("I", self._map, _ARMED, 0)

    @property
    def victim(self) -> int:
        """The process that died at the mark; 0: nobody has yet."""
        return int(struct.unpack_from("i", self._map, _VICTIM)[0])


def marks() -> dict[str, str]:
    """Every mark in the source of the core: its name, and the line."""
    found: dict[str, str] = {}
    for path in sorted(CORE.glob("*.cpp")):
        if path.name in ("journal.cpp", "crash.cpp"):  # the steps themselves
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("//")[0]
            for pattern, steps in _STEPS.items():
                if re.search(rf"\b(tx|again){pattern}" if pattern.startswith(r"\.") else pattern, code):
                    found.update({f"{path.name}:{number} {step}": code.strip() for step in steps})
            for name in re.findall(r'CRASH_POINT\("([^"]+)"\)', code):
                found[f"{path.name}:{number} {name}"] = code.strip()
    return found
