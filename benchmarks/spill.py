"""How fast spilling and restoring are, compared with plain sequential writing and reading on the same file system.

    python benchmarks/spill.py [--directory DIR] [--arena MB] [--object MB] [--rounds N]

Each round does both, one after the other: a plain file of the arena's size is written in pieces of the objects' size, flushed to
the disk, dropped from the page cache and read; then as much is spilled, flushed, dropped and restored. Printed are the medians
and the ratio. Every figure ends with the data on the disk, or begins with it there and not in the page cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator

import numpy as np

import shoal
from shoal import _core

MB = 1 << 20


def forget(fd: int) -> None:
    """Everything is on the disk, and nothing of it in the page cache."""
    os.fdatasync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def plain(directory: str, piece: np.ndarray, count: int) -> tuple[float, float]:
    """Seconds for writing and for reading `count` pieces, one after the other."""
    fd, path = tempfile.mkstemp(dir=directory)
    os.unlink(path)
    start = time.perf_counter()
    for i in range(count):
        os.pwrite(fd, piece, i * piece.nbytes)
    os.fdatasync(fd)
    written = time.perf_counter() - start
    forget(fd)
    start = time.perf_counter()
    for i in range(count):
        if os.preadv(fd, [piece], i * piece.nbytes) != piece.nbytes:
            raise OSError("a short read")
    read = time.perf_counter() - start
    os.close(fd)
    return written, read


def spill_files(directory: str) -> Iterator[int]:
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith(os.path.realpath(directory) + "/"):
                yield int(name)
        except OSError:
            pass


def through_shoal(fd: int, piece: np.ndarray, count: int) -> tuple[float, float]:
    """The same for objects that leave the arena and come back."""
    refs = [shoal.put(piece) for _ in range(count)]
    start = time.perf_counter()
    if _core._spill(count * piece.nbytes) < count * piece.nbytes:
        raise RuntimeError("not everything was spilled")
    os.fdatasync(fd)
    written = time.perf_counter() - start
    forget(fd)
    start = time.perf_counter()
    for ref in refs:
        shoal.get(ref)
    return written, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", default=tempfile.gettempdir())
    parser.add_argument("--arena", type=int, default=2048, help="MB that are written and read each time")
    parser.add_argument("--object", type=int, default=16, help="MB of an object")
    parser.add_argument("--rounds", type=int, default=3)
    settings = parser.parse_args()
    piece = np.random.default_rng(1).integers(0, 255, settings.object * MB, np.uint8)
    count = settings.arena // settings.object
    size = count * piece.nbytes
    times: dict[str, list[tuple[float, float]]] = {"plain": [], "shoal": []}
    directory = tempfile.mkdtemp(dir=settings.directory)
    try:
        with shoal.init(num_cpus=1, object_store_memory=size + size // 8, spill_directory=directory):
            [fd] = spill_files(directory)
            for _ in range(settings.rounds):
                times["plain"].append(plain(directory, piece, count))
                times["shoal"].append(through_shoal(fd, piece, count))
    finally:
        os.rmdir(directory)
    print(f"{count} objects of {settings.object} MB in {settings.directory}, {settings.rounds} rounds, median (slowest to fastest)")
    for at, what in enumerate(("write", "read")):
        speeds = {who: [size / t[at] / MB for t in found] for who, found in times.items()}
        middle = {who: statistics.median(found) for who, found in speeds.items()}
        texts = [f"{who} {middle[who]:7.0f} MB/s ({min(found):.0f} to {max(found):.0f})" for who, found in speeds.items()]
        print(f"{what:<6} {'   '.join(texts)}   ratio {middle['shoal'] / middle['plain']:.2f}")


if __name__ == "__main__":
    main()
