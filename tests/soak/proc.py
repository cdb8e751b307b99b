"""What the kernel says of a process, for those who start drivers and for the drivers."""

from __future__ import annotations


def parent_of(pid: int) -> int:
    """Its parent's pid; 0 if there is no such process any more."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0
