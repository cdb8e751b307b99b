"""`ray.util.queue`: the queue of `shoal.Queue`, which needs no actor."""

from shoal.containers.queue import Empty, Full, Queue

__all__ = ["Empty", "Full", "Queue"]
