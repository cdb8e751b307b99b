"""A fresh interpreter from its first import to its exit: how long, how many processes, how much memory."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from benchmarks import processes

LIMIT_S = 60.0


class _Answers:
    """Lines that begin with "measured", with a limit on how long they may take."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.fd = pipe.fileno()
        self.text = b""

    def next(self) -> list[float]:
        deadline = time.monotonic() + LIMIT_S
        while True:
            line, newline, rest = self.text.partition(b"\n")
            if newline:
                self.text = rest
                if line.startswith(b"measured "):
                    return [float(word) for word in line.split()[1:]]
                continue
            if not select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"no answer within {LIMIT_S:.0f} s")
            data = os.read(self.fd, 65536)
            if not data:
                raise EOFError("it ended without an answer")
            self.text += data


def measure(name: str, idle_s: float, environment: dict[str, str]) -> dict[str, Any]:
    """One life of a session: {row: value}, and in `parts` the seconds of import, init and first task.

    Args:
        idle_s: for how long the idle session's CPU time is counted; 0 leaves that row out.
        environment: of the interpreter.

    Raises OSError, EOFError or TimeoutError if the program fails.
    """
    command = [sys.executable, str(Path(__file__).with_name("startup_program.py")), name]
    child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin is not None and child.stdout is not None
    try:
        answers = _Answers(child.stdout)
        parts = answers.next()
        pids = _settled(child.pid)
        found: dict[str, Any] = {"parts": parts, "start": sum(parts), "processes": float(len(pids))}
        found.update(processes.memory(pids))
        if idle_s:
            before, begun = processes.cpu_seconds(pids), time.monotonic()
            time.sleep(idle_s)
            found["idle_cpu"] = 1000 * (processes.cpu_seconds(pids) - before) / (time.monotonic() - begun)
        child.stdin.write(b"\n")
        child.stdin.flush()
        found["shutdown"] = answers.next()[0]
        child.wait(10)
        return found
    finally:
        child.stdin.close()
        child.stdout.close()
        processes.end(child.pid)
        child.wait()
        processes.end_orphans()


def _settled(root: int) -> list[int]:
    """The processes of a session, once no more come for a second (at most ten are waited for)."""
    pids = processes.tree(root)
    same_since = begun = time.monotonic()
    while time.monotonic() - same_since < 1.0 and time.monotonic() - begun < 10:
        time.sleep(0.05)
        now = processes.tree(root)
        if sorted(now) != sorted(pids):
            pids, same_since = now, time.monotonic()
    return pids
