"""Every row of the comparison: what it is called, its unit, its goal, and the physical limit it is held
against.

The names are those of `ray microbenchmark` where Ray has the row; `key` is what `--only` takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["startup", "tasks", "actors", "objects", "memory", "sharing", "programs", "busy"]
GROUPS: tuple[Group, ...] = ("startup", "tasks", "actors", "objects", "memory", "sharing", "programs", "busy")
# What a peer measures in one session, before the next peer has its turn. The programs compute, each for a second or so, and a
# core of a shared machine is fast and slow for minutes: they have two places in a round, the first of them for CLOSE alone.
PROGRAMS: tuple[Group, ...] = ("programs",)
STAGES: tuple[tuple[Group, ...], ...] = (
    ("startup",), ("tasks", "actors"), PROGRAMS, ("objects", "memory"), ("sharing",), ("programs", "busy"),
)  # fmt: skip
CLOSE = ("shoal", "ray", "multiprocessing, by hand")  # who is so close in the programs that single samples do not tell

# Rows of the pseudo-peer "physical", which every group measures first; see physical.py.
ASLEEP, SPINNING = "ping-pong, asleep", "ping-pong, spinning"
MEMCPY, MEMCPY_WRITTEN, MEMCPY_ALL = "memcpy of zeros", "memcpy", "memcpy of zeros, every core"
SCATTERED = "memcpy of scattered records"
PYTHON = "bare python"
IDEALS = ("ideal numerical", "ideal stateful", "ideal costly_start")  # rows of the peer "serial"
REFERENCE_UNITS = {
    ASLEEP: "/s", SPINNING: "/s", MEMCPY: "GB/s", MEMCPY_WRITTEN: "GB/s", MEMCPY_ALL: "GB/s", PYTHON: "s",
    SCATTERED: "GB/s", **dict.fromkeys(IDEALS, "s"),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `goal` is in the row's unit. `goal_of_reference` is a share of the physical reference; `goal_peer` is a
    peer that must be passed. `reference` is a physical row, or an "ideal" one: what bare processes, one
    per core, need for a program's work.
    """

    key: str
    title: str
    group: Group
    unit: str
    goal: float | None = None
    higher: bool = True
    reference: str | None = None
    goal_of_reference: float | None = None
    goal_peer: str | None = None
    note: str = ""
    limit_s: float = 45.0  # the process that measures it is ended after so long without a result
    once: bool = False  # measured a single time
    once_for: tuple[str, ...] = ()  # the same for these peers, which take long for it and are behind


_CALL = SPINNING
_SLOW = ("ray", "multiprocessing")

_FAIR = "the least that a process got, of an equal share"

