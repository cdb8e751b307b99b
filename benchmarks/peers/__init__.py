"""The peers, and which rows each of them has.

A peer module defines a subclass of `Peer`: entering it starts what its loops need (a session, a pool),
`loops()` gives a function for each row. A row is listed for a peer here only if the peer's own means do the
same job; the coordinator reads this list without importing any of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.rows import IDEALS

if TYPE_CHECKING:
    from benchmarks.measure import Plan

ARRAY_WORDS = 100 * 1024 * 1024  # of 8 bytes: the array of Ray's "put gigabytes"


class Checked(NamedTuple):
    """Samples of a program, and a number that every peer must get alike."""

    samples: list[float]
    check: float


class Beside(NamedTuple):
    """Samples of a row, and of a physical reference that was measured in turns with it."""

    samples: list[float]
    reference: str
    reference_samples: list[float]


class Unavailable(Exception):
    """A peer cannot do a row here; the message says why."""


Loop = Callable[["Plan"], "list[float] | Checked | Beside"]


class Peer:
    """One way to do the work, with `cores` workers."""

    def __init__(self, cores: int) -> None:
        self.cores = cores

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End what was started."""

    def loops(self) -> dict[str, Loop]:
        """A function for each row, which measures it in the row's unit."""
        raise NotImplementedError


@dataclass(frozen=True)
class Spec:
    """Where a peer is, what it needs, and what it is compared in."""

    module: str
    cls: str
    package: str  # the distribution whose version is noted; "" for Python's own
    rows: tuple[str, ...]


_STARTUP = ("start", "processes", "rss", "pss", "shutdown")
_TASKS = ("tasks_sync", "tasks_async", "tasks_batch")
_ACTORS = ("actor_sync", "actor_async", "actor_nn", "actor_nn_arg", "async_actor_sync", "async_actor_async")
_PUT_GB = ("put_gb", "put_gb_written")
_LOCKS = ("lock_1", "lock_2", "lock_2_fair", "lock_4", "lock_4_fair")
_QUEUES = ("queue_one", "queue_lists")
_COUNTERS = ("counter_1", "counter_2", "counter_4")
_READERS = ("readers_1", "readers_2", "readers_4")
_CHANGES = (*_READERS, "seen_asleep", "versioned_get", *_QUEUES, "dict_set", "dict_get")
_PROGRAMS = ("numerical", "stateful", "costly_start")
_BUSY = ("numerical_busy", "stateful_busy", "costly_start_busy")
_ALL = (
    *_STARTUP, "idle_cpu", *_TASKS, "tasks_multi", "wait_1k", "wait_call", *_ACTORS, "get", "put", *_PUT_GB,
    "put_gb_multi", "get_10k_refs", *_LOCKS, *_COUNTERS, *_CHANGES, "queue_batch", "ring", *_PROGRAMS, *_BUSY,
)  # fmt: skip

PEERS: dict[str, Spec] = {
    "shoal": Spec("ray_like", "Shoal", "shoal", (*_ALL, "seen_spinning", "numerical_mutable")),
    "ray": Spec("ray_like", "Ray", "ray", _ALL),
    "multiprocessing": Spec(
        "multiprocess", "Multiprocessing", "",
        (*_STARTUP, "idle_cpu", *_TASKS, "actor_sync", "get", "put", *_PUT_GB, *_LOCKS, *_COUNTERS, "seen_spinning", *_CHANGES,
         *_PROGRAMS, *_BUSY),
    ),
    "multiprocessing, by hand": Spec("multiprocess", "ByHand", "", (*_PROGRAMS, *_BUSY)),
    "concurrent.futures": Spec("executors", "Futures", "", (*_STARTUP, *_TASKS, "wait_1k", "wait_call")),
    "joblib": Spec("executors", "Joblib", "joblib", (*_STARTUP, *_TASKS)),
    "xoscar": Spec("xoscar_pool", "Xoscar", "xoscar", (*_STARTUP, *_ACTORS)),
    "faster-fifo": Spec("sharing_processes", "FasterFifo", "faster_fifo", (*_QUEUES, "queue_batch")),
    "lmdb": Spec("sharing_processes", "Lmdb", "lmdb", ("dict_set", "dict_get")),
    "serial": Spec("serial", "Serial", "", (*_PROGRAMS, *IDEALS)),
}  # fmt: skip
PHYSICAL = "physical"
# What a reader compares with is the best of these, besides Ray; the others explain a figure.
RIVALS = ("multiprocessing", "multiprocessing, by hand", "concurrent.futures", "joblib", "xoscar", "faster-fifo", "lmdb")


def load(name: str, cores: int) -> Peer:
    """The peer of that name. Raises ImportError if it is not installed."""
    spec = PEERS.get(name) or Spec("physical", "Physical", "", ())
    module = importlib.import_module(f"benchmarks.peers.{spec.module}")
    peer: Peer = getattr(module, spec.cls)(cores)
    return peer
