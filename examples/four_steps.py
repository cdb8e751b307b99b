"""The four steps that make Shoal: put shared data, get it without a copy, change it, synchronise.

The driver, a task and an actor, three processes, work on one array. Each sees what the others changed, and
none of their additions is lost.
"""

import os

import numpy as np

import shoal

ADDITIONS = 1000


def add(ref: shoal.ObjectRef, array: np.ndarray) -> None:
    """Everybody's work. Without the lock, some of the additions would be lost."""
    for _ in range(ADDITIONS):
        with shoal.lock(ref):  # 4. synchronise: one writer at a time
            array += 1


@shoal.remote
def task(refs: list[shoal.ObjectRef]) -> str:
    """A ref in a list arrives as a ref: it can be got, and it can be locked."""
    array = shoal.get(refs[0])
    seen = int(array[0, 0])
    add(refs[0], array)
    return f"task in process {os.getpid()}: saw 255 + {seen - 255} in the corner"


@shoal.remote
class Actor:
    """Keeps the view it got: what others change later is seen through it, too."""

    def __init__(self, refs: list[shoal.ObjectRef]) -> None:
        self.ref = refs[0]
        self.array = shoal.get(self.ref)

    def work(self) -> str:
        seen = int(self.array[0, 0])
        add(self.ref, self.array)
        return f"actor in process {os.getpid()}: saw 255 + {seen - 255} in the corner"


shoal.init(num_cpus=2)
image = np.zeros((4, 6), np.int64)
ref = shoal.put(image, mutable=True)  # 1. put shared data
array = shoal.get(ref)  # 2. get it: a NumPy view of the shared memory, no copy
array[0, 0] = 255  # 3. change it: every participant sees the change
print(f"driver in process {os.getpid()}: wrote 255 into the corner")
actor = Actor.remote([ref])
working = [task.remote([ref]), actor.work.remote()]
add(ref, array)
print(*shoal.get(working), f"3 x {ADDITIONS} additions each, and the array is now", array, sep="\n")
assert array[0, 0] == 255 + 3 * ADDITIONS and (array.flat[1:] == 3 * ADDITIONS).all()
