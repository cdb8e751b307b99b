"""The group "sharing" with multiprocessing's own means, the queue of the package faster-fifo (written in C++), and lmdb.

lmdb (written in C) keeps a table in a file that all processes map; here it lies in memory, and nothing is synced.
"""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
from contextlib import contextmanager
from queue import Full
from typing import Any

import numpy as np

from benchmarks.measure import Plan, rates
from benchmarks.peers import Loop, Peer, sharing
from benchmarks.peers.increments import among_processes


@contextmanager
def _process(function: Any, *args: Any) -> Any:
    process = multiprocessing.Process(target=function, args=args, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _array(raw: Any, dtype: str) -> Any:
    return np.frombuffer(raw, dtype)


def _answer(theirs: Any, mine: Any) -> None:
    sharing.answer(_array(theirs, "q"), _array(mine, "q"))


def _publish(changed: Any, value: Any, count: int) -> None:
    def store(stamp: int) -> None:
        with changed:
            value.value = stamp
            changed.notify_all()

    sharing.publish(store, count)


def _rewrite(state: Any, lock: Any) -> None:
    array, number = _array(state, "d"), 0.0
    mine = array.copy()
    while True:
        number += 1
        mine[:1000] = number
        with lock:
            array[:] = mine


def _fill(queue: Any, batch: int) -> None:
    items = list(range(batch))
    while True:
        queue.put(items if batch else 1)


def loops() -> dict[str, Loop]:
    """What multiprocessing has."""
    return {
        "readers_1": lambda plan: _readers(1, plan),
        "readers_2": lambda plan: _readers(2, plan),
        "readers_4": lambda plan: _readers(4, plan),
        "seen_spinning": _seen,
        "seen_asleep": _woken,
        "versioned_get": _versioned,
        "queue_one": lambda plan: _queue(0, plan),
        "queue_lists": lambda plan: _queue(sharing.BATCH, plan),
        "dict_set": lambda plan: _dict(True, plan),
        "dict_get": lambda plan: _dict(False, plan),
    }


def _readers(processes: int, plan: Plan) -> list[float]:
    state: Any = multiprocessing.Array("d", len(sharing.table()))  # with its lock, the only one there is
    return among_processes(_read, state, processes, plan).rate()


def _read(state: Any, orders: Any, results: Any) -> None:
    results.put(0)
    results.put(sharing.read_all(state.get_lock(), _array(state.get_obj(), "d"), *orders.get()))


def _seen(plan: Plan) -> list[float]:
    mine, yours = (multiprocessing.RawArray("q", 1) for _ in range(2))
    with _process(_answer, mine, yours) as process:
        found = sharing.turns(_array(mine, "q"), _array(yours, "q"), plan)
        process.join()
        return found


def _woken(plan: Plan) -> list[float]:
    changed, value = multiprocessing.Condition(), multiprocessing.RawValue("q", 0)
    last = 0

    def next_stamp() -> int:
        nonlocal last
        with changed:
            changed.wait_for(lambda: value.value != last)
            last = value.value
        return int(last)

    with _process(_publish, changed, value, sharing.stamps(plan)):
        return sharing.delays(next_stamp, plan)


def _versioned(plan: Plan) -> list[float]:
    """A complete version is a copy made under the lock: nothing else keeps the writer from changing it meanwhile."""
    state: Any = multiprocessing.RawArray("d", sharing.STATE_BYTES // 8)
    lock, array = multiprocessing.Lock(), _array(state, "d")

    def read() -> Any:
        with lock:
            return array.copy()

    with _process(_rewrite, state, lock):
        while not array[0]:
            pass
        return rates(read, 1, plan)


def _queue(batch: int, plan: Plan) -> list[float]:
    queue: Any = multiprocessing.Queue(sharing.QUEUE_ROOM // (batch or 1))

    def get() -> int:
        item = queue.get()
        return len(item) if batch else 1

    with _process(_fill, queue, batch):
        return sharing.flow(get, plan)


def _dict(write: bool, plan: Plan) -> list[float]:
    with multiprocessing.Manager() as manager:
        values = manager.dict({"key": 0})

        def put_small() -> None:
            values["key"] = 0

        return rates(put_small if write else lambda: values["key"], 1, plan)


def _fill_fifo(queue: Any, batch: int, singly: bool) -> None:
    items: Any = list(range(batch)) if batch else 1
    put = queue.put_many if batch and singly else queue.put
    while True:
        try:
            put(items, timeout=10)
        except Full:
            pass


class FasterFifo(Peer):
    """Its queue between two processes."""

    def loops(self) -> dict[str, Loop]:
        return {
            "queue_one": lambda plan: self.queue(0, True, plan),
            "queue_batch": lambda plan: self.queue(sharing.BATCH, True, plan),
            "queue_lists": lambda plan: self.queue(sharing.BATCH, False, plan),
        }

    def queue(self, batch: int, singly: bool, plan: Plan) -> list[float]:
        import faster_fifo

        queue = faster_fifo.Queue(max_size_bytes=1 << 20)

        def get() -> int:
            if batch and singly:
                return len(queue.get_many(max_messages_to_get=batch, timeout=10))
            item = queue.get(timeout=10)
            return len(item) if batch else 1

        with _process(_fill_fifo, queue, batch, singly):
            return sharing.flow(get, plan)


class Lmdb(Peer):
    """Its table, in the memory of /dev/shm. A transaction for each operation, as each of the others is seen by all at once."""

    def __enter__(self) -> Lmdb:
        import lmdb

        self.folder = tempfile.TemporaryDirectory(prefix="shoal-bench-", dir="/dev/shm")
        self.table = lmdb.open(self.folder.name, map_size=1 << 24, writemap=True, sync=False, metasync=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.table.close()
        self.folder.cleanup()

    def loops(self) -> dict[str, Loop]:
        return {"dict_set": lambda plan: rates(self.set, 1, plan), "dict_get": self.measure_get}

    def set(self) -> None:
        with self.table.begin(write=True) as transaction:
            transaction.put(b"key", pickle.dumps(0))

    def get(self) -> Any:
        with self.table.begin() as transaction:
            return pickle.loads(transaction.get(b"key"))

    def measure_get(self, plan: Plan) -> list[float]:
        self.set()
        return rates(self.get, 1, plan)
