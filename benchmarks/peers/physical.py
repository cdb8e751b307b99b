"""What the machine can do, without any library: the limits that the other rows are held against."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Plan, rates, seconds
from benchmarks.peers import ARRAY_WORDS, Loop, Peer, Unavailable, sharing
from benchmarks.rows import ASLEEP, MEMCPY_ALL, PYTHON, SCATTERED, SPINNING

_SOURCE = Path(__file__).parent.parent / "physical.c"


class Physical(Peer):
    """memcpy into warm shared pages, a word passed between two processes, a bare interpreter."""

    def loops(self) -> dict[str, Loop]:
        return {
            ASLEEP: lambda plan: self.ping_pong("asleep", plan),
            SPINNING: lambda plan: self.ping_pong("spinning", plan),
            MEMCPY_ALL: self.memcpy,
            SCATTERED: self.scattered,
            PYTHON: lambda plan: seconds(_bare_python, 3),
        }

    def __enter__(self) -> Physical:
        self.folder = tempfile.TemporaryDirectory(prefix="shoal-bench-")
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()

    def ping_pong(self, how: str, plan: Plan) -> list[float]:
        """Round trips per second. Raises Unavailable without a compiler, or for spinning on a single core."""
        if how == "spinning" and len(os.sched_getaffinity(0)) < 2:
            raise Unavailable("two processes cannot spin on one core")
        return self.run(how, str(plan.slice_s), times=plan.slices)

    def memcpy(self, plan: Plan) -> list[float]:
        """GB/s of all cores together."""
        source = large_array(plan)
        return rates(copier(source, self.cores), source.nbytes / 1e9, plan)

    def scattered(self, plan: Plan) -> list[float]:
        """GB/s of copying records like those of the replay buffer from random places into one batch."""
        found = self.run(
            "scattered", str(plan.slice_s), str(math.prod(sharing.FRAME)), str(sharing.transitions(plan)), str(sharing.DRAWN)
        )
        return [rate / 1e9 for rate in found]

    def run(self, *arguments: str, times: int = 1) -> list[float]:
        """What the C program prints. Raises Unavailable without a compiler."""
        program = Path(self.folder.name) / "physical"
        if not program.exists():
            compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
            if compiler is None:
                raise Unavailable("there is no C compiler")
            subprocess.run([compiler, "-O2", "-std=gnu11", "-o", program, _SOURCE], check=True)
        output = [subprocess.check_output([str(program), *arguments], timeout=40) for _ in range(times)]
        return [float(line) for text in output for line in text.split()]


def large_array(plan: Plan, written: bool = False) -> NDArray[np.int64]:
    """What "put gigabytes" puts: NumPy zeros never written to, as in Ray's program, or such as were."""
    array = np.zeros(ARRAY_WORDS if plan.full else ARRAY_WORDS // 16, np.int64)
    if written:
        array[:] = 1
    return array


def copier(source: NDArray[np.int64], threads: int = 1) -> Callable[[], None]:
    """Copies an array into shared pages that were written before, which is what a put can do at best."""
    size = source.nbytes
    fd = os.memfd_create("shoal-bench")
    os.ftruncate(fd, size)
    shared = mmap.mmap(fd, size)
    os.close(fd)
    target = np.frombuffer(shared, np.uint8)
    target[:] = 1
    share = size // threads

    def copy(part: int) -> None:
        ctypes.memmove(target.ctypes.data + part * share, source.ctypes.data + part * share, share)

    def loop() -> None:
        if threads == 1:
            copy(0)
            return
        running = [threading.Thread(target=copy, args=(part,)) for part in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    return loop


def _bare_python() -> Any:
    # -S -E: what every program pays, whatever is installed or set on this machine
    return subprocess.run([sys.executable, "-S", "-E", "-c", "pass"], check=True)


def keep_busy() -> subprocess.Popen[bytes]:
    """A process that occupies one core until it is killed, or its parent dies."""
    code = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"
    busy = subprocess.Popen([sys.executable, "-S", "-E", "-c", code])
    time.sleep(0.1)  # until it runs
    return busy
