"""Ring: what is sampled is whole, also while it is written and after its producer was killed."""

import os
import signal
import threading

import numpy as np
import pytest

import shoal
from conftest import until
from shoal import _core

pytestmark = pytest.mark.usefixtures("session")

FIELDS = {"obs": ((32,), "int64"), "reward": ((), "int64")}


def record(i):
    return {"obs": np.full(32, i), "reward": i}


def test_it_keeps_the_last_records():
    ring = shoal.Ring(10, FIELDS)
    assert len(ring) == 0
    with pytest.raises(IndexError):
        ring.sample(1)
    places = [ring.append(record(i)) for i in range(25)]
    assert places == [i % 10 for i in range(25)]
    assert len(ring) == 10 and ring.statistics() == {"length": 10, "capacity": 10, "appended": 25}
    batch = ring.sample(1000, rng=np.random.default_rng(0))
    assert set(batch["reward"]) == set(range(15, 25))
    assert (batch["obs"] == batch["reward"][:, None]).all()
    assert (batch["_place"] == batch["reward"] % 10).all()


def test_extend_wraps_around():
    ring = shoal.Ring(8, FIELDS)
    for start in (0, 5, 10):
        ring.extend(obs=np.repeat(np.arange(start, start + 5), 32).reshape(5, 32), reward=np.arange(start, start + 5))
    batch = ring.sample(500, rng=np.random.default_rng(0))
    assert set(batch["reward"]) == set(range(7, 15)) and (batch["obs"] == batch["reward"][:, None]).all()
    with pytest.raises(ValueError):
        ring.extend(obs=np.zeros((9, 32), int), reward=np.zeros(9, int))


def test_a_batch_can_be_filled_again():
    ring = shoal.Ring(8, FIELDS)
    ring.append(record(3))
    batch = ring.sample(4)
    again = ring.sample(4, out=batch)
    assert again is batch and (again["reward"] == 3).all()


def test_priorities_are_followed():
    ring = shoal.Ring(4, FIELDS, prioritized=True)
    for i in range(4):
        ring.append(record(i), priority=1)
    ring.update_priorities([0, 1, 2, 3], [1, 2, 3, 4])
    batch = ring.sample(20_000, prioritized=True, rng=np.random.default_rng(1))
    share = np.bincount(batch["reward"], minlength=4) / 20_000
    assert np.allclose(share, [0.1, 0.2, 0.3, 0.4], atol=0.02)
    assert np.allclose(batch["_probability"], (batch["reward"] + 1) / 10)
    with pytest.raises(ValueError):
        ring.update_priorities([0], [0])


def test_producers_in_several_processes_and_a_reader_meanwhile():
    @shoal.remote
    def produce(ring, k, n):
        for i in range(n):
            ring.append(record(k * n + i))

    ring = shoal.Ring(64, FIELDS, prioritized=True)
    ring.append(record(0))
    calls = [produce.remote(ring, k, 1000) for k in range(2)]
    while True:
        done = len(shoal.wait(calls, num_returns=2, timeout=0)[0]) == 2
        batch = ring.sample(16, prioritized=True)
        assert (batch["obs"] == batch["reward"][:, None]).all()
        if done:
            break
    shoal.get(calls)
    assert ring.statistics()["appended"] == 2001
    tree = ring._tree
    half = len(tree) // 2
    assert np.allclose(tree[1:half], tree[2 : 2 * half : 2] + tree[3 : 2 * half : 2])


def test_a_record_cut_short_is_never_sampled():
    @shoal.remote(max_retries=0, num_cpus=0)
    def produce(ring):
        i = 0
        while True:
            ring.append(record(i))
            i += 1

    ring = shoal.Ring(16, FIELDS, prioritized=True)
    for _ in range(8):
        ref = produce.remote(ring)
        before = ring.statistics()["appended"]
        until(lambda before=before: ring.statistics()["appended"] > before + 200)
        shoal.cancel(ref, force=True)
        with pytest.raises(shoal.exceptions.ShoalError):
            shoal.get(ref, timeout=30)
        ring.append(record(7))  # the ring's lock works again, whatever its holder left
        batch = ring.sample(64, prioritized=True)
        assert (batch["obs"] == batch["reward"][:, None]).all()


class Slow:
    """A value that numpy asks for in the middle of the record, and gets when it may."""

    def __init__(self, value):
        self.value, self.asked, self.may = value, threading.Event(), threading.Event()

    def __int__(self):
        self.asked.set()
        assert self.may.wait(60)
        return self.value


