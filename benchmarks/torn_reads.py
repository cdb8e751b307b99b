"""Does a reader of a Versioned ever see half of a version? `python -m benchmarks.torn_reads [READS]`, a million by default.

One process publishes states of 100 MB as fast as it can, by `set` and by `update` in turn, each filled with its number. Two
others read the newest version and look whether 1,000 numbers from all over it, and every 10,000th time all of them, are
that number. Prints how many reads and versions there were; ends with
1 if any was torn.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

import shoal

WORDS = 100 * 1024 * 1024 // 8
READERS, EVERY = 2, 10_000


@shoal.remote(num_cpus=0)
def write(cell: Any, done: Any, words: int) -> int:
    mine, number = np.zeros(words), 0
    while done.value < READERS:
        number += 1
        if number % 2:
            mine[:] = number
            cell.set(mine)
        else:
            with cell.update() as draft:
                draft[:] = number
    return number


@shoal.remote(num_cpus=0)
def read(cell: Any, done: Any, reads: int, words: int) -> tuple[int, int]:
    """How many reads were torn, and how many different versions were seen."""
    places = np.linspace(0, words - 1, 1000).astype(int)
    torn, seen, last = 0, 0, -1
    cell.wait(newer_than=0)
    for number in range(reads):
        state, version = cell.get_with_version()
        looked = state if number % EVERY == 0 else state[places]
        torn += bool((looked != version).any()) or version < last  # nor may it go back
        seen += version != last
        last = version
    done.add()
    return torn, seen


def run(reads: int, words: int = WORDS) -> tuple[int, int, int]:
    """Reads, those that were torn, versions published."""
    cell, done = shoal.Versioned(np.zeros(words)), shoal.Counter()
    writing = write.remote(cell, done, words)
    found = shoal.get([read.remote(cell, done, reads // READERS, words) for _ in range(READERS)])
    return reads // READERS * READERS, sum(torn for torn, _ in found), shoal.get(writing)


def main() -> int:
    reads = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    begun = time.perf_counter()
    with shoal.init(num_cpus=READERS + 1):
        done, torn, versions = run(reads)
    print(f"{done:,} reads beside {versions:,} versions of 100 MB: {torn} torn; {time.perf_counter() - begun:.0f} s")
    return 1 if torn else 0


if __name__ == "__main__":
    sys.exit(main())