ROWS: tuple[Row, ...] = (
    Row(
        "start", "import + init + first task", "startup", "s", 0.25, False, PYTHON,
        note="in a fresh interpreter, whose own start is not counted (the reference is that start)",
    ),
    Row("processes", "processes, 2 workers, idle", "startup", "", 4, False, note="with the program itself"),
    Row(
        "rss", "resident memory, 2 workers, idle (RSS)", "startup", "MB", 120, False,
        note="summed over the processes, so shared pages count several times; the goal was set for this sum",
    ),
    Row("pss", "the same, shared pages counted once (PSS)", "startup", "MB", None, False),
    Row(
        "idle_cpu", "CPU time of an idle session", "startup", "ms/s", 0.0, False, once=True,
        note="all processes together, during ten seconds in which nothing is asked of them; in the first round only",
    ),
    Row("shutdown", "shutdown", "startup", "s", 0.1, False, PYTHON),
    Row("tasks_sync", "single client tasks sync", "tasks", "/s", 100_000, reference=_CALL),
    Row("tasks_async", "single client tasks async", "tasks", "/s", 250_000, reference=_CALL),
    Row(
        "tasks_batch", "single client tasks and get batch", "tasks", "/s", 150, reference=_CALL,
        note="a batch is 1,000 tasks",
    ),
    Row(
        "tasks_multi", "multi client tasks async", "tasks", "/s", 200_000, reference=_CALL, limit_s=90,
        note="4 actors submit 2,500 tasks each (Ray's program: 10,000, which takes it half a minute)",
    ),
    Row(
        "wait_1k", "single client wait 1k refs", "tasks", "/s", 1_000, reference=_CALL,
        note="Ray's loop submits 1,000 tasks and waits 1,000 times on what is left of the list, so half a "
        "million references are looked at; 1,000 loops per second would leave a microsecond for a task, its wait "
        "and 500 references, so the next row shows what one call takes",
    ),
    Row(
        "wait_call", "one wait on 1k finished refs", "tasks", "/s", 1_000, reference=_CALL,
        note="wait(refs, num_returns=1000) on 1,000 finished tasks",
    ),
    Row("actor_sync", "1:1 actor calls sync", "actors", "/s", 100_000, reference=_CALL),
    Row("actor_async", "1:1 actor calls async", "actors", "/s", 250_000, reference=_CALL),
    Row("actor_nn", "n:n actor calls async", "actors", "/s", 250_000, reference=_CALL),
    Row("actor_nn_arg", "n:n actor calls with arg async", "actors", "/s", 100_000, reference=_CALL),
    Row("async_actor_sync", "1:1 async-actor calls sync", "actors", "/s", 30_000, reference=_CALL),
    Row("async_actor_async", "1:1 async-actor calls async", "actors", "/s", 100_000, reference=_CALL),
    Row("get", "single client get calls", "objects", "/s", 1_000_000, reference=_CALL),
    Row("put", "single client put calls", "objects", "/s", 500_000, reference=_CALL),
    Row(
        "put_gb", "single client put gigabytes", "objects", "GB/s", None, True, MEMCPY, 0.9,
        note="NumPy zeros of 839 MB, never written to, so that one small page of zeros stands for all and is "
        "read from the cache. Ray's program counts them as 0.8 GB, this one as what they are. The reference is measured in turns "
        "with it",
    ),
    Row(
        "put_gb_written", "the same, an array written before", "objects", "GB/s", None, True,
        MEMCPY_WRITTEN, 0.9, note="what a user's data are like",
    ),
    Row(
        "put_gb_multi", "multi client put gigabytes", "objects", "GB/s", None, True, MEMCPY_ALL,
        note="10 tasks put 10 new arrays of 84 MB each",
    ),
    Row(
        "get_10k_refs", "single client get object containing 10k refs", "objects", "/s", 1_000,
        reference=_CALL, note="each of the 10,000 references is made and dropped again",
    ),
    Row(
        "lock_1", "locked increment, uncontended", "memory", "/s", 3_000_000, reference=_CALL,
        note="a `with lock:` around `+= 1` on an element of shared memory; in Ray a call of an actor",
    ),
    Row(
        "lock_2", "locked increment, 2 processes", "memory", "/s", None, True, _CALL, None, "multiprocessing",
        note="all processes together; the goal is what multiprocessing.Value does",
    ),
    Row("lock_2_fair", "fairness, 2 processes", "memory", "%", note=_FAIR),
    Row(
        "lock_4", "locked increment, 4 processes", "memory", "/s", None, True, _CALL, None, "multiprocessing",
        note="as with 2",
    ),
    Row("lock_4_fair", "fairness, 4 processes", "memory", "%", note=_FAIR),
    Row("counter_1", "shared counter, uncontended", "sharing", "/s", 3_000_000, reference=_CALL, note="`counter.add()`"),
    Row(
        "counter_2", "shared counter, 2 processes", "sharing", "/s", None, True, _CALL, None, "multiprocessing",
        note="all processes together; the goal is what multiprocessing.Value does, under its lock",
    ),
    Row("counter_4", "shared counter, 4 processes", "sharing", "/s", None, True, _CALL, None, "multiprocessing", note="as with 2"),
    Row(
        "seen_spinning", "a change is seen, spinning", "sharing", "us", 2, False,
        note="half of there and back, between two Python programs that look at an array all the time",
    ),
    Row(
        "seen_asleep", "a change is seen, asleep", "sharing", "us", 50, False,
        note="median from the moment before a process publishes until a sleeping reader has the value: `Versioned.wait` and "
        "`get`; multiprocessing.Condition; a call of an async actor that waits",
    ),
    Row(
        "versioned_get", "newest of 100 MB, beside a writer", "sharing", "/s", 300_000,
        note="`Versioned.get` while another process publishes as fast as it can; multiprocessing: a copy under a lock; Ray: the "
        "ref from an actor, and get of it",
    ),
    Row(
        "queue_one", "queue, one item at a time", "sharing", "/s", 100_000,
        note="from one process to another; the queue holds 10,000",
    ),
    Row(
        "queue_batch", "queue, 100 items at a time", "sharing", "/s", 300_000,
        note="items per second, each of which could be got alone; multiprocessing has no call for that",
    ),
    Row("queue_lists", "queue, lists of 100 items", "sharing", "/s", 300_000, note="items per second; each list is one item"),
    Row(
        "readers_1", "reads under a lock, 1 process", "sharing", "/s", reference=_CALL,
        note="a sum of 4,096 numbers in shared mode, `with lock.shared():`; multiprocessing has one lock for readers and writers; "
        "Ray: a call of an actor",
    ),
    Row(
        "readers_2", "reads under a lock, 2 processes", "sharing", "/s", None, True, _CALL, None, "multiprocessing",
        note="all processes together, on the same lock; readers do not wait for one another",
    ),
    Row(
        "readers_4", "reads under a lock, 4 processes", "sharing", "/s", None, True, _CALL, None, "multiprocessing",
        note="as with 2",
    ),
    Row(
        "dict_set", "shared dict, set", "sharing", "/s",
        note="multiprocessing: Manager().dict; Ray: an actor with a dict; lmdb: a transaction for each",
    ),
    Row("dict_get", "shared dict, get", "sharing", "/s", note="as before"),
    Row(
        "ring", "prioritised sample of 256 frames", "sharing", "GB/s", None, True, SCATTERED, 0.9, limit_s=90,
        note="of 84x84x4 bytes, of 100,000, into a batch made before; the reference copies records of that size from random "
        "places, in C",
    ),
    Row(
        "numerical", "program: numerical", "programs", "s", 0.33, False, "ideal numerical",
        note="convolve2d of a 3000x3000 image, a filter per core. The ideals are bare forked processes, one per core, "
        "that do their share at the same time and hand nothing over: what two of them lose against serial code is the machine's",
    ),
    Row(
        "numerical_mutable", "the same, the image put as mutable", "programs", "s", 0.33, False, "ideal numerical",
        note="Shoal only, `put(image, mutable=True)`: SciPy copies an array that is read-only, which each task of the row above "
        "pays for, with Ray, too. By hand the workers share memory that may be written",
    ),
    Row(
        "stateful", "program: stateful", "programs", "s", 0.37, False, "ideal stateful",
        note="prefix counts of 10,000-word documents, an actor per core",
    ),
    Row(
        "costly_start", "program: expensive start-up", "programs", "s", 1.15, False, "ideal costly_start",
        note="150 MB of weights, five rounds of a 256-row batch per core; serial code and the pool make them "
        "for every batch, as when Ray was introduced; the ideal makes them once",
    ),
    Row("numerical_busy", "program: numerical, one core busy", "busy", "s", None, False, "ideal numerical", once_for=_SLOW),
    Row("stateful_busy", "program: stateful, one core busy", "busy", "s", None, False, "ideal stateful", once_for=_SLOW),
    Row(
        "costly_start_busy", "program: expensive start-up, one core busy", "busy", "s", None, False,
        "ideal costly_start", once_for=_SLOW,
        note="the ideal of these three is that of a machine with nothing else to do. Ray and the pool measure them in "
        "the first round only",
    ),
)  # fmt: skip

BY_KEY = {row.key: row for row in ROWS}


def select(names: str) -> tuple[Row, ...]:
    """The rows for `--only`: keys, groups, or parts of titles, separated by commas. Raises ValueError."""
    if not names:
        return ROWS
    chosen: set[str] = set()
    for name in (part.strip() for part in names.split(",")):
        found = [row for row in ROWS if name in (row.key, row.group, row.title)]
        found = found or [row for row in ROWS if name and name.lower() in row.title.lower()]
        if not found:
            known = ", ".join(row.key for row in ROWS)
            raise ValueError(f"no row is called {name!r}; the rows are {known}; the groups {', '.join(GROUPS)}")
        chosen.update(row.key for row in found)
    return tuple(row for row in ROWS if row.key in chosen)
