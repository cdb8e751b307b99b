"""Guests that are killed at any moment, by the dozen, and what they share with those who live on."""

from __future__ import annotations

import os

import numpy as np
import pytest

import shoal
from conftest import audit, until
from shoal import _core
from shoal.exceptions import LockHolderDied

pytest_plugins = ["peers"]

BUSY = """
total = shoal.Counter(name="total")
cells = shoal.Dict(name="cells")
queue = shoal.Queue(name="queue")
array, lock = shoal.get(cells["array"]), shoal.lock(cells["array"])
step = shoal.remote(lambda x: x.sum())


@shoal.remote
class Adder:
    def add(self, x):
        return x + 1


def work():
    for i in range(10**9):
        try:
            with lock:
                array[0] += 1
                array[1] += 1
        except shoal.exceptions.LockHolderDied:
            lock.recover(lambda: array.__setitem__(1, array[0]))  # itself may be killed in there
        refs = [shoal.put(np.full(20_000, i)), shoal.put(str(i))]
        queue.put(refs)
        cells[str(i % 7)] = refs[0]
        if shoal.get(step.remote(refs[0])) != 20_000 * i:
            os._exit(9)
        if i % 5 == 0 and shoal.get(Adder.remote().add.remote(i)) != i + 1:
            os._exit(9)
        while queue.qsize() > 20:
            queue.get()
        total.add(1)
"""


def test_busy_guests_are_killed(home, peer):
    shoal.init(num_cpus=2, session_name="here", object_store_memory=256 << 20)
    total, cells, queue = shoal.Counter(name="total"), shoal.Dict(name="cells"), shoal.Queue(name="queue")
    cells["array"] = shoal.put(np.zeros(2), mutable=True)
    for round_ in range(6):
        crowd = [peer("here") for _ in range(2)]
        for one in crowd:
            one(BUSY)
            one.start("work()")
        goal = int(total) + 3 + 2 * round_
        until(lambda goal=goal: int(total) >= goal)
        for one in crowd:
            assert one.process.poll() is None
            one.kill()
    until(lambda: not any(p["role"] == _core.GUEST for p in _core.processes()))
    lock, array = shoal.lock(cells["array"]), shoal.get(cells["array"])
    try:
        with lock:
            assert array[0] == array[1] >= int(total)
    except LockHolderDied:
        assert 0 <= array[0] - array[1] <= 1
        assert lock.recover()
    assert _core.statistics()["deaths"] >= 12
    while queue.qsize():
        queue.get()
    cells.clear()
    del lock, array
    for space in (2, 4, 5):  # what was asked for by name
        for name, handle in _core.name_list(space):
            _core.name_remove(space, name, handle)
    del total, cells, queue
    audit()


def test_a_guest_reads_what_was_spilled(home, peer, tmp_path):
    shoal.init(num_cpus=1, session_name="here", object_store_memory=64 << 20, spill_directory=str(tmp_path))
    shared = shoal.List(name="shared")
    for i in range(6):
        shared.append(shoal.put(np.full(2_500_000, i)))  # 20 MB each
    assert _core.statistics()["spilled_bytes"] > 0
    guest = peer("here")
    assert guest("[int(shoal.get(ref)[-1]) for ref in shoal.List(name='shared')]") == list(range(6))
    guest("shoal.List(name='shared').append(shoal.put(np.full(2_500_000, 6)))")
    assert int(shoal.get(shared[6])[0]) == 6 and int(shoal.get(shared[0])[0]) == 0
    guest.kill()
    until(lambda: not any(p["role"] == _core.GUEST for p in _core.processes()))
    assert [int(shoal.get(ref)[5]) for ref in shared] == list(range(7))


def test_the_runtime_directory_is_preferred(home, peer, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert shoal.init(num_cpus=1, session_name="here")["address"] == f"{tmp_path}/shoal/here/socket"
    assert peer("here")("shoal.get(shoal.put(1))") == 1
    assert not list(home.iterdir())
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert peer().error("shoal.init('here')").kind == "SessionNotFoundError"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    other = peer(env={**os.environ, "XDG_RUNTIME_DIR": ""})
    other("shoal.init(num_cpus=1, session_name='elsewhere')")
    assert peer("elsewhere")("shoal.get(shoal.put(1))") == 1  # in the temporary folder, where it is looked for too
    with pytest.raises(shoal.exceptions.SessionExistsError):
        shoal.shutdown()
        shoal.init(num_cpus=1, session_name="elsewhere")
    assert not list(tmp_path.iterdir())
