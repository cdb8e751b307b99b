"""The three programs without any parallelism."""

from __future__ import annotations

from benchmarks.peers import Loop, Peer
from benchmarks.programs import serial_loops


class Serial(Peer):
    def loops(self) -> dict[str, Loop]:
        return serial_loops(self.cores)