@pytest.mark.parametrize("batch", [False, True])
def test_a_producer_that_is_lapped_spoils_nothing(batch):
    ring = shoal.Ring(4, FIELDS, prioritized=True)
    slow = Slow(1)
    writer = threading.Thread(target=lambda: ring.append(obs=np.full(32, 1), reward=slow))
    writer.start()
    assert slow.asked.wait(60)
    for i in range(10, 30, 3):  # several rounds
        if batch:
            ring.extend(obs=np.repeat(np.arange(i, i + 3), 32).reshape(3, 32), reward=np.arange(i, i + 3))
        else:
            for k in range(i, i + 3):
                ring.append(record(k))
        sampled = ring.sample(50)
        assert (sampled["obs"] == sampled["reward"][:, None]).all() and 1 not in sampled["reward"]
    slow.may.set()
    writer.join()
    sampled = ring.sample(200)
    assert (sampled["obs"] == sampled["reward"][:, None]).all() and 1 in sampled["reward"]
    assert ring.statistics()["appended"] == 22
    ring.extend(obs=np.repeat(np.arange(4), 32).reshape(4, 32), reward=np.arange(4))
    assert set(ring.sample(200)["reward"]) == {0, 1, 2, 3}


def test_a_record_that_raises_leaves_its_place_to_others():
    ring = shoal.Ring(2, FIELDS)
    for _ in range(5):
        with pytest.raises(ValueError):
            ring.append(obs=np.zeros(32), reward="no number")
        with pytest.raises(ValueError):
            ring.extend(obs=np.zeros((2, 31)), reward=np.zeros(2))
    with pytest.raises(IndexError):
        ring.sample(1)
    ring.append(record(1))
    ring.append(record(2))
    assert set(ring.sample(100)["reward"]) == {1, 2}


def test_the_place_of_a_killed_producer_is_used_again():
    class Killer:
        def __int__(self):
            os.kill(os.getpid(), signal.SIGKILL)

    @shoal.remote(max_retries=0)
    def produce(ring):
        ring.append(obs=np.full(32, 5), reward=Killer())

    ring = shoal.Ring(1, FIELDS)
    ring.append(record(1))
    for i in range(3):
        with pytest.raises(shoal.exceptions.WorkerCrashedError):
            shoal.get(produce.remote(ring), timeout=60)
        with pytest.raises(IndexError):
            ring.sample(1)
        ring.append(record(i))
        assert ring.sample(1)["reward"] == [i]


def test_bad_arguments():
    with pytest.raises(ValueError):
        shoal.Ring(0, FIELDS)
    with pytest.raises(ValueError):
        shoal.Ring(3, {})
    ring = shoal.Ring(3, FIELDS)
    with pytest.raises(KeyError, match="reward"):
        ring.append(obs=np.zeros(32))
    ring.append(record(1))
    with pytest.raises(ValueError, match="prioritized=True"):
        ring.sample(1, prioritized=True)


@pytest.mark.parametrize("shape", [(), (3,), (1000, 7)])
def test_gathering(shape):
    array = np.random.default_rng(1).integers(0, 99, (50, *shape))
    places = np.random.default_rng(2).integers(0, 50, 20)
    out = np.empty((20, *shape), array.dtype)
    _core.ring_gather(array, places, out)
    assert (out == array[places]).all()
    _core.ring_gather(array, places[:0], out[:0])
    for bad in (-1, 50):
        with pytest.raises(IndexError):
            _core.ring_gather(array, np.array([bad]), out[:1])
    for wrong in (out[:19], out.astype("int16")):
        with pytest.raises(ValueError, match="shape"):
            _core.ring_gather(array, places, wrong)
    out.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        _core.ring_gather(array, places, out)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 127, 128, 28224])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_gathering_records_of_any_size_and_number(size, count):
    """Each record in its row, also where the last has no partner or ends within a cache line, and nothing beside the batch."""
    array = np.random.default_rng(1).integers(0, 256, (9, size), np.uint8)
    places = np.random.default_rng(2).integers(0, 9, count)
    memory = np.full((count + 2) * size, 77, np.uint8)
    out = memory[size:-size].reshape(count, size)
    _core.ring_gather(array, places, out)
    assert (out == array[places]).all()
    assert (memory[:size] == 77).all() and (memory[-size:] == 77).all()


@pytest.mark.parametrize("leaves", [1, 2, 8, 64])
def test_draws_fall_upon_each_leaf_as_often_as_its_priority_says(leaves):
    """With whole numbers as priorities and the middle of each whole part drawn once, the counts are the priorities, exactly."""
    priorities = np.random.default_rng(leaves).integers(0, 9, leaves)
    priorities[0] += 1
    tree = np.zeros(2 * leaves)
    tree[leaves:] = priorities
    for node in range(leaves - 1, 0, -1):
        tree[node] = tree[2 * node] + tree[2 * node + 1]
    total = priorities.sum()
    places = np.empty(total, np.int64)
    _core.ring_draw(tree, (np.arange(total) + 0.5) / total, places)
    assert (places == np.repeat(np.arange(leaves), priorities)).all()


