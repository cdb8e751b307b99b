"""Plain Python state that all participants share, without a server and without an actor.

    Counter   a number that changes by single instructions
    Value     one value of any kind
    Dict      a dict            List      a list
    Queue     first in, first out; bounded if wanted; blocks, times out, moves batches
    Ring      a replay buffer: the last N records, sampled in batches straight from shared memory

All can be passed to tasks and actors and kept in objects, and found by name: `Queue(name="work")`.
"""

from shoal.containers.counter import Counter
from shoal.containers.dict import Dict
from shoal.containers.list import List, Value
from shoal.containers.queue import Empty, Full, Queue
from shoal.containers.ring import Ring

__all__ = ["Counter", "Dict", "Empty", "Full", "List", "Queue", "Ring", "Value"]
