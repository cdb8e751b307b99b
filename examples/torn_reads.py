"""What a reader may see of a change that is being made: without a lock, with one.

A writer task changes an array from all 1 to all 2 in two halves, and stays in between until the driver has looked.
Two counters say whose turn it is, so that the program does the same each time.
"""

from typing import Any

import numpy as np

import shoal

SIZE = 8


def until(counter: Any, value: int) -> None:
    """Wait for another process; a Counter is read without a lock."""
    while counter.value < value:
        pass


@shoal.remote
def change(refs: list[shoal.ObjectRef], turn: Any, to: int) -> None:
    array = shoal.get(refs[0])
    with shoal.lock(refs[0]):
        array[: SIZE // 2] = to
        turn.add()  # half is done
        until(turn, 2)  # the driver has looked
        array[SIZE // 2 :] = to


shoal.init(num_cpus=2)
ref = shoal.put(np.ones(SIZE, np.int64), mutable=True)
array = shoal.get(ref)

turn = shoal.Counter()
writing = change.remote([ref], turn, 2)
until(turn, 1)
seen = array.copy()  # no lock: the writer's lock does not keep anybody from reading
turn.add()
shoal.get(writing)
print("a reader without the lock saw", seen, "- half of the change")
assert seen.tolist() == [2] * (SIZE // 2) + [1] * (SIZE // 2)

turn = shoal.Counter()
writing = change.remote([ref], turn, 3)
until(turn, 1)
taken = shoal.lock(ref).acquire(blocking=False)
turn.add()
with shoal.lock(ref):  # waits until the writer is done
    seen = array.copy()
print("a reader with the lock", "got it at once" if taken else "had to wait", "and saw", seen, "- all of it")
assert not taken and seen.tolist() == [3] * SIZE