def test_a_batch_that_does_not_fit():
    ring = shoal.Ring(3, FIELDS)
    ring.append(record(1))
    out = ring.sample(4)
    with pytest.raises(ValueError, match="shape"):
        ring.sample(5, out={**out, "_place": np.empty(5, np.int64)})


def test_bad_priorities_change_nothing():
    ring = shoal.Ring(10, {"x": ((), "i8")}, prioritized=True)
    ring.extend(x=np.arange(10))
    before = ring._tree.copy()
    for places, priorities, error in [
        ([1], [0.0], ValueError), ([1], [-1.0], ValueError), ([1], [float("nan")], ValueError), ([1], [float("inf")], ValueError),
        ([-1], [1.0], IndexError), ([10], [1.0], IndexError), ([2, 99], [5.0, 5.0], IndexError), ([1, 2], [1, 2, 3], ValueError),
    ]:  # fmt: skip
        with pytest.raises(error):
            ring.update_priorities(places, priorities)
    for priority in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError):
            ring.append(x=1, priority=priority)
    assert (ring._tree == before).all() and ring.statistics()["appended"] == 10
    ring.update_priorities([], [])
    ring.update_priorities([1, 2, 1], 4.0)
    assert ring._tree[1] == 8 + 2 * 4.0
    with pytest.raises(ValueError, match="keeps no priorities"):
        shoal.Ring(4, {"x": ((), "i8")}).append(x=1, priority=2.0)


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 64, 100])
def test_the_sums_are_those_of_the_leaves(capacity):
    ring, rng = shoal.Ring(capacity, {"x": ((), "i8")}, prioritized=True), np.random.default_rng(0)
    ring.extend(x=np.arange(capacity))
    for _ in range(20):
        ring.update_priorities(rng.integers(0, capacity, 7), rng.random(7) + 0.1)
    tree = ring._tree
    leaves = len(tree) // 2
    assert all(np.isclose(tree[i], tree[2 * i] + tree[2 * i + 1]) for i in range(1, leaves))
    assert ring.sample(5, prioritized=True)["_probability"].max() <= 1


def test_fields_of_every_kind():
    fields = {
        "record": (2, [("a", "i4"), ("b", "f8", (2,))]), "text": ((), "U5"), "time": ((), "M8[s]"), "big": ((3,), ">i4"),
        "nothing": ((0,), "f4"), "odd": ((3,), "u1"), "wide": ((), np.dtype(("f4", (2,)))),
    }  # fmt: skip
    ring = shoal.Ring(5, fields, prioritized=True)
    zero = np.zeros(2, [("a", "i4"), ("b", "f8", (2,))])
    zero["a"] = 7
    for _ in range(8):
        ring.append(record=zero, text="abc", time=np.datetime64(5, "s"), big=[1, 2, 3], nothing=[], odd=[1, 2, 255], wide=[1, 2])
    batch = ring.sample(3, prioritized=True)
    assert (batch["record"]["a"] == 7).all() and (batch["text"] == "abc").all() and batch["nothing"].shape == (3, 0)
    assert batch["time"][0] == np.datetime64(5, "s") and batch["big"].tolist() == [[1, 2, 3]] * 3
    assert batch["odd"].tolist() == [[1, 2, 255]] * 3 and batch["wide"].tolist() == [[1, 2]] * 3


def test_it_is_made_where_it_stays():
    """No private copy of an empty ring; what does not fit is refused as everywhere."""
    with pytest.raises(shoal.exceptions.ObjectStoreFullError):
        shoal.Ring(10**9, {"frame": ((84, 84), "u1")})
    for wrong in (object, [("a", object)], "V0"):
        with pytest.raises(shoal.exceptions.NotMutableError, match="'x'"):
            shoal.Ring(3, {"x": ((), wrong)})
    with pytest.raises(TypeError):
        shoal.Ring(3, {"x": (2.5, "f4")})
    assert len(shoal.Ring(3, {"x": ((), "f4")}).extend(x=np.zeros(0))) == 0


def test_a_batch_of_another_kind_is_refused():
    ring = shoal.Ring(3, FIELDS)
    ring.append(record(1))
    good = ring.sample(4)
    name = next(iter(FIELDS))
    for wrong in ({**good, name: good[name].astype("f2")}, {**good, name: good[name][:3]}, {}, {name: good[name]}):
        with pytest.raises(ValueError, match="out must be"):
            ring.sample(4, out=wrong)
    assert ring.sample(4, out=good) is good
