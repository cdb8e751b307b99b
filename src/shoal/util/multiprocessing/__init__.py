"""`multiprocessing.Pool` on actors, under the name it has in `ray.util.multiprocessing`."""

from multiprocessing import JoinableQueue, TimeoutError

from shoal.util.multiprocessing.pool import Pool

__all__ = ["JoinableQueue", "Pool", "TimeoutError"]
