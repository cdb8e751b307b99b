"""The least time a program could take: as many processes as cores, each with a core's share of the work, all at once.

Nothing is handed over: the input is there by fork, the results are dropped. What is missing to the serial time over the
cores is what cores share (a clock, caches, memory, often the execution units), which no library can give back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def together(share: Callable[[int], object], cores: int, warm: Callable[[int], object] | None = None) -> float:
    """Seconds until `share(core)` is done in every one of `cores` processes; `warm(core)` runs in each before the clock starts.

    Raises RuntimeError if one of them fails.
    """
    pids, ends = [], []
    for core in range(cores):
        ready_read, ready_write = os.pipe()
        go_read, go_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                if warm is not None:
                    warm(core)
                os.write(ready_write, b"r")
                os.read(go_read, 1)
                share(core)
                os.write(ready_write, b"d")
                os._exit(0)
            finally:
                os._exit(1)
        os.close(ready_write)
        os.close(go_read)
        pids.append(pid)
        ends.append((ready_read, go_write))
    try:
        ready = [os.read(read, 1) for read, _ in ends]
        start = time.perf_counter()
        for _, write in ends:
            os.write(write, b"g")
        done = [os.read(read, 1) for read, _ in ends]
        seconds = time.perf_counter() - start
    finally:
        for pair in ends:
            for fd in pair:
                os.close(fd)
        for pid in pids:
            os.waitpid(pid, 0)
    if ready + done != [b"r"] * cores + [b"d"] * cores:
        raise RuntimeError("a process that did its share of the work failed")
    return seconds
